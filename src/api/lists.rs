//! What is told of all timers: read and written a few at a time, so that other requests do not wait.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::health;
use super::json::{self, History, Host, Pause};
use super::metrics::{Metrics, Sample};
use super::page::{self, Buttons};
use super::response::{self, By, response};
use super::table::{Row, Table};
use super::view::{Configured, View, Worker};
use crate::conf::{TimerConf, WorkerChoice, Write};
use crate::nginx::process;
use crate::nginx::response::{Answer, Body, More, turn_is_spent};
use crate::os::memory::{self, fallible};
use crate::os::wall_clock;
use crate::runner::Panel;
use crate::state::{Health, Steps};

/// Shows one timer to `look`.
pub(super) fn with_view<T>(
    panel: &Panel,
    number: usize,
    look: impl FnOnce(&View<'_>) -> T,
) -> Option<T> {
    let timer = configured(panel.timers().get(number)?, panel.workers());
    let reading = panel.read(number);
    // Read after the record: what another process wrote is not taken for the future.
    let now = wall_clock();
    Some(look(&View { timer: &timer, reading, now }))
}

fn configured(timer: &TimerConf, workers: usize) -> Configured {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Configured {
        name: timer.name.as_str().to_owned(),
        due_times: timer.due_times.clone(),
        scheduled: timer.scheduled,
        worker: match timer.worker {
            WorkerChoice::Any => Worker::Any,
            choice => Worker::Slot(choice.slot(&timer.name, workers)),
        },
        server: shown(&timer.location.first_server_name()),
        location: shown(&timer.location.name()),
        config: timer.place.to_string(),
        timeout: timer.timeout,
    }
}

/// The JSON of all timers.
pub(super) fn timers(panel: &Rc<Panel>) -> Answer {
    let panel = Rc::clone(panel);
    let mut next = None;
    let pieces = By(move |piece: &mut Vec<u8>| {
        let Some(number) = next else {
            write_host(&panel, piece);
            next = Some(0);
            return More::Yes;
        };
        let written = with_view(&panel, number, |view| {
            piece.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
            json::write_timer(view, History::LeftOut, piece);
        });
        if written.is_none() {
            piece.extend_from_slice(b"]}\n");
            return More::No;
        }
        next = Some(number + 1);
        More::Yes
    });
    Answer::Now(response(200, response::JSON, Body::Pieces(Box::new(pieces))))
}

/// All but the timers, up to their list.
fn write_host(panel: &Panel, piece: &mut Vec<u8>) {
    let now = wall_clock();
    let state_file = panel.state_file().map(|path| path.to_string_lossy());
    let host = Host {
        version: env!("CARGO_PKG_VERSION"),
        nginx: process::nginx_version(),
        hostname: &process::host_name(),
        state: json::health(panel.health()),
        state_file: state_file.as_deref(),
        tzdata: &panel.zones().to_string(),
        now,
        paused: Pause::of(panel.header().paused, now),
    };
    json::write(&host, piece);
    if piece.last() == Some(&b'}') {
        piece.pop();
    }
    piece.extend_from_slice(b",\"timers\":[");
}

/// The JSON of one timer.
pub(super) fn timer(panel: &Rc<Panel>, number: usize) -> Answer {
    let look = |view: &View<'_>| {
        let mut body = Vec::new();
        json::write_timer(view, History::Told, &mut body);
        body.push(b'\n');
        Some(body)
    };
    let finish = |_: &Panel, bodies: Gathered<Vec<u8>>| {
        let body = bodies.each.into_iter().next().unwrap_or_default();
        Answer::Now(response(200, response::JSON, Body::Whole(body.into())))
    };
    gather(panel, number..number + 1, Keeps::Shortly, look, finish)
}

/// How many timers the page shows to a browser without scripts.
const STATIC_ROWS: usize = 1000;

