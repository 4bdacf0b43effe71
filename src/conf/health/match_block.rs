//! `match`.

use std::ffi::CStr;
use std::rc::Rc;

use super::Match;
use crate::TimerModule;
use crate::conf::MainConf;
use crate::conf::parameters::status_range;
use crate::health::matching::{BodyTest, HeaderTest, Sense, StatusTest, Test};
use crate::nginx::conf::{Arguments, HttpDirective, Parsing, Refused, Regex};
use crate::nginx::escaped;
use crate::os::memory::push;

/// `match name { ... }`: tests that a response must pass.
pub struct MatchDirective;

impl HttpDirective for MatchDirective {
    type Module = TimerModule;
    const NAME: &'static CStr = c"match";
    const ARGUMENTS: Arguments = Arguments::OneAndBlock;

    fn set(conf: &mut MainConf, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
        let name = parsing.arguments().next().unwrap_or_default().to_vec();
        if name.is_empty() {
            return Err(Refused::parameter(&name));
        }
        if conf.matches.iter().any(|(other, _)| *other == name) {
            let name = escaped(&name);
            return Err(Refused::Because(format!("duplicate match \"{name}\"")));
        }
        let mut tests = Match::default();
        let required = &mut conf.required;
        parsing.block(|parsing| {
            let known = tests.require.len();
            test(&mut tests, &name, parsing)?;
            for (variable, _) in tests.require.iter().skip(known) {
                push(required, (variable.clone(), parsing.position()))?;
            }
            Ok(())
        })?;
        if tests.is_empty() {
            let name = escaped(&name);
            return Err(Refused::Because(format!("no tests are inside match \"{name}\"")));
        }
        Ok(push(&mut conf.matches, (name, Rc::new(tests)))?)
    }
}

/// Reads one line of the block `name`.
fn test(tests: &mut Match, name: &[u8], parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    let words: Vec<&[u8]> = parsing.arguments().collect();
    let duplicate = |what: &str| {
        let name = escaped(name);
        Err(Refused::Because(format!("duplicate \"{what}\" in match \"{name}\"")))
    };
    match parsing.name() {
        b"status" if tests.status.is_some() => duplicate("status"),
        b"status" => {
            tests.status = Some(status(&words)?);
            Ok(())
        }
        b"header" => {
            let header = header(&words, parsing)?;
            Ok(push(&mut tests.headers, header)?)
        }
        b"body" if tests.body.is_some() => duplicate("body"),
        b"body" => {
            tests.body = Some(body(&words, parsing)?);
            Ok(())
        }
        b"require" => require(tests, &words, parsing),
        other => Err(Refused::parameter(other)),
    }
}

/// `status [!] code|from-to ...`.
fn status(words: &[&[u8]]) -> Result<StatusTest, Refused> {
    let (sense, words) = match words {
        [b"!", rest @ ..] => (Sense::IsNot, rest),
        _ => (Sense::Is, words),
    };
    if words.is_empty() {
        return invalid_number_of_arguments("status");
    }
    let mut ranges = Vec::new();
    for word in words {
        let range = status_range(word, 100..=999).ok_or_else(|| Refused::parameter(word))?;
        push(&mut ranges, range)?;
    }
    Ok(StatusTest { sense, ranges })
}

/// `header name`, `header ! name`, `header name =|!=|~|!~ value`.
fn header(words: &[&[u8]], parsing: &mut Parsing<'_>) -> Result<HeaderTest<Regex>, Refused> {
    let (name, test) = match *words {
        [name] => (name, Test::Present(Sense::Is)),
        [b"!", name] => (name, Test::Present(Sense::IsNot)),
        [name, operator, value] => {
            let source = value.to_vec();
            let test = match operator {
                b"=" => Test::Value(Sense::Is, source),
                b"!=" => Test::Value(Sense::IsNot, source),
                b"~" => Test::Matches(Sense::Is, parsing.regex(value)?, source),
                b"!~" => Test::Matches(Sense::IsNot, parsing.regex(value)?, source),
                other => return Err(Refused::parameter(other)),
            };
            (name, test)
        }
        _ => return invalid_number_of_arguments("header"),
    };
    let token = |byte: &u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(byte);
    if name.is_empty() || name == b"!" || !name.iter().all(token) {
        return Err(Refused::parameter(name));
    }
    Ok(HeaderTest { name: name.to_vec(), test })
}

/// `body ~|!~ regex`.
fn body(words: &[&[u8]], parsing: &mut Parsing<'_>) -> Result<BodyTest<Regex>, Refused> {
    let [operator, source] = *words else { return invalid_number_of_arguments("body") };
    let sense = match operator {
        b"~" => Sense::Is,
        b"!~" => Sense::IsNot,
        other => return Err(Refused::parameter(other)),
    };
    Ok(BodyTest { sense, pattern: parsing.regex(source)?, source: source.to_vec() })
}

/// `require $variable ...`.
fn require(tests: &mut Match, words: &[&[u8]], parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    if words.is_empty() {
        return invalid_number_of_arguments("require");
    }
    for word in words {
        let name = word.strip_prefix(b"$").filter(|name| {
            let valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            !name.is_empty() && name.iter().all(valid)
        });
        let name = name.ok_or_else(|| Refused::parameter(word))?;
        let variable = parsing.variable(name)?;
        push(&mut tests.require, (name.to_vec(), variable))?;
    }
    Ok(())
}

/// As nginx says of its own directives.
fn invalid_number_of_arguments<T>(name: &str) -> Result<T, Refused> {
    Err(Refused::Because(format!("invalid number of arguments in \"{name}\" directive")))
}
