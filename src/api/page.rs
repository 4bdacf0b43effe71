//! The page: one document with everything in it, which reads the JSON from there on.
//!
//! It is the same for everybody but for one attribute, that says whether there are buttons, and the
//! rows of the tables that a browser without scripts shows. Script and style are not touched, so
//! that their hashes, which are all that the policy lets run, stay true.

use std::str::from_utf8;
use std::time::Duration;

use super::piece::Then;
use super::view::View;
use crate::schedule::{Schedule, UnixMs};

/// Whether the page has buttons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buttons {
    /// Run, Cancel, Pause and Resume, with `write=on`.
    Shown,
    /// It shows only.
    LeftOut,
}

/// A timer in the table for browsers without scripts. Any text will do: it is escaped when it is
/// written.
#[derive(Clone, Debug)]
pub(super) struct PageRow {
    name: String,
    status: String,
    health: String,
    schedule: String,
    next_due: String,
    last_start: String,
    last_outcome: String,
    runs: u64,
}

impl PageRow {
    pub(super) fn of(view: &View<'_>) -> Self {
        let shown =
            |at: Option<UnixMs>| at.map_or_else(|| "-".to_owned(), |at| at.rfc3339().to_string());
        let claim = view.reading.as_ref().map(|reading| &reading.claim);
        let last = view.last();
        let whereabouts = view.fleet.map(|fleet| fleet.whereabouts(view.now)).unwrap_or_default();
        let schedule = &view.timer.due_times.schedule;
        Self {
            name: view.timer.name.clone(),
            status: match &whereabouts.now {
                Some(node) => format!("running on {node}"),
                None if whereabouts.is_paused => "paused in the fleet".to_owned(),
                None => view.status().to_string(),
            },
            health: view.health().to_string(),
            schedule: match schedule {
                Schedule::Every(_) => schedule.to_string(),
                Schedule::Cron(cron) => format!("{schedule} {}", cron.zone().name()),
            },
            next_due: shown(view.next_due()),
            last_start: shown(last.map(|last| last.started_at)),
            last_outcome: last.map_or_else(
                || "-".to_owned(),
                |last| match (last.ended.status, &whereabouts.last) {
                    (0, None) => last.ended.outcome.to_string(),
                    (0, Some(node)) => format!("{}, {node}", last.ended.outcome),
                    (status, None) => format!("{} {status}", last.ended.outcome),
                    (status, Some(node)) => format!("{} {status}, {node}", last.ended.outcome),
                },
            ),
            runs: claim.map_or(0, |claim| claim.runs()),
        }
    }
}

const PAGE: &str = include_str!("page.html");
const BUTTONS: (&str, &str) = cut(PAGE, "data-write=\"off\"");
const REMARKS: (&str, &str) = cut(BUTTONS.1, "<!--remarks-->\n");
const ROWS: (&str, &str) = cut(REMARKS.1, "<!--rows-->\n");
const GROUPS: (&str, &str) = cut(ROWS.1, "<!--groups-->\n");

/// `Content-Security-Policy` of the page. A test says what the hashes have to be.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
     script-src 'sha256-jtJZe9dJU8dc+K2kuEWighb4uMnyruHjV6Cag+9ESkA='; \
     style-src 'sha256-tdnlG9dnVOYyV4/+JSGCEmIBhC3pnQeWabMQKQEg9J4='; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page, written a little at a time.
#[derive(Debug)]
pub(super) struct Page {
    buttons: Buttons,
    /// What a browser without scripts says of all timers.
    remarks: Vec<String>,
    rows: usize,
    /// How many timers more there are than rows.
    left_out: usize,
    /// What is to be written before the next part.
    fixed: &'static str,
    next: Section,
}

#[derive(Clone, Copy, Debug)]
enum Section {
    Buttons,
    Remarks,
    Row(usize),
    Group(usize),
    End,
}

/// How much of what is the same for everybody is written at a time.
const CHUNK: usize = 4096;

impl Page {
    pub(super) fn new(
        buttons: Buttons,
        remarks: Vec<String>,
        rows: usize,
        left_out: usize,
    ) -> Self {
        Self { buttons, remarks, rows, left_out, fixed: BUTTONS.0, next: Section::Buttons }
    }

