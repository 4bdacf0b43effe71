//! The table for the terminal, as `systemctl list-timers` has it.

use std::fmt::Write;

use super::view::{Status, View};
use crate::schedule::UnixMs;

/// A line of the table.
#[derive(Debug)]
pub(super) struct Row {
    next: Option<UnixMs>,
    cells: [String; 6],
}

const HEAD: [&str; 6] = ["NEXT", "LEFT", "LAST", "TOOK", "OUTCOME", "NAME"];

impl Row {
    pub(super) fn of(view: &View<'_>) -> Self {
        let next = view.next_due();
        let last = view.reading.as_ref().and_then(|reading| reading.run.results.first());
        let (last_at, took, outcome) = match last {
            Some(result) => (
                seconds(result.attempt.started_at),
                span(i64::try_from(result.ended.duration.as_millis()).unwrap_or(i64::MAX)),
                match result.ended.status {
                    0 => result.ended.outcome.to_string(),
                    status => format!("{} {status}", result.ended.outcome),
                },
            ),
            None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        let cells = [
            next.map_or_else(|| "-".to_owned(), seconds),
            left(view, next),
            last_at,
            took,
            outcome,
            view.timer.name.clone(),
        ];
        Self { next, cells }
    }
}

/// What becomes of it next: how long until then, or why not.
fn left(view: &View<'_>, next: Option<UnixMs>) -> String {
    let late = || span(i64::try_from(view.late_by().as_millis()).unwrap_or(i64::MAX));
    match view.status() {
        Status::Idle => match next {
            Some(next) if next > view.now => span(next.ms_since(view.now)),
            Some(_) => "now".to_owned(),
            None => "never".to_owned(),
        },
        Status::Late => format!("late {}", late()),
        Status::Running if view.is_late() => format!("running, late {}", late()),
        other => other.to_string(),
    }
}

/// The table, written in pieces.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Row>,
    widths: [usize; 6],
    remarks: Vec<String>,
    next: usize,
}

/// How many rows a piece has.
const ROWS: usize = 64;

impl Table {
    /// The next due time comes first, what has none last.
    pub(super) fn new(mut rows: Vec<Row>, remarks: Vec<String>) -> Self {
        rows.sort_unstable_by(|one, other| {
            let key = |row: &Row| row.next.map_or(i64::MAX, |next| next.0);
            key(one).cmp(&key(other)).then_with(|| one.cells[5].cmp(&other.cells[5]))
        });
        let mut widths = HEAD.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(cell.len());
            }
        }
        Self { rows, widths, remarks, next: 0 }
    }

    /// Appends the next piece; `None` if there is none.
    pub(super) fn write(&mut self, out: &mut String) -> Option<()> {
        if self.next > self.rows.len() {
            return None;
        }
        if self.next == 0 {
            line(&HEAD, self.widths, out);
        }
        for row in self.rows.iter().skip(self.next).take(ROWS) {
            line(&row.cells, self.widths, out);
        }
        self.next += ROWS;
        if self.next <= self.rows.len() {
            return Some(());
        }
        let s = if self.rows.len() == 1 { "" } else { "s" };
        let _ = write!(out, "\n{} timer{s}\n", self.rows.len());
        for remark in &self.remarks {
            let _ = writeln!(out, "{remark}");
        }
        Some(())
    }
}

fn line<T: AsRef<str>>(cells: &[T; 6], widths: [usize; 6], text: &mut String) {
    for (cell, width) in cells.iter().zip(widths).take(5) {
        let _ = write!(text, "{:width$}  ", cell.as_ref());
    }
    text.push_str(cells[5].as_ref());
    text.push('\n');
}

fn seconds(at: UnixMs) -> String {
    let shown = at.rfc3339().to_string();
    match shown.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => shown,
    }
}

/// A time in its two largest units: `1h 5min`, `12s`, `450ms`.
fn span(ms: i64) -> String {
    const UNITS: [(i64, &str); 5] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];

    let ms = ms.max(0);
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
            (-5, "0ms"),
            (0, "0ms"),
            (450, "450ms"),
            (1_450, "1s"),
            (60_000, "1min"),
            (61_000, "1min 1s"),
            (3_600_000 + 59_000, "1h"),
            (90_000_000, "1d 1h"),
            (i64::MAX, "106751991167d 7h"),
        ] {
            assert_eq!(span(ms), shown, "{ms}");
        }
    }
}
