//! What can be wrong with a cron expression, and where.

use std::error::Error;
use std::fmt;

/// Why a cron expression is refused: a lower-case fragment that says what is wrong and where, to
/// stand after `invalid cron expression "...": `, or for [`CronError::NeverDue`] after
/// `cron expression "..." `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronError {
    /// There is nothing but blanks.
    Empty,
    /// Too few or too many fields.
    Fields {
        /// How many there are.
        found: usize,
    },
    /// A word that begins with `@` and is no nickname.
    Nickname(String),
    /// A nickname, and a word that follows it.
    AfterNickname(String, String),
    /// A setting as `CRON_TZ=UTC` before the fields.
    Assignment(String),
    /// An item of a field is wrong.
    Item {
        /// The field.
        unit: Unit,
        /// The item, as it was written.
        item: String,
        /// What is wrong with it.
        fault: ItemFault,
    },
    /// croner refuses what was found to be well-formed.
    Croner(String),
    /// Well-formed, but no day ever fits, as the 31st of February.
    NeverDue,
}

/// The fields of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

/// What is wrong with an item of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemFault {
    /// Nothing stands between two commas.
    Empty,
    /// This character must be the whole field.
    Alone(char),
    /// Neither a number nor a name of this field.
    Unknown,
    /// A number that is too low or too high.
    OutOfRange {
        /// The lowest value.
        low: u8,
        /// The highest value.
        high: u8,
    },
    /// A range that ends before it begins.
    Reversed,
    /// `0/15` or `/15`.
    StepWithoutRange,
    /// A step of 0, above the highest value, or no number.
    Step {
        /// The longest step.
        high: u8,
    },
    /// What follows `#` is not one of 1 to 5 and `L`.
    Nth,
    /// `L` alone as a day of the week.
    LastOfWhat,
    /// `L` and `LW` in one list.
    LastTwice,
}

impl CronError {
    /// Whether the expression is well-formed, and no day ever fits.
    pub fn is_never_due(&self) -> bool {
        matches!(self, Self::NeverDue)
    }
}

impl Error for CronError {}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("expression is empty"),
            Self::Fields { found } => {
                write!(f, "five fields expected, or six with seconds first, found {found}")
            }
            Self::Nickname(name) if name.eq_ignore_ascii_case("@every") => {
                write!(f, r#"unknown nickname "@every", use "every" parameter for a fixed rate"#)
            }
            Self::Nickname(name) if name.eq_ignore_ascii_case("@reboot") => {
                let what = r#"use "first=now" to run a timer once, when it is new"#;
                write!(f, r#"unknown nickname "@reboot", {what}"#)
            }
            Self::Nickname(name) => write!(f, "unknown nickname {}", Quoted(name)),
            Self::AfterNickname(name, word) => {
                write!(f, "{} after nickname {}", Quoted(word), Quoted(name))
            }
            Self::Assignment(word) => {
                write!(f, r#"{} before the fields, use "tz" parameter"#, Quoted(word))
            }
            Self::Item { unit, item, fault } => write_item(f, *unit, item, *fault),
            Self::Croner(message) => f.write_str(message),
            Self::NeverDue => f.write_str("is never due"),
        }
    }
}

fn write_item(f: &mut fmt::Formatter<'_>, unit: Unit, item: &str, fault: ItemFault) -> fmt::Result {
    let shown = Quoted(item);
    match fault {
        ItemFault::Empty => f.write_str("an item of the list is empty"),
        ItemFault::Alone(c) => write!(f, "\"{c}\" must stand alone"),
        ItemFault::Unknown => write!(f, "{shown} is not a {}", unit.value_name()),
        ItemFault::OutOfRange { low, high } => write!(f, "{shown} is out of range {low}-{high}"),
        ItemFault::Reversed => write!(f, "{shown} is a reversed range"),
        ItemFault::StepWithoutRange => {
            write!(f, r#"{shown} has a step without "*" or a range before it"#)
        }
        ItemFault::Step { high } => write!(f, "{shown} has a step out of range 1-{high}"),
        ItemFault::Nth => write!(f, r##"{shown} must have 1-5 or "L" after "#""##),
        ItemFault::LastOfWhat => write!(f, "{shown} must have a day before it"),
        ItemFault::LastTwice => write!(f, r#"{shown} has both "L" and "LW""#),
    }?;
    write!(f, " in {} field", unit.name())
}

/// In double quotes, without control characters, and not endless: an API request may have sent it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 40;
        let (shown, rest) = match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => (&self.0[..end], "..."),
            None => (self.0, ""),
        };
        write!(f, "\"{}{rest}\"", shown.escape_debug())
    }
}

impl Unit {
    pub(super) const ALL: [Self; 6] =
        [Self::Second, Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    /// The lowest and the highest value.
    pub(super) fn range(self) -> (u8, u8) {
        match self {
            Self::Second | Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    /// The names of the values from the lowest on.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &[
                "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
            ],
            Self::DayOfWeek => &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
            _ => &[],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        }
    }

    fn value_name(self) -> &'static str {
        match self {
            Self::Second | Self::Minute | Self::Hour => "number",
            Self::DayOfMonth => "day",
            Self::Month => "month",
            Self::DayOfWeek => "day of the week",
        }
    }
}
