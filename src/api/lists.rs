//! What is told of all timers: read and written a few at a time, so that other requests do not wait.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::health;
use super::json::{self, History, Host, Pause};
use super::metrics::{Metrics, Sample};
use super::page::{self, Buttons};
use super::response::{self, By, response};
use super::table::{self, Row};
use super::view::{Configured, View, Worker};
use crate::conf::{TimerConf, WorkerChoice, Write};
use crate::nginx::handler::ClientRequest;
use crate::nginx::process;
use crate::nginx::response::{Answer, Body, More, TURN};
use crate::os::wall_clock;
use crate::runner::Panel;
use crate::state::Health;

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
pub(super) fn timer(panel: &Panel, number: usize) -> Option<Answer> {
    let mut body = Vec::new();
    with_view(panel, number, |view| json::write_timer(view, History::Told, &mut body))?;
    body.push(b'\n');
    Some(Answer::Now(response(200, response::JSON, Body::Whole(body.into()))))
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
            None => page::write_head(buttons, &mut text),
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
    gather(Rc::clone(panel), Vec::new(), 0, Sample::of, |panel, samples| {
        let mut metrics = Metrics::new(samples, panel.health() != Health::Degraded);
        let pieces = By(move |piece: &mut Vec<u8>| {
            let mut text = String::new();
            let written = metrics.write(&mut text);
            piece.extend_from_slice(text.as_bytes());
            if written.is_some() { More::Yes } else { More::No }
        });
        Answer::Now(response(200, response::METRICS, Body::Pieces(Box::new(pieces))))
    })
}

/// The table of all timers.
pub(super) fn text(panel: &Rc<Panel>) -> Answer {
    gather(
        Rc::clone(panel),
        Vec::new(),
        0,
        |view| Some(Row::of(view)),
        |panel, mut rows| {
            let mut body = Vec::new();
            table::write(&mut rows, &remarks(panel), &mut body);
            Answer::Now(response(200, response::TEXT, Body::Whole(body.into())))
        },
    )
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
    let complaint = |view: &View<'_>| {
        health::complaint(view).map(|complaint| format!("{}: {complaint}\n", view.timer.name))
    };
    gather(Rc::clone(panel), Vec::new(), 0, complaint, |panel, complaints| {
        verdict(panel, complaints.concat())
    })
}

/// Whether one timer is well.
pub(super) fn health_of(panel: &Panel, number: usize) -> Option<Answer> {
    let complaint = with_view(panel, number, |view| {
        health::complaint(view).map(|complaint| format!("{}: {complaint}\n", view.timer.name))
    })?;
    Some(verdict(panel, complaint.unwrap_or_default()))
}

fn verdict(panel: &Panel, mut complaints: String) -> Answer {
    if panel.health() == Health::Degraded {
        complaints.push_str("the state is degraded\n");
    }
    if complaints.is_empty() {
        response::text(200, "ok\n".to_owned())
    } else {
        response::text(503, complaints)
    }
}

/// Gathers something of each timer, from number `next` on, for one turn; then `finish`es, or goes
/// on in the next turn.
fn gather<T: 'static>(
    panel: Rc<Panel>,
    mut gathered: Vec<T>,
    mut next: usize,
    look: impl Fn(&View<'_>) -> Option<T> + 'static,
    finish: impl FnOnce(&Panel, Vec<T>) -> Answer + 'static,
) -> Answer {
    let until = Instant::now() + TURN;
    loop {
        let Some(one) = with_view(&panel, next, &look) else { return finish(&panel, gathered) };
        gathered.extend(one);
        next += 1;
        if Instant::now() >= until {
            let go_on = move |_: &ClientRequest<'_>| gather(panel, gathered, next, look, finish);
            return Answer::Later(Duration::from_millis(1), Box::new(go_on));
        }
    }
}
