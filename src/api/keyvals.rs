//! Zones of key-value pairs: what they have, since when, and their content.

use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::json::{self, some_instant};
use super::metrics::{escape, head, seconds};
use super::piece::Then;
use super::response::{self, body_by, error, response};
use super::snapshot::Snapshot;
use crate::TimerModule;
use crate::conf::{KeyvalAccess, KeyvalZone, now};
use crate::keyval::{Pairs, refused, without_keys};
use crate::nginx::hooks::with_main;
use crate::nginx::http::response::{Answer, Response};
use crate::os::memory::fallible;
use crate::runner::Registry;
use crate::schedule::UnixMs;

/// A zone, as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct ZoneView {
    zone: String,
    r#type: &'static str,
    /// What one content may take, in bytes.
    size: u64,
    keys: u64,
    bytes: u64,
    /// Seconds since the content was up to date; `None` if there is none.
    age: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    /// Whether the content is too old to be found.
    expired: bool,
    etag: String,
    timer: Option<String>,
    last_run: Option<LastRun>,
    /// Why the last response was refused; `None` if it was taken.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct LastRun {
    #[serde(serialize_with = "some_instant")]
    start: Option<UnixMs>,
    outcome: String,
    status: u16,
}

/// The zones of the configuration in use.
pub(super) fn zones() -> Vec<Rc<KeyvalZone>> {
    with_main::<TimerModule, _>(|main| main.keyval_zones().to_vec()).unwrap_or_default()
}

fn view(zone: &KeyvalZone, access: KeyvalAccess) -> ZoneView {
    let error = zone.with(refused).flatten();
    let error = error.map(|why| match access {
        KeyvalAccess::On => why,
        KeyvalAccess::Off => without_keys(&why),
    });
    let found = zone.with(|segment| {
        let (generation, meta, keys, bytes) = segment.meta()?;
        let age = now().saturating_sub(segment.up_to_date(generation, meta.taken));
        Some((meta.etag, keys, bytes, Duration::from_millis(age)))
    });
    let (etag, keys, bytes, age) = found.flatten().map_or_else(
        || (Vec::new(), 0, 0, None),
        |(etag, keys, bytes, age)| (etag, keys, bytes, Some(age)),
    );
    let expired = age.zip(zone.timeout).is_some_and(|(age, timeout)| age > timeout);
    ZoneView {
        zone: zone.name.clone(),
        r#type: zone.kind.name(),
        size: zone.words as u64 * 8,
        keys,
        bytes,
        age: age.map(in_seconds),
        timeout: zone.timeout.map(in_seconds),
        expired,
        etag: String::from_utf8_lossy(&etag).into_owned(),
        timer: None,
        last_run: None,
        error,
    }
}

/// A duration in seconds, with milliseconds.
#[expect(clippy::cast_precision_loss, reason = "53 bits of milliseconds are 285,000 years")]
fn in_seconds(duration: Duration) -> f64 {
    // As a sum of seconds and a fraction it has more digits than three.
    duration.as_millis() as f64 / 1000.0
}

/// One line for each zone, for the page.
pub(super) fn lines() -> Vec<String> {
    let line = |zone: &Rc<KeyvalZone>| {
        let view = view(zone, KeyvalAccess::Off);
        let s = if view.keys == 1 { "" } else { "s" };
        let age = match view.age {
            None => "nothing fetched yet".to_owned(),
            Some(_) if view.expired => format!("{} key{s}, expired", view.keys),
            Some(age) => format!("{} key{s}, {age:.0} s old", view.keys),
        };
        let refused = view.error.map_or_else(String::new, |why| format!("; refused: {why}"));
        format!("keyval {}: {age}{refused}", view.zone)
    };
    zones().iter().map(line).collect()
}

