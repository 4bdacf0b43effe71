//! The table for the terminal, as `systemctl list-timers` has it.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::fleet::Whereabouts;
use super::piece::{Then, Timers};
use super::samples::Sample;
use super::view::{Status, TimerHealth};
use crate::os::memory::{NoMemory, fallible};
use crate::schedule::UnixMs;

/// A line of the table.
struct TableRow([String; COLUMNS]);

const COLUMNS: usize = 7;
const HEAD: [&str; COLUMNS] = ["NEXT", "LEFT", "HEALTH", "LAST", "TOOK", "OUTCOME", "NAME"];

impl TableRow {
    fn of(name: &str, sample: Option<&Sample>, whereabouts: &Whereabouts, now: UnixMs) -> Self {
        let next = next_due(sample);
        let none = || "-".to_owned();
        let (last_at, took, outcome) = match sample.and_then(|it| it.last.zip(Some(it))) {
            Some(((started_at, outcome, status), sample)) => (
                seconds(started_at),
                span(sample.last_duration),
                match status {
                    0 => outcome.to_string(),
                    status => format!("{outcome} {status}"),
                },
            ),
            None => (none(), none(), none()),
        };
        let outcome = match &whereabouts.last {
            Some(host) => format!("{outcome}, {host}"),
            None => outcome,
        };
        let left = sample.map_or_else(|| Status::Unknown.to_string(), |it| left(it, next, now));
        let left = match &whereabouts.now {
            Some(host) => format!("running on {host}"),
            None if whereabouts.is_paused => "paused in the fleet".to_owned(),
            None => left,
        };
        let next = next.map_or_else(none, seconds);
        let health = sample.map_or(TimerHealth::Unknown, |it| it.health).to_string();
        Self([next, left, health, last_at, took, outcome, name.to_owned()])
    }
}

/// Its next due time, if it has one that is known.
fn next_due(sample: Option<&Sample>) -> Option<UnixMs> {
    sample.map(|sample| sample.next_due).filter(|due| *due != UnixMs::default())
}

/// How long until its next due time, or why there is none.
fn left(sample: &Sample, next: Option<UnixMs>, now: UnixMs) -> String {
    match sample.status {
        Status::Idle => match next {
            Some(next) if next > now => span(next.since(now)),
            Some(_) => "now".to_owned(),
            None => "never".to_owned(),
        },
        status @ (Status::Late | Status::Running) => match (status, sample.late) {
            (Status::Late, Some(late)) => format!("late {}", span(late)),
            (_, Some(late)) => format!("{status}, late {}", span(late)),
            (_, None) => status.to_string(),
        },
        other => other.to_string(),
    }
}

/// The table: the next due time comes first, what has none last.
///
/// So that it is no larger for many timers, it does not hold their lines: it looks how wide these are, and then, again
/// and again, for those that come next among the timers that were not written yet.
#[derive(Debug)]
pub(super) struct Table {
    widths: [usize; COLUMNS],
    /// A bit for each timer that was written.
    written: Vec<u64>,
    /// What comes next, in no order while it is looked for.
    chosen: Vec<SortKey>,
    now: Now,
}

/// What the table is ordered by: the next due time, and the timer for its name.
type SortKey = (UnixMs, usize);

/// What is being done; with the number of the timer, or of the line among the chosen ones.
#[derive(Clone, Copy, Debug)]
enum Now {
    Measures(usize),
    Chooses(usize),
    Writes(usize),
}

/// How many timers are looked at, or written, at a time.
const ROWS: usize = 16;
/// How many lines are chosen at a time.
const CHOSEN: usize = 640;
/// How many come into question meanwhile.
const CANDIDATES: usize = CHOSEN + CHOSEN / 2;

impl Table {
    pub(super) fn new(timers: usize) -> Result<Self, NoMemory> {
        let (mut written, mut chosen) = (Vec::new(), Vec::new());
        let words = timers.div_ceil(64);
        fallible(|| written.try_reserve_exact(words))?;
        written.resize(words, 0);
        fallible(|| chosen.try_reserve_exact(CANDIDATES.min(timers)))?;
        Ok(Self { widths: HEAD.map(str::len), written, chosen, now: Now::Measures(0) })
    }