/// The page, with what a browser without scripts shows of the timers.
pub(super) fn page(panel: &Rc<Panel>, write: Write) -> Answer {
    let panel = Rc::clone(panel);
    let buttons = match write {
        Write::On => Buttons::Shown,
        Write::Off => Buttons::LeftOut,
    };
    let shown = panel.timers().len().min(STATIC_ROWS);
    let left_out = panel.timers().len() - shown;
    let mut next = None;
    let pieces = By(move |piece: &mut Vec<u8>| {
        let mut text = String::new();
        match next {
            None => page::write_head(buttons, &remarks(&panel), &mut text),
            Some(number) if number < shown => {
                with_view(&panel, number, |view| page::write_row(&page::Row::of(view), &mut text));
            }
            Some(_) => page::write_tail(left_out, &mut text),
        }
        piece.extend_from_slice(text.as_bytes());
        let number = next.map_or(0, |number| number + 1);
        next = Some(number);
        if number > shown { More::No } else { More::Yes }
    });
    let body = Body::Pieces(Box::new(pieces));
    let mut response = response(200, response::HTML, body);
    let policy = page::CONTENT_SECURITY_POLICY;
    response.headers.push(("Content-Security-Policy", policy.into()));
    Answer::Now(response)
}

/// The metrics of all timers.
pub(super) fn metrics(panel: &Rc<Panel>) -> Answer {
    gather(panel, 0..panel.timers().len(), Keeps::Long, Sample::of, |panel, samples| {
        let mut metrics = Metrics::new(samples.each, panel.health() != Health::Degraded);
        let body = written_by(samples.held, move |text| metrics.write(text));
        Answer::Now(response(200, response::METRICS, body))
    })
}

/// A body whose pieces a function appends, from what is `held`, until it answers `None`.
fn written_by(held: Held, mut write: impl FnMut(&mut String) -> Option<()> + 'static) -> Body {
    Body::Pieces(Box::new(By(move |piece: &mut Vec<u8>| {
        let _ = &held;
        let mut text = String::new();
        let written = write(&mut text);
        piece.extend_from_slice(text.as_bytes());
        if written.is_some() { More::Yes } else { More::No }
    })))
}

/// The table of all timers.
pub(super) fn text(panel: &Rc<Panel>) -> Answer {
    let look = |view: &View<'_>| Some(Row::of(view));
    gather(panel, 0..panel.timers().len(), Keeps::Long, look, |panel, rows| {
        let mut table = Table::new(rows.each, remarks(panel));
        let body = written_by(rows.held, move |text| table.write(text));
        Answer::Now(response(200, response::TEXT, body))
    })
}

fn remarks(panel: &Panel) -> Vec<String> {
    let mut remarks = Vec::new();
    let now = wall_clock();
    if let Some(paused) = panel.header().paused.filter(|paused| paused.holds(now)) {
        remarks.push(format!("all timers are paused since {}", paused.since.rfc3339()));
    }
    if panel.health() != Health::Ok {
        remarks.push(format!("the state is {}", json::health(panel.health())));
    }
    remarks
}

/// Whether all timers are well.
pub(super) fn health_of_all(panel: &Rc<Panel>) -> Answer {
    gather(panel, 0..panel.timers().len(), Keeps::Shortly, complaint, verdict)
}

/// Whether one timer is well.
pub(super) fn health_of(panel: &Rc<Panel>, number: usize) -> Answer {
    gather(panel, number..number + 1, Keeps::Shortly, complaint, verdict)
}

fn complaint(view: &View<'_>) -> Option<String> {
    health::complaint(view).map(|complaint| format!("{}: {complaint}\n", view.timer.name))
}

fn verdict(panel: &Panel, complaints: Gathered<String>) -> Answer {
    let Gathered { each, held } = complaints;
    let degraded = panel.health() == Health::Degraded;
    if each.is_empty() && !degraded {
        return response::text(200, "ok\n".to_owned());
    }
    let degraded = degraded.then(|| "the state is degraded\n".to_owned());
    let mut complaints = each.into_iter().chain(degraded);
    let body = written_by(held, move |text| complaints.next().map(|line| text.push_str(&line)));
    Answer::Now(response(503, response::TEXT, body))
}