/// The JSON of all zones.
pub(super) fn list(registry: &Rc<Registry>, access: KeyvalAccess) -> Answer {
    let (zones, mut snapshot, mut next) = (zones(), Snapshot::now(registry), 0);
    let body = body_by(move |piece| {
        let Some(zone) = zones.get(next) else {
            piece.extend_from_slice(if next == 0 { b"{\"keyvals\":[]}\n" } else { b"]}\n" });
            return Then::End;
        };
        let mut view = view(zone, access);
        if let Some(number) = zone.filled_by.get() {
            let run = snapshot.look(number, |timer| {
                let last = timer.last().map(|last| LastRun {
                    start: Some(last.started_at),
                    outcome: last.ended.outcome.to_string(),
                    status: last.ended.status,
                });
                (timer.timer.name.clone(), last)
            });
            match run {
                Err(after) => return Then::MoreAfter(after),
                Ok(Some((name, last))) => (view.timer, view.last_run) = (Some(name), last),
                Ok(None) => {}
            }
        }
        piece.extend_from_slice(if next == 0 { b"{\"keyvals\":[\n" } else { b",\n" });
        json::write(&view, piece);
        next += 1;
        Then::More
    });
    Answer::Now(response(200, response::JSON, body))
}

/// The generation of a zone's content; 0 if there is none.
fn generation_of(zone: &KeyvalZone) -> u64 {
    let current = zone.with(|segment| segment.meta().map(|(generation, ..)| generation));
    current.flatten().unwrap_or(0)
}

/// The content of a zone: an object, of one content alone; it is cut off if that is replaced twice meanwhile.
pub(super) fn content(name: &str, access: KeyvalAccess) -> Result<Answer, Response> {
    if access == KeyvalAccess::Off {
        return Err(error(403, "\"timer_api\" has no \"keyvals=on\" here"));
    }
    let zone = zones().into_iter().find(|zone| zone.name == name);
    let zone = zone.ok_or_else(response::not_found)?;
    let (mut generation, mut at, mut is_first) = (None, 0, true);
    let body = body_by(move |piece| {
        let of = *generation.get_or_insert_with(|| {
            piece.push(b'{');
            generation_of(&zone)
        });
        if of == 0 {
            piece.extend_from_slice(b"}\n");
            return Then::End;
        }
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let next = zone.with(|segment| {
            segment.look(of, |image| {
                let mut pairs = Pairs::from(image, at);
                let next = pairs.next(&mut key, &mut value);
                at = pairs.at();
                next
            })
        });
        match next.flatten() {
            Some(Some(true)) => {
                let room = (key.len() + value.len()) * 6 + 16;
                if fallible(|| piece.try_reserve(room)).is_err() {
                    return Then::Broken;
                }
                piece.extend_from_slice(if is_first { b"\n" } else { b",\n" });
                is_first = false;
                json::write(&String::from_utf8_lossy(&key), piece);
                piece.push(b':');
                json::write(&String::from_utf8_lossy(&value), piece);
                Then::More
            }
            Some(Some(false)) => Then::More,
            Some(None) => {
                piece.extend_from_slice(b"\n}\n");
                Then::End
            }
            None => Then::Broken,
        }
    });
    Ok(Answer::Now(response(200, response::JSON, body)))
}

/// A family: its name, its help, and the sample of a zone, if it has one.
type ZoneFamily = (&'static str, &'static str, fn(&ZoneView) -> Option<String>);

const FAMILIES: [ZoneFamily; 5] = [
    ("nginx_timer_keyval_entries", "Keys in the zone.", |view| Some(view.keys.to_string())),
    ("nginx_timer_keyval_bytes", "What the content takes of the zone.", |view| {
        Some(view.bytes.to_string())
    }),
    ("nginx_timer_keyval_size_bytes", "What a content may take of the zone.", |view| {
        Some(view.size.to_string())
    }),
    (
        "nginx_timer_keyval_age_seconds",
        "Since the content was fetched, or found to be up to date.",
        |view| view.age.map(|age| seconds(Duration::from_secs_f64(age)).to_string()),
    ),
    ("nginx_timer_keyval_timeout_seconds", "How old the content may be.", |view| {
        view.timeout.map(|timeout| seconds(Duration::from_secs_f64(timeout)).to_string())
    }),
];

/// Appends the metrics of all zones.
pub(super) fn write_metrics(out: &mut Vec<u8>) {
    let views: Vec<ZoneView> = zones().iter().map(|zone| view(zone, KeyvalAccess::Off)).collect();
    for (name, help, value) in FAMILIES {
        let mut samples = views.iter().filter_map(|view| Some((view, value(view)?))).peekable();
        if samples.peek().is_some() {
            head(out, name, "gauge", help);
        }
        for (view, value) in samples {
            // Writing to memory cannot fail.
            let _ = writeln!(out, "{name}{{zone=\"{}\"}} {value}", escape(&view.zone));
        }
    }
}
