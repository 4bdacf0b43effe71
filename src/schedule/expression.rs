//! Cron expressions, checked item by item before croner reads them.
//!
//! croner is lenient: it replaces names wherever they stand, leaves out empty items of a list, and
//! reads `L` as a day of the week that never comes. What is written here is either meant, or
//! refused with the item and the field that it stands in.

use super::cron_error::{CronError, ItemFault, Unit};

/// A well-formed expression. That it is ever due is not checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    /// As it was written, with single blanks.
    pub(super) text: String,
    /// The same for croner: no nicknames, no names of days and months.
    pub(super) plain: String,
    /// Whether second, minute and hour contain no `*` or `/` (rule R).
    pub(super) fixed_time: bool,
}

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const SUNDAY: u8 = 0;
const SUNDAY_AT_THE_END: u8 = 7;

impl Expression {
    pub(super) fn parse(written: &str) -> Result<Self, CronError> {
        let words: Vec<&str> = written.split_ascii_whitespace().collect();
        let text = words.join(" ");
        let meant = expand(&words)?;
        let fields: Vec<&str> = match meant {
            Some(meaning) => meaning.split(' ').collect(),
            None => words,
        };
        let units = match fields.len() {
            5 => &Unit::ALL[1..],
            6 => &Unit::ALL[..],
            found => return Err(CronError::Fields { found }),
        };

        let mut plain = Vec::with_capacity(fields.len());
        let mut fixed_time = true;
        for (unit, field) in units.iter().zip(fields) {
            plain.push(check_field(*unit, field)?);
            if matches!(unit, Unit::Second | Unit::Minute | Unit::Hour) {
                fixed_time &= !field.contains(['*', '/']);
            }
        }
        Ok(Self { text, plain: plain.join(" "), fixed_time })
    }
}

/// What a nickname stands for; `None` for an expression of fields.
fn expand(words: &[&str]) -> Result<Option<&'static str>, CronError> {
    let Some(first) = words.first() else {
        return Err(CronError::Empty);
    };
    if first.contains('=') {
        return Err(CronError::Assignment((*first).to_owned()));
    }
    if !first.starts_with('@') {
        return Ok(None);
    }
    let known = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(first));
    match (known, words.get(1)) {
        (Some((_, meaning)), None) => Ok(Some(meaning)),
        (Some(_), Some(word)) => {
            Err(CronError::AfterNickname((*first).to_owned(), (*word).to_owned()))
        }
        (None, _) => Err(CronError::Nickname((*first).to_owned())),
    }
}

/// The field as croner is to read it.
fn check_field(unit: Unit, field: &str) -> Result<String, CronError> {
    let (mark, list) = match field.strip_prefix('+') {
        Some(list) if unit == Unit::DayOfWeek => ("+", list),
        _ => ("", field),
    };
    let days = matches!(unit, Unit::DayOfMonth | Unit::DayOfWeek);
    if list == "*" || (list == "?" && days) {
        return Ok(format!("{mark}*"));
    }

    let mut plain = Vec::new();
    for item in list.split(',') {
        let item = check_item(unit, item).map_err(|fault| CronError::Item {
            unit,
            item: item.to_owned(),
            fault,
        })?;
        plain.push(item);
    }
    // croner takes both together for the last working day alone.
    if unit == Unit::DayOfMonth && plain.iter().any(|i| i == "L") && plain.iter().any(|i| i == "LW")
    {
        return Err(CronError::Item { unit, item: list.to_owned(), fault: ItemFault::LastTwice });
    }
    Ok(format!("{mark}{}", plain.join(",")))
}

fn check_item(unit: Unit, item: &str) -> Result<String, ItemFault> {
    match item {
        "" => return Err(ItemFault::Empty),
        "*" => return Err(ItemFault::Alone('*')),
        "?" if matches!(unit, Unit::DayOfMonth | Unit::DayOfWeek) => {
            return Err(ItemFault::Alone('?'));
        }
        _ => {}
    }
    if let Some((range, step)) = item.split_once('/') {
        return check_step(unit, range, step);
    }
    match unit {
        Unit::DayOfMonth => check_day_of_month(item),
        Unit::DayOfWeek => check_day_of_week(item),
        _ => check_range(unit, item),
    }
}

fn check_step(unit: Unit, range: &str, step: &str) -> Result<String, ItemFault> {
    let high = unit.range().1;
    let range = match range {
        "*" => "*".to_owned(),
        _ if range.contains('-') => check_range(unit, range)?,
        _ => return Err(ItemFault::StepWithoutRange),
    };
    match number(step) {
        Some(step) if (1..=high).contains(&step) => Ok(format!("{range}/{step}")),
        _ => Err(ItemFault::Step { high }),
    }
}

fn check_day_of_month(item: &str) -> Result<String, ItemFault> {
    let upper = item.to_ascii_uppercase();
    match upper.strip_suffix('W') {
        _ if upper == "L" || upper == "LW" => Ok(upper),
        Some(day) => Ok(format!("{}W", value(Unit::DayOfMonth, day)?)),
        None => check_range(Unit::DayOfMonth, item),
    }
}

