//! What is told of all timers: read and written a few at a time, so that other requests do not wait.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::health;
use super::json::{self, History, Host, Pause};
use super::metrics::{Metrics, Sample};
use super::page::{self, Buttons};
use super::response::{self, By, response};
use super::table::{Row, Table};
use super::view::{Configured, View, Worker};
use crate::conf::{TimerConf, WorkerChoice, Write};
use crate::nginx::process;
use crate::nginx::response::{Answer, Body, More, turn_ends};
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
        server: shown(timer.location.first_server_name()),
        location: shown(timer.location.name()),
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
    Gather::of_one(panel, number).gather(look, |_, bodies| {
        Answer::Now(response(200, response::JSON, Body::Whole(bodies.concat().into())))
    })
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
    Gather::of_all(panel).gather(Sample::of, |panel, samples| {
        let mut metrics = Metrics::new(samples, panel.health() != Health::Degraded);
        Answer::Now(response(200, response::METRICS, written_by(move |text| metrics.write(text))))
    })
}

/// A body whose pieces a function appends until it answers `None`.
fn written_by(mut write: impl FnMut(&mut String) -> Option<()> + 'static) -> Body {
    Body::Pieces(Box::new(By(move |piece: &mut Vec<u8>| {
        let mut text = String::new();
        let written = write(&mut text);
        piece.extend_from_slice(text.as_bytes());
        if written.is_some() { More::Yes } else { More::No }
    })))
}

/// The table of all timers.
pub(super) fn text(panel: &Rc<Panel>) -> Answer {
    let look = |view: &View<'_>| Some(Row::of(view));
    Gather::of_all(panel).gather(look, |panel, rows| {
        let mut table = Table::new(rows, remarks(panel));
        Answer::Now(response(200, response::TEXT, written_by(move |text| table.write(text))))
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
    Gather::of_all(panel).gather(complaint, verdict)
}

/// Whether one timer is well.
pub(super) fn health_of(panel: &Rc<Panel>, number: usize) -> Answer {
    Gather::of_one(panel, number).gather(complaint, verdict)
}

fn complaint(view: &View<'_>) -> Option<String> {
    health::complaint(view).map(|complaint| format!("{}: {complaint}\n", view.timer.name))
}

#[expect(clippy::needless_pass_by_value, reason = "`Gather::gather` gives away what it has")]
fn verdict(panel: &Panel, complaints: Vec<String>) -> Answer {
    let mut complaints = complaints.concat();
    if panel.health() == Health::Degraded {
        complaints.push_str("the state is degraded\n");
    }
    if complaints.is_empty() {
        response::text(200, "ok\n".to_owned())
    } else {
        response::text(503, complaints)
    }
}

/// Something of each of some timers, as far as it has been gathered.
struct Gather<T> {
    panel: Rc<Panel>,
    left: Range<usize>,
    gathered: Vec<T>,
    /// The waits for records that somebody is writing.
    steps: Steps,
}

impl<T: 'static> Gather<T> {
    fn of_all(panel: &Rc<Panel>) -> Self {
        Self::of(panel, 0..panel.timers().len())
    }

    fn of_one(panel: &Rc<Panel>, number: usize) -> Self {
        Self::of(panel, number..number + 1)
    }

    fn of(panel: &Rc<Panel>, left: Range<usize>) -> Self {
        let panel = Rc::clone(panel);
        Self { panel, left, gathered: Vec::new(), steps: Steps::default() }
    }

    /// Looks at one timer after the other for one turn; then `finish`es, or goes on in the next
    /// turn.
    fn gather(
        mut self,
        look: impl Fn(&View<'_>) -> Option<T> + 'static,
        finish: impl FnOnce(&Panel, Vec<T>) -> Answer + 'static,
    ) -> Answer {
        let until = turn_ends();
        while !self.left.is_empty() {
            if let Err(after) = self.look_at_next(&look) {
                return Answer::Later(after, Box::new(|_| self.gather(look, finish)));
            }
            if !self.left.is_empty() && Instant::now() >= until {
                let after = Duration::from_millis(1);
                return Answer::Later(after, Box::new(|_| self.gather(look, finish)));
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
        self.gathered.extend(seen.transpose()?.flatten());
        self.left.start += 1;
        Ok(())
    }
}
