//! Answers about all timers, or about one: read and written a little at a time, as the client reads, so that
//! other requests do not wait and no answer is kept in memory.

use std::rc::Rc;

use super::day;
use super::json::{self, Extent, Host, Pause};
use super::keyvals;
use super::metrics::Metrics;
use super::page::{self, Buttons, Page};
use super::piece::{Then, Timers as _};
use super::response::{self, body_by, response};
use super::snapshot::Snapshot;
use super::table::Table;
use super::upstreams::{self, Groups, Upstreams as _, write_table};
use super::view::View;
use crate::conf::WriteAccess;
use crate::nginx::http::response::{Answer, Body};
use crate::nginx::process;
use crate::runner::Registry;

/// The JSON of all timers.
pub(super) fn timers(registry: &Rc<Registry>) -> Answer {
    list(registry, write_host, |view, piece| json::write_timer(view, Extent::Listed, piece))
}

/// The last and the next 24 hours of all timers.
pub(super) fn day(registry: &Rc<Registry>) -> Answer {
    let now = |snapshot: &Snapshot, piece: &mut Vec<u8>| {
        let now = snapshot.now().rfc3339();
        piece.extend_from_slice(format!("{{\"now\":\"{now}\"").as_bytes());
    };
    list(registry, now, day::write_day)
}

/// A list of all timers, each written by `write`; `head` writes what comes before it.
fn list(
    registry: &Rc<Registry>,
    head: fn(&Snapshot, &mut Vec<u8>),
    write: fn(&View<'_>, &mut Vec<u8>),
) -> Answer {
    let mut snapshot = Snapshot::now(registry);
    let mut next = None;
    let body = body_by(move |piece| {
        let Some(number) = next else {
            head(&snapshot, piece);
            piece.extend_from_slice(b",\"timers\":[");
            next = Some(0);
            return Then::More;
        };
        let written = snapshot.look(number, |view| {
            piece.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
            write(view, piece);
        });
        match written {
            Err(after) => return Then::MoreAfter(after),
            Ok(Some(())) => next = Some(number + 1),
            Ok(None) => {
                piece.extend_from_slice(b"]}\n");
                return Then::End;
            }
        }
        Then::More
    });
    Answer::Now(response(200, response::JSON, body))
}

/// All but the timers.
fn write_host(snapshot: &Snapshot, piece: &mut Vec<u8>) {
    let (registry, now) = (&snapshot.registry, snapshot.now());
    let state_file = registry.state_file().map(|path| path.to_string_lossy());
    let host = Host {
        version: env!("CARGO_PKG_VERSION"),
        nginx: process::nginx_version(),
        hostname: &process::host_name(),
        state: json::health(registry.health()),
        state_file: state_file.as_deref(),
        tzdata: &registry.zones().to_string(),
        now,
        paused: Pause::of(registry.header().paused, now),
        upstreams: Some(Groups::now().count()).filter(|count| *count > 0),
        keyvals: keyvals::lines(),
    };
    json::write(&host, piece);
    if piece.last() == Some(&b'}') {
        piece.pop();
    }
}

/// The JSON of one timer.
pub(super) fn timer(registry: &Rc<Registry>, number: usize) -> Answer {
    one_timer(Snapshot::now(registry), number)
}

fn one_timer(mut snapshot: Snapshot, number: usize) -> Answer {
    let Some(definition) = snapshot.definition(number) else {
        return Answer::Now(response::not_found());
    };
    let body = snapshot.look(number, |view| {
        let mut body = Vec::new();
        json::write_timer(view, Extent::Whole(&definition), &mut body);
        body.push(b'\n');
        body
    });
    match body {
        Ok(body) => {
            let body = Body::Whole(body.unwrap_or_default().into());
            Answer::Now(response(200, response::JSON, body))
        }
        Err(after) => Answer::Later(after, Box::new(move |_| one_timer(snapshot, number))),
    }
}

/// How many timers the page shows to a browser without scripts.
const STATIC_ROWS: usize = 1000;

/// The page, with what a browser without scripts shows of the timers and of the groups of servers.
pub(super) fn page(registry: &Rc<Registry>, write: WriteAccess) -> Answer {
    let mut snapshot = Snapshot::now(registry);
    let buttons = match write {
        WriteAccess::On => Buttons::Shown,
        WriteAccess::Off => Buttons::LeftOut,
    };
    let shown = registry.timers().len().min(STATIC_ROWS);
    let left_out = registry.timers().len() - shown;
    let mut remarks = snapshot.remarks();
    remarks.extend(keyvals::lines());
    let mut page = Page::new(buttons, remarks, shown, left_out);
    let groups = Groups::now();
    let table = move |number| {
        let mut table = Vec::new();
        write_table(&groups.view(number)?, &mut table);
        Some(String::from_utf8_lossy(&table).into_owned())
    };
    let body = body_by(move |piece| {
        page.write(|number| snapshot.look(number, page::PageRow::of), &table, piece)
    });
    let mut response = response(200, response::HTML, body);
    let policy = page::CONTENT_SECURITY_POLICY;
    response.headers.push(("Content-Security-Policy", policy.into()));
    Answer::Now(response)
}

/// The metrics of all timers.
pub(super) fn metrics(registry: &Rc<Registry>) -> Answer {
    let (mut snapshot, mut metrics) = (Snapshot::now(registry), Metrics::new());
    let (groups, mut of_groups) = (Groups::now(), upstreams::GroupMetrics::default());
    let mut timers_left = true;
    let body = body_by(move |piece| {
        if !timers_left {
            return of_groups.write(&groups, piece);
        }
        let then = metrics.write(&mut snapshot, piece);
        timers_left = then != Then::End;
        if !timers_left {
            keyvals::write_metrics(piece);
        }
        if timers_left { then } else { Then::More }
    });
    Answer::Now(response(200, response::METRICS, body))
}

/// The table of all timers.
pub(super) fn text(registry: &Rc<Registry>) -> Answer {
    let mut snapshot = Snapshot::now(registry);
    let Ok(mut table) = Table::new(snapshot.count()) else { return no_memory() };
    let (groups, mut group) = (Groups::now(), None);
    let body = body_by(move |piece| {
        let Some(number) = group else {
            let then = table.write(&mut snapshot, piece);
            group = (then == Then::End).then_some(0);
            return if group.is_some() { Then::More } else { then };
        };
        let Some(view) = groups.view(number) else { return Then::End };
        write_table(&view, piece);
        group = Some(number + 1);
        Then::More
    });
    Answer::Now(response(200, response::TEXT, body))
}

pub(super) fn no_memory() -> Answer {
    Answer::Now(response::error(503, "no memory"))
}