    /// Appends what comes next.
    pub(super) fn write(&mut self, timers: &mut impl Timers, out: &mut Vec<u8>) -> Then {
        let count = timers.count();
        match self.now {
            Now::Measures(from) => {
                for number in (from..count).take(ROWS) {
                    let TableRow(cells) = match row(timers, number) {
                        Ok(row) => row,
                        Err(after) => return Then::MoreAfter(after),
                    };
                    for (width, cell) in self.widths.iter_mut().zip(&cells) {
                        *width = (*width).max(cell.len());
                    }
                    self.now = Now::Measures(number + 1);
                }
                if from + ROWS >= count {
                    line(&HEAD, self.widths, out);
                    self.now = Now::Chooses(0);
                }
            }
            Now::Chooses(from) => {
                for number in (from..count).take(ROWS) {
                    self.now = Now::Chooses(number);
                    if is_set(&self.written, number) {
                        continue;
                    }
                    let next = match timers.sample(number) {
                        Ok(sample) => next_due(sample.as_ref()).unwrap_or(UnixMs(i64::MAX)),
                        Err(after) => return Then::MoreAfter(after),
                    };
                    self.chosen.push((next, number));
                    if self.chosen.len() == CANDIDATES {
                        let order = |one: &SortKey, other: &SortKey| order(&*timers, *one, *other);
                        self.chosen.select_nth_unstable_by(CHOSEN, order);
                        self.chosen.truncate(CHOSEN);
                    }
                }
                self.now = Now::Chooses(from + ROWS);
                if from + ROWS >= count {
                    self.chosen.sort_unstable_by(|one, other| order(&*timers, *one, *other));
                    // Behind these others may come that were given up.
                    self.chosen.truncate(CHOSEN);
                    self.now = Now::Writes(0);
                }
            }
            Now::Writes(from) => {
                for (at, (_, number)) in self.chosen.iter().enumerate().skip(from).take(ROWS) {
                    match row(timers, *number) {
                        Ok(TableRow(cells)) => line(&cells, self.widths, out),
                        Err(after) => return Then::MoreAfter(after),
                    }
                    set(&mut self.written, *number);
                    self.now = Now::Writes(at + 1);
                }
                if from + ROWS >= self.chosen.len() {
                    self.chosen.clear();
                    self.now = Now::Chooses(0);
                    let left: usize = self.written.iter().map(|it| it.count_ones() as usize).sum();
                    if left >= count {
                        write_end(count, &timers.remarks(), out);
                        return Then::End;
                    }
                }
            }
        }
        Then::More
    }
}

fn row(timers: &mut impl Timers, number: usize) -> Result<TableRow, Duration> {
    let sample = timers.sample(number)?;
    let whereabouts = timers.whereabouts(number);
    Ok(TableRow::of(timers.name(number), sample.as_ref(), &whereabouts, timers.now()))
}

fn write_end(count: usize, remarks: &[String], out: &mut Vec<u8>) {
    let s = if count == 1 { "" } else { "s" };
    // Writing to memory cannot fail.
    let _ = write!(out, "\n{count} timer{s}\n");
    for remark in remarks {
        let _ = writeln!(out, "{remark}");
    }
}

fn order(timers: &impl Timers, one: SortKey, other: SortKey) -> Ordering {
    one.0.cmp(&other.0).then_with(|| timers.name(one.1).cmp(timers.name(other.1)))
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

fn line<T: AsRef<str>>(cells: &[T; COLUMNS], widths: [usize; COLUMNS], text: &mut Vec<u8>) {
    for (cell, width) in cells.iter().zip(widths).take(COLUMNS - 1) {
        let _ = write!(text, "{:width$}  ", cell.as_ref());
    }
    let _ = writeln!(text, "{}", cells[COLUMNS - 1].as_ref());
}

/// An instant to the second.
pub(super) fn seconds(at: UnixMs) -> String {
    let shown = at.rfc3339().to_string();
    match shown.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => shown,
    }
}

/// A time in its two largest units: `1h 5min`, `12s`, `450ms`.
pub(super) fn span(time: Duration) -> String {
    const UNITS: [(u128, &str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];

    let ms = time.as_millis();
    let Some(at) = UNITS.iter().position(|(unit, _)| ms >= *unit) else { return "0ms".to_owned() };
    let mut text = String::new();
    let mut rest = ms;
    for (n, (unit, name)) in UNITS.iter().skip(at).take(2).enumerate() {
        let count = rest / unit;
        // Seconds are exact enough.
        if n > 0 && (count == 0 || *unit == 1) {
            break;
        }
        let blank = if n == 0 { "" } else { " " };
        let _ = write!(text, "{blank}{count}{name}");
        rest %= unit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (ms, shown) in [
            (0, "0ms"),
            (450, "450ms"),
            (1_450, "1s"),
            (60_000, "1min"),
            (61_000, "1min 1s"),
            (3_600_000 + 59_000, "1h"),
            (90_000_000, "1d 1h"),
            (i64::MAX as u64, "106751991167d 7h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), shown, "{ms}");
        }
    }
}