fn check_day_of_week(item: &str) -> Result<String, ItemFault> {
    let unit = Unit::DayOfWeek;
    if let Some((days, nth)) = item.split_once('#') {
        let days = check_range(unit, days)?;
        return match nth {
            "L" | "l" => Ok(format!("{days}#L")),
            "1" | "2" | "3" | "4" | "5" => Ok(format!("{days}#{nth}")),
            _ => Err(ItemFault::Nth),
        };
    }
    match item.strip_suffix(['L', 'l']) {
        Some("") => Err(ItemFault::LastOfWhat),
        Some(day) => Ok(format!("{}#L", value(unit, day)?)),
        None => check_range(unit, item),
    }
}

/// A value, or two of them with a hyphen between.
fn check_range(unit: Unit, item: &str) -> Result<String, ItemFault> {
    let Some((from, to)) = item.split_once('-') else {
        return Ok(value(unit, item)?.to_string());
    };
    let from = value(unit, from)?;
    let named = !to.starts_with(|c: char| c.is_ascii_digit());
    let to = match value(unit, to)? {
        // `FRI-SUN` ends with the week.
        SUNDAY if unit == Unit::DayOfWeek && named && from != SUNDAY => SUNDAY_AT_THE_END,
        to => to,
    };
    if from > to { Err(ItemFault::Reversed) } else { Ok(format!("{from}-{to}")) }
}

fn value(unit: Unit, word: &str) -> Result<u8, ItemFault> {
    let (low, high) = unit.range();
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
        return match number(word) {
            Some(value) if (low..=high).contains(&value) => Ok(value),
            _ => Err(ItemFault::OutOfRange { low, high }),
        };
    }
    let named = (low..).zip(unit.names()).find(|(_, name)| name.eq_ignore_ascii_case(word));
    named.map(|(value, _)| value).ok_or(ItemFault::Unknown)
}