    /// Appends what comes next; `row` is asked for the rows, `group` for the tables of servers, as text.
    pub(super) fn write(
        &mut self,
        mut row: impl FnMut(usize) -> Result<Option<PageRow>, Duration>,
        group: impl Fn(usize) -> Option<String>,
        out: &mut Vec<u8>,
    ) -> Then {
        if !self.fixed.is_empty() {
            let end = (0..=CHUNK).rev().find(|at| self.fixed.is_char_boundary(*at)).unwrap_or(0);
            let (chunk, rest) =
                self.fixed.split_at_checked(end).filter(|_| end > 0).unwrap_or((self.fixed, ""));
            out.extend_from_slice(chunk.as_bytes());
            self.fixed = rest;
            return Then::More;
        }
        let mut text = String::new();
        match self.next {
            Section::Buttons => {
                text.push_str(match self.buttons {
                    Buttons::Shown => "data-write=\"on\"",
                    Buttons::LeftOut => "data-write=\"off\"",
                });
                (self.fixed, self.next) = (REMARKS.0, Section::Remarks);
            }
            Section::Remarks => {
                for remark in &self.remarks {
                    text.push_str("<p>");
                    escape(remark, &mut text);
                    text.push_str("</p>\n");
                }
                (self.fixed, self.next) = (ROWS.0, Section::Row(0));
            }
            Section::Row(number) if number < self.rows => {
                match row(number) {
                    Err(after) => return Then::MoreAfter(after),
                    Ok(row) => row.iter().for_each(|row| write_row(row, &mut text)),
                }
                self.next = Section::Row(number + 1);
            }
            Section::Row(_) => {
                if self.left_out > 0 {
                    text.push_str("<tr><td colspan=\"8\">and ");
                    text.push_str(&self.left_out.to_string());
                    text.push_str(" more</tr>\n");
                }
                (self.fixed, self.next) = (GROUPS.0, Section::Group(0));
            }
            Section::Group(number) => {
                if let Some(table) = group(number) {
                    if number == 0 {
                        text.push_str("<h2>Upstreams</h2>\n<div class=\"scroll whole\"><pre>");
                    }
                    escape(&table, &mut text);
                    self.next = Section::Group(number + 1);
                } else {
                    if number > 0 {
                        text.push_str("</pre></div>\n");
                    }
                    (self.fixed, self.next) = (GROUPS.1, Section::End);
                }
            }
            Section::End => return Then::End,
        }
        out.extend_from_slice(text.as_bytes());
        Then::More
    }
}

fn write_row(row: &PageRow, out: &mut String) {
    let PageRow { name, status, health, schedule, next_due, last_start, last_outcome, runs } = row;
    out.push_str("<tr><th scope=\"row\">");
    escape(name, out);
    for cell in [health, status, schedule, next_due, last_start, last_outcome] {
        out.push_str("<td>");
        escape(cell, out);
    }
    out.push_str("<td>");
    out.push_str(&runs.to_string());
    out.push_str("</tr>\n");
}

/// What comes before and after the first `mark`, when the module is compiled.
const fn cut(text: &'static str, mark: &str) -> (&'static str, &'static str) {
    let (bytes, wanted) = (text.as_bytes(), mark.as_bytes());
    let mut at = 0;
    loop {
        let mut same = 0;
        while same < wanted.len() && bytes[at + same] == wanted[same] {
            same += 1;
        }
        if same == wanted.len() {
            return (part(bytes.split_at(at).0), part(bytes.split_at(at + same).1));
        }
        at += 1;
    }
}

