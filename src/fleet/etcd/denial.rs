//! Which refusals of etcd are definite.
//!
//! Only those that etcd itself has made: they have its `code` and `message`. Whatever else comes with
//! such a status may be from anybody in between.

use serde::Deserialize;

use crate::fleet::engine::{Answer, Denial};

#[derive(Deserialize)]
struct ErrorJson {
    code: u32,
    message: String,
}

/// The answer of a response with another status than 200.
pub(super) fn answer(status: u16, body: &[u8]) -> Answer {
    match denial(status, body) {
        Some(denial) => Answer::Denied(denial),
        None => Answer::Unknown,
    }
}

fn denial(status: u16, body: &[u8]) -> Option<Denial> {
    let error = serde_json::from_slice::<ErrorJson>(body).ok().filter(|error| error.code != 0);
    let Some(ErrorJson { message, .. }) = error else {
        let says =
            |words: &[u8]| body.len() < 512 && body.windows(words.len()).any(|at| at == words);
        return match status {
            // etcd without its gateway.
            404 if body.starts_with(b"404 page not found") => Some(Denial::NoGateway),
            // With client certificates and with users, its gateway takes no certificate that names one.
            400 if says(b"CommonName of client sending a request against gateway") => {
                Some(Denial::Forbidden("the client certificate has a common name".to_owned()))
            }
            _ => None,
        };
    };
    let says = |words: &str| message.contains(words);
    Some(match status {
        401 => Denial::Unauthenticated,
        400 if says("user name is empty") || says("revision of auth store is old") => {
            Denial::Unauthenticated
        }
        400 if says("authentication failed") => Denial::Forbidden(shown(&message)),
        403 => Denial::Forbidden(shown(&message)),
        429 if says("database space exceeded") => Denial::NoSpace,
        400 | 404 => Denial::Invalid(shown(&message)),
        _ => return None,
    })
}

/// The most characters of a message that are shown.
const MOST_CHARS: usize = 128;

/// A message as it may stand in a log.
fn shown(message: &str) -> String {
    let of_one = |char: char| if char.is_ascii_graphic() || char == ' ' { char } else { '?' };
    message.trim_start_matches("etcdserver: ").chars().take(MOST_CHARS).map(of_one).collect()
}