/// What all answers of this worker together may gather, in bytes; one may always.
const LARGEST: usize = 64 * 1024 * 1024;
/// What is behind the pointers of something that was gathered of a timer, about.
const BEHIND: usize = 256;

thread_local! {
    /// What answers have gathered that were not sent yet, in bytes.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A part of [`HELD`], given back when it is dropped.
struct Held(usize);

impl Held {
    /// `None`: others that were not read yet hold too much.
    fn new(bytes: usize) -> Option<Self> {
        let held = HELD.get();
        if held > 0 && bytes > 0 && held.saturating_add(bytes) > LARGEST {
            return None;
        }
        HELD.set(held + bytes);
        Some(Self(bytes))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.0);
    }
}

/// Something of each of some timers.
struct Gathered<T> {
    each: Vec<T>,
    held: Held,
}

/// Whether what is gathered is kept until a client, who may be slow, has read all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Long,
    Shortly,
}

/// The timers that were not looked at yet, and what was gathered of the others.
struct Gather<T> {
    panel: Rc<Panel>,
    left: Range<usize>,
    gathered: Gathered<T>,
    /// The waits for records that somebody is writing.
    steps: Steps,
}

/// Looks at one timer after the other, in as many turns as that takes; then `finish`es.
fn gather<T: 'static>(
    panel: &Rc<Panel>,
    timers: Range<usize>,
    keeps: Keeps,
    look: impl Fn(&View<'_>) -> Option<T> + 'static,
    finish: impl FnOnce(&Panel, Gathered<T>) -> Answer + 'static,
) -> Answer {
    // A health check does not fail since others read slowly.
    let behind = if keeps == Keeps::Long { size_of::<T>() + BEHIND } else { 0 };
    let Some(held) = Held::new(timers.len().saturating_mul(behind)) else {
        return Answer::Now(response::error(503, "too many answers in progress"));
    };
    let mut each = Vec::new();
    if fallible(|| each.try_reserve_exact(timers.len())).is_err() {
        return no_memory();
    }
    let (panel, gathered) = (Rc::clone(panel), Gathered { each, held });
    Gather { panel, left: timers, gathered, steps: Steps::default() }.go_on(look, finish)
}

fn no_memory() -> Answer {
    Answer::Now(response::error(503, "no memory"))
}

impl<T: 'static> Gather<T> {
    fn go_on(
        mut self,
        look: impl Fn(&View<'_>) -> Option<T> + 'static,
        finish: impl FnOnce(&Panel, Gathered<T>) -> Answer + 'static,
    ) -> Answer {
        while !self.left.is_empty() {
            if !memory::enough() {
                return no_memory();
            }
            if let Err(after) = self.look_at_next(&look) {
                return Answer::Later(after, Box::new(|_| self.go_on(look, finish)));
            }
            if !self.left.is_empty() && turn_is_spent() {
                let after = Duration::from_millis(1);
                return Answer::Later(after, Box::new(|_| self.go_on(look, finish)));
            }
        }
        finish(&self.panel, self.gathered)
    }

    /// `Err`: the next timer's record is being written, and to be looked at again after this time.
    fn look_at_next(&mut self, look: impl Fn(&View<'_>) -> Option<T>) -> Result<(), Duration> {
        let steps = &mut self.steps;
        let seen = with_view(&self.panel, self.left.start, |view| {
            let is_torn = view.reading.is_none();
            match is_torn.then(|| steps.next()).flatten() {
                Some(after) => Err(after),
                None => Ok(look(view)),
            }
        });
        // There is room for all.
        self.gathered.each.extend(seen.transpose()?.flatten());
        self.left.start += 1;
        Ok(())
    }
}