/// Digits only: `parse` alone would take a sign too.
fn number(word: &str) -> Option<u8> {
    if word.bytes().all(|b| b.is_ascii_digit()) { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(written: &str) -> String {
        Expression::parse(written).unwrap_or_else(|e| panic!("{written}: {e}")).plain
    }

    #[test]
    fn names_and_nicknames_become_numbers() {
        for (written, expected) in [
            ("0 9 * jan,Mar-may MON-fri", "0 9 * 1,3-5 1-5"),
            ("0 9 ? * FRI-SUN", "0 9 * * 5-7"),
            ("0 9 * * SUN-TUE", "0 9 * * 0-2"),
            ("0 9 * * SUN-SUN", "0 9 * * 0-0"),
            ("0 9 * * 0,7", "0 9 * * 0,7"),
            ("0 9 * * 5-7", "0 9 * * 5-7"),
            ("0 9 * * fril", "0 9 * * 5#L"),
            ("0 9 * * 5L,sat#l", "0 9 * * 5#L,6#L"),
            ("0 9 * * MON#1,MON#3", "0 9 * * 1#1,1#3"),
            ("0 9 * * FRI-SUN#2", "0 9 * * 5-7#2"),
            ("0 9 13 * +FRI", "0 9 13 * +5"),
            ("0 9 13 * +?", "0 9 13 * +*"),
            ("0 9 L,15 * *", "0 9 L,15 * *"),
            ("0 9 lw,15w * *", "0 9 LW,15W * *"),
            ("05 09 01 * *", "5 9 1 * *"),
            ("5-59/15 */2 */31 */12 */7", "5-59/15 */2 */31 */12 */7"),
            ("@hourly", "0 * * * *"),
            ("@Midnight", "0 0 * * *"),
            (" @weekly\t", "0 0 * * 0"),
        ] {
            assert_eq!(plain(written), expected, "{written}");
        }
    }

    #[test]
    fn is_kept_as_it_was_written_with_single_blanks() {
        let expression = Expression::parse("\t0  9\t* *   Mon ").unwrap();
        assert_eq!(expression.text, "0 9 * * Mon");
        assert_eq!(Expression::parse("@daily").unwrap().text, "@daily");
    }

    #[test]
    fn fixed_time_is_a_matter_of_second_minute_and_hour() {
        for (written, fixed_time) in [
            ("30 2 * * *", true),
            ("30 2,14 */2 * *", true),
            ("0-59 2 * * *", true),
            ("*/15 2 * * *", false),
            ("0-59/15 2 * * *", false),
            ("0 * * * *", false),
            ("*/10 30 2 * * *", false),
            ("10 30 2 * * *", true),
            ("@hourly", false),
            ("@daily", true),
        ] {
            assert_eq!(Expression::parse(written).unwrap().fixed_time, fixed_time, "{written}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let fields = "five fields expected, or six with seconds first, found";
        for (written, says) in [
            ("", "expression is empty"),
            (" \t ", "expression is empty"),
            ("0 3 * *", &*format!("{fields} 4")),
            ("0 0 3 * * * 2026", &*format!("{fields} 7")),
            ("60 3 * * *", r#""60" is out of range 0-59 in minute field"#),
            ("0 24 * * *", r#""24" is out of range 0-23 in hour field"#),
            ("0 0 0 * *", r#""0" is out of range 1-31 in day of month field"#),
            ("0 0 32 * *", r#""32" is out of range 1-31 in day of month field"#),
            ("0 0 1 13 *", r#""13" is out of range 1-12 in month field"#),
            ("0 0 * * 8", r#""8" is out of range 0-7 in day of week field"#),
            ("60 0 0 * * *", r#""60" is out of range 0-59 in second field"#),
            ("0 999999999999999 * * *", r#""999999999999999" is out of range 0-23 in hour field"#),
            ("5-1 * * * *", r#""5-1" is a reversed range in minute field"#),
            ("0 0 * * SAT-MON", r#""SAT-MON" is a reversed range in day of week field"#),
            (
                "0/15 * * * *",
                r#""0/15" has a step without "*" or a range before it in minute field"#,
            ),
            ("/15 * * * *", r#""/15" has a step without "*" or a range before it in minute field"#),
            ("*/0 * * * *", r#""*/0" has a step out of range 1-59 in minute field"#),
            ("*/90 * * * *", r#""*/90" has a step out of range 1-59 in minute field"#),
            ("*/ * * * *", r#""*/" has a step out of range 1-59 in minute field"#),
            ("*/5/5 * * * *", r#""*/5/5" has a step out of range 1-59 in minute field"#),
            ("1,,2 * * * *", "an item of the list is empty in minute field"),
            ("1, * * * *", "an item of the list is empty in minute field"),
            ("0 0 * * +", "an item of the list is empty in day of week field"),
            ("*,5 * * * *", r#""*" must stand alone in minute field"#),
            ("0 0 ?,5 * *", r#""?" must stand alone in day of month field"#),
            ("? * * * *", r#""?" is not a number in minute field"#),
            ("0 0 1 ? *", r#""?" is not a month in month field"#),
            ("0 0 * * MON#6", r##""MON#6" must have 1-5 or "L" after "#" in day of week field"##),
            ("0 0 * * MON#", r##""MON#" must have 1-5 or "L" after "#" in day of week field"##),
            ("0 0 * * 1/2", r#""1/2" has a step without "*" or a range before it in day of week"#),
            ("0 0 1 MON *", r#""MON" is not a month in month field"#),
            ("0 0 * * JAN", r#""JAN" is not a day of the week in day of week field"#),
            ("0 0 * * MONDAY", r#""MONDAY" is not a day of the week in day of week field"#),
            ("0 0 MON * *", r#""MON" is not a day in day of month field"#),
            ("0 0 * * L", r#""L" must have a day before it in day of week field"#),
            ("0 0 L-3 * *", r#""L-3" is not a day in day of month field"#),
            ("0 0 L,LW * *", r#""L,LW" has both "L" and "LW" in day of month field"#),
            ("0 0 15W3 * *", r#""15W3" is not a day in day of month field"#),
            ("0 0 32W * *", r#""32W" is out of range 1-31 in day of month field"#),
            ("0 0 W * *", r#""W" is not a day in day of month field"#),
            ("+5 0 * * *", r#""+5" is not a number in minute field"#),
            ("-5 0 * * *", r#""-5" is not a number in minute field"#),
            ("0 0 * * MON,+TUE", r#""+TUE" is not a day of the week in day of week field"#),
            ("0 5\u{a0}* * * *", r#""5\u{a0}*" is not a number in hour field"#),
            ("0 ٣ * * *", r#""٣" is not a number in hour field"#),
            ("0 0 * * \u{1b}", r#""\u{1b}" is not a day of the week in day of week field"#),
            (
                "@reboot",
                r#"unknown nickname "@reboot", use "first=now" to run a timer once, when it is new"#,
            ),
            ("@nightly", r#"unknown nickname "@nightly""#),
            ("@every 5m", r#"unknown nickname "@every", use "every" parameter for a fixed rate"#),
            ("@daily 5", r#""5" after nickname "@daily""#),
            ("CRON_TZ=UTC 0 3 * * *", r#""CRON_TZ=UTC" before the fields, use "tz" parameter"#),
            ("TZ=UTC 0 3 * * *", r#""TZ=UTC" before the fields, use "tz" parameter"#),
        ] {
            let error = Expression::parse(written).expect_err(written).to_string();
            assert!(error.starts_with(says), "{written}: {error}");
        }
    }

    #[test]
    fn long_items_are_cut_in_messages() {
        let written = format!("{} * * * *", "x".repeat(4000));
        let error = Expression::parse(&written).unwrap_err().to_string();
        assert_eq!(error, format!(r#""{}..." is not a number in minute field"#, "x".repeat(40)));
    }
}