const fn part(bytes: &[u8]) -> &str {
    match from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => "",
    }
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use sha2::{Digest as _, Sha256};

    use super::super::view::{AssignedTo, Configured};
    use super::*;
    use crate::schedule::{Cron, Jitter, Zone};
    use crate::state::{Jittered, Reading, Scheduled};

    fn row() -> PageRow {
        PageRow {
            name: "</noscript><script>".to_owned(),
            status: "idle".to_owned(),
            health: "failed".to_owned(),
            schedule: "cron=0 3 * * \"'&".to_owned(),
            next_due: "-".to_owned(),
            last_start: "-".to_owned(),
            last_outcome: "-".to_owned(),
            runs: 12,
        }
    }

    #[test]
    fn a_row_has_what_the_view_has() {
        let monday = Cron::parse("30 3 * * MON", Zone::utc()).unwrap();
        let timer = Configured {
            name: "a".to_owned(),
            due_times: Jittered {
                schedule: Schedule::Cron(monday),
                jitter: Jitter::new(Duration::ZERO, b"host", "a"),
            },
            scheduled: Scheduled::On,
            worker: AssignedTo::Any,
            server: String::new(),
            location: String::new(),
            config: String::new(),
            timeout: Duration::from_secs(30),
            unhealthy_after: 3,
        };
        // A Tuesday.
        let now = UnixMs::parse_rfc3339("2026-11-24T00:00:00Z").unwrap();
        let view = |reading| View {
            timer: &timer,
            reading,
            now,
            results: &|_| Vec::new(),
            failure_text: &|_| None,
            fleet: None,
        };

        let row = PageRow::of(&view(Some(Reading::anew("a", now))));
        assert_eq!((row.status.as_str(), row.health.as_str()), ("idle", "ok"));
        assert_eq!(row.schedule, "cron=30 3 * * MON UTC");
        assert_eq!(row.next_due, "2026-11-30T03:30:00.000Z");
        assert_eq!((row.last_start.as_str(), row.last_outcome.as_str(), row.runs), ("-", "-", 0));

        let row = PageRow::of(&view(None));
        assert_eq!((row.status.as_str(), row.next_due.as_str()), ("unknown", "-"));
        assert_eq!(row.health, "unknown");
    }

    fn page(buttons: Buttons, rows: &[PageRow], left_out: usize) -> String {
        page_with(buttons, rows, left_out, &[])
    }

    fn page_with(buttons: Buttons, rows: &[PageRow], left_out: usize, groups: &[String]) -> String {
        let remarks = vec!["the state is <b>".to_owned()];
        let mut page = Page::new(buttons, remarks, rows.len(), left_out);
        let mut text = Vec::new();
        let row = |number: usize| Ok(rows.get(number).cloned());
        while page.write(row, |number| groups.get(number).cloned(), &mut text) != Then::End {}
        String::from_utf8(text).unwrap()
    }

    /// What stands between the only `<name>` and its end.
    fn element<'a>(page: &'a str, name: &str) -> &'a str {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        assert_eq!(page.matches(&format!("<{name}")).count(), 1, "{name}");
        assert_eq!(page.matches(&close).count(), 1, "{name}");
        let (_, rest) = page.split_once(&open).unwrap();
        rest.split_once(&close).unwrap().0
    }

    #[test]
    fn the_policy_has_the_hashes_of_what_is_sent() {
        for buttons in [Buttons::Shown, Buttons::LeftOut] {
            let page = page(buttons, &[row()], 1);
            for name in ["script", "style"] {
                let hash = STANDARD.encode(Sha256::digest(element(&page, name)));
                let source = format!("; {name}-src 'sha256-{hash}'; ");
                assert!(CONTENT_SECURITY_POLICY.contains(&source), "page.rs must say {source}");
            }
        }
    }

    #[test]
    fn nothing_comes_from_outside_or_needs_what_the_policy_forbids() {
        for word in ["http:", "https:", "//cdn", "src=", "href=\"", "@import", "url(", "<form"] {
            let namespace = PAGE.replace("'http://www.w3.org/2000/svg'", "");
            assert!(!namespace.contains(word), "{word}");
        }
        for word in [" style=\"", " onclick", "innerHTML", "outerHTML", "insertAdjacent", "eval("] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }

    #[test]
    fn buttons_are_one_attribute() {
        let (shown, left_out) = (page(Buttons::Shown, &[], 0), page(Buttons::LeftOut, &[], 0));
        assert!(shown.starts_with("<!doctype html>\n<html lang=\"en\" data-write=\"on\">\n"));
        assert_eq!(shown.replacen("data-write=\"on\"", "data-write=\"off\"", 1), left_out);
        let remark = PAGE.replace("<!--remarks-->", "<p>the state is &lt;b&gt;</p>");
        assert_eq!(left_out, remark.replace("<!--rows-->\n", "").replace("<!--groups-->\n", ""));
    }

    #[test]
    fn tables_of_servers_are_text() {
        let groups = ["\na<b>\n".to_owned(), "\nc&d\n".to_owned()];
        let page = page_with(Buttons::LeftOut, &[], 0, &groups);
        let html = "</div>\n<h2>Upstreams</h2>\n<div class=\"scroll whole\"><pre>\na&lt;b&gt;\n\nc&amp;d\n</pre></div>\n<p>";
        assert!(page.contains(html), "{page}");
    }

    #[test]
    fn rows_are_text() {
        let page = page(Buttons::LeftOut, &[row(), row()], 3);
        let html = "<tr><th scope=\"row\">&lt;/noscript&gt;&lt;script&gt;<td>failed<td>idle\
                   <td>cron=0 3 * * &quot;&#39;&amp;<td>-<td>-<td>-<td>12</tr>\n";
        let rows = format!("<tbody>\n{html}{html}<tr><td colspan=\"8\">and 3 more</tr>\n</tbody>");
        assert!(page.contains(&rows), "{page}");
    }
}
