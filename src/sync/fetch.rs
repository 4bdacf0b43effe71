//! From the response of a run to the content of a zone.
//!
//! ```text
//!   response ──> build ──> wait for the right to write ──> publish ──> taken
//!      │           └────────── refused: the content stays ─────────────┘
//!      └── 304, or the same as before: the content is up to date
//! ```

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use xxhash_rust::xxh64::Xxh64;

use super::save;
use crate::conf::{Fill, KeyvalZone, now};
use crate::keyval::{Build, Built, Format, Limits, Meta, Publishing, Refusal, Writer};
use crate::nginx::run::{Flow, Receiver, ResponseHead};
use crate::nginx::turn::{InTurns, Stepped};
use crate::os::memory::fallible;
use crate::os::{process, random_bytes, wall_clock};

/// Takes the response of a run for a zone.
pub struct Fetch {
    fill: Fill,
    head: RefCell<Head>,
    body: RefCell<Vec<u8>>,
    /// How long the body is so far.
    len: Cell<u64>,
    hash: RefCell<Xxh64>,
    lost: Cell<Option<Lost>>,
}

/// Why a body was not kept.
#[derive(Clone, Copy)]
enum Lost {
    TooLarge,
    NoMemory,
}

/// What the header of a response says.
#[derive(Default)]
struct Head {
    status: u16,
    /// How long the body is to be.
    length: Option<u64>,
    content_type: Vec<u8>,
    encoding: Vec<u8>,
    etag: Vec<u8>,
}

/// A longer one is left out: the next response is taken as a whole.
const LONGEST_ETAG: usize = 1024;
/// How often to look whether another process still writes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A response that is being taken; dropping it leaves the content as it is.
pub struct Taking {
    _turns: InTurns,
}

impl Fetch {
    /// For the zone of a timer.
    pub fn new(fill: &Fill) -> Rc<Self> {
        Rc::new(Self {
            fill: fill.clone(),
            head: RefCell::default(),
            body: RefCell::default(),
            len: Cell::new(0),
            hash: RefCell::new(Xxh64::new(0)),
            lost: Cell::new(None),
        })
    }

    /// Takes what has come, and tells `on_end` of it, from an event: nothing, or why the content is what it was.
    pub fn take(&self, on_end: impl FnOnce(Result<(), String>) + 'static) -> Taking {
        let mut on_end = Some(on_end);
        let zone = Rc::clone(&self.fill.zone);
        let mut stage = self.begin();
        let turns = InTurns::begin(move || {
            let step = mem::replace(&mut stage, Stage::Ended(Ok(()))).step(&zone);
            match step {
                Step::Goes(next) => {
                    stage = next;
                    Stepped::Again
                }
                Step::Waits(next) => {
                    stage = next;
                    Stepped::After(LOOK_AGAIN)
                }
                Step::Ends(result) => {
                    let why = result.as_ref().err().map(String::as_str);
                    zone.with(|segment| segment.set_refused(why));
                    if result.is_ok() {
                        save::look(&zone);
                    }
                    let result = result.map_err(|why| format!("keyval \"{}\": {why}", zone.name));
                    if let Some(on_end) = on_end.take() {
                        on_end(result);
                    }
                    Stepped::End
                }
            }
        });
        Taking { _turns: turns }
    }

    fn begin(&self) -> Stage {
        let (fill, head) = (&self.fill, self.head.take());
        let body = self.body.take();
        if head.status == 304 {
            return Stage::Ended(renew(&fill.zone, None));
        }
        let format = match format_of(&head.content_type) {
            _ if is_not_all(head.status) => {
                Err(format!("response with status {} is no whole content", head.status))
            }
            _ if !head.encoding.is_empty() && !head.encoding.eq_ignore_ascii_case(b"identity") => {
                Err(format!("response is encoded: {}", head.encoding.escape_ascii()))
            }
            Some(format) => Ok(format),
            None if head.content_type.is_empty() => Err("response has no type".to_owned()),
            None => Err(format!(
                "response of type \"{}\", not application/json or text/plain",
                head.content_type.escape_ascii()
            )),
        };
        let format = match (format, self.lost.get()) {
            (Err(why), _) => return Stage::Ended(Err(why)),
            (_, Some(Lost::TooLarge)) => {
                return Stage::Ended(Err(show(&fill.zone, &Refusal::DoesNotFit)));
            }
            (_, Some(Lost::NoMemory)) => return Stage::Ended(Err("no memory".to_owned())),
            (Ok(_), None) if head.length.is_some_and(|length| length != self.len.get()) => {
                let (len, length) = (self.len.get(), head.length.unwrap_or_default());
                return Stage::Ended(Err(format!("response has {len} bytes instead of {length}")));
            }
            (Ok(format), None) => format,
        };
        let etag = Some(head.etag).filter(|etag| etag.len() <= LONGEST_ETAG).unwrap_or_default();
        let mut hash = self.hash.borrow_mut();
        hash.update(&[format as u8]);
        hash.update(&etag);
        let source = hash.digest();
        let meta = Meta { taken_wall: wall_ms(), taken: now(), source, etag };
        if is_same(fill, source) && renew(&fill.zone, Some(source)).is_ok() {
            return Stage::Ended(Ok(()));
        }
        let KeyvalZone { kind, words, .. } = *fill.zone;
        let limits = Limits { kind, words, min: fill.min };
        let seed = random_bytes::<8>().map_or(source, u64::from_le_bytes);
        Stage::Build(Box::new(Build::new(body, format, limits, meta, seed)))
    }
}

/// Whether a successful response with this status has no body, or a part of one: No Content, Reset Content, Partial
/// Content.
fn is_not_all(status: u16) -> bool {
    matches!(status, 204..=206)
}

fn wall_ms() -> u64 {
    u64::try_from(wall_clock().0).unwrap_or(0)
}

/// Whether the zone has been made from the very same.
fn is_same(fill: &Fill, source: u64) -> bool {
    let is_same = fill.zone.with(|segment| {
        segment.meta().is_some_and(|(_, meta, count, _)| meta.source == source && count >= fill.min)
    });
    is_same.unwrap_or(false)
}

/// The content is up to date: any, or the one that was made from `source`.
fn renew(zone: &KeyvalZone, source: Option<u64>) -> Result<(), String> {
    let renewed = zone.with(|segment| {
        let Some((generation, meta, _, _)) = segment.meta() else { return false };
        let age = now().saturating_sub(segment.up_to_date(generation, meta.taken));
        // What has expired is gone: only its sender can bring it back.
        let is_over = source.is_none() && zone.age().is_some_and(|limit| age > limit.timeout);
        let is_it = source.is_none_or(|source| source == meta.source);
        if is_it && !is_over {
            segment.renew(generation, now());
        }
        is_it && !is_over
    });
    if renewed == Some(true) {
        Ok(())
    } else {
        Err("status 304, but there is no content".to_owned())
    }
}

fn format_of(content_type: &[u8]) -> Option<Format> {
    let name = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if name.eq_ignore_ascii_case(b"application/json") {
        Some(Format::Json)
    } else if name.eq_ignore_ascii_case(b"text/plain") {
        Some(Format::Text)
    } else {
        None
    }
}

/// Why a content was refused, as the log has it.
pub(super) fn show(zone: &KeyvalZone, why: &Refusal) -> String {
    match why {
        Refusal::Line(line, why) => format!("line {line}: {why}"),
        Refusal::DoesNotFit => format!("content does not fit into the zone, {}", zone.size),
        Refusal::TooFew { count, min } => {
            format!("content has {count} keys, at least {min} are required")
        }
        Refusal::NoMemory => "no memory".to_owned(),
    }
}

impl Receiver for Fetch {
    fn head(&self, head: &ResponseHead<'_>) -> Flow {
        self.head.replace(Head {
            status: head.answer_status(),
            length: head.content_length(),
            content_type: head.content_type().to_vec(),
            encoding: head.content_encoding().to_vec(),
            etag: head.etag().to_vec(),
        });
        // Another one, as after an internal redirect, has its own body.
        self.body.borrow_mut().clear();
        self.len.set(0);
        self.hash.borrow_mut().reset(0);
        self.lost.set(None);
        Flow::More
    }

    fn body(&self, piece: &[u8]) -> Flow {
        self.len.set(self.len.get().saturating_add(piece.len() as u64));
        if self.is_full() {
            return Flow::More;
        }
        let mut body = self.body.borrow_mut();
        let lost = if body.len().saturating_add(piece.len()) > self.fill.zone.words * 8 {
            Some(Lost::TooLarge)
        } else if fallible(|| body.try_reserve(piece.len())).is_err() {
            Some(Lost::NoMemory)
        } else {
            body.extend_from_slice(piece);
            self.hash.borrow_mut().update(piece);
            None
        };
        if lost.is_some() {
            *body = Vec::new();
            self.lost.set(lost);
        }
        Flow::More
    }

    fn is_full(&self) -> bool {
        self.lost.get().is_some()
    }

    fn takes_shares(&self) -> bool {
        true
    }
}

/// How far it is.
enum Stage {
    Build(Box<Build>),
    Wait(Built),
    Publish(Box<Publishing>, Held),
    Ended(Result<(), String>),
}

enum Step {
    Goes(Stage),
    Waits(Stage),
    Ends(Result<(), String>),
}

/// The right to write to a zone; given back when it is dropped.
struct Held {
    zone: Rc<KeyvalZone>,
    writer: Option<Writer>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let writer = self.writer.take();
        self.zone.with(|segment| writer.map(|writer| writer.give_back(segment)));
    }
}

impl Stage {
    fn step(self, zone: &Rc<KeyvalZone>) -> Step {
        let gone = || Step::Ends(Err("the zone is gone".to_owned()));
        match self {
            Self::Build(mut build) => match build.step() {
                Ok(None) => Step::Goes(Self::Build(build)),
                Ok(Some(image)) => Step::Goes(Self::Wait(image)),
                Err(why) => Step::Ends(Err(show(zone, &why))),
            },
            Self::Wait(built) => {
                let pid = std::process::id();
                let is_gone = |pid, started| !process::is_alive(pid, started);
                let started = process::start_time(pid);
                let taken = zone.with(|segment| Writer::take(segment, pid, started, is_gone));
                let Some(taken) = taken else { return gone() };
                let Some(writer) = taken else { return Step::Waits(Self::Wait(built)) };
                let held = Held { zone: Rc::clone(zone), writer: Some(writer) };
                let publishing = held.writer.as_ref().and_then(|writer| {
                    zone.with(|segment| Publishing::begin(segment, writer, built).ok()).flatten()
                });
                publishing.map_or_else(gone, |it| Step::Goes(Self::Publish(Box::new(it), held)))
            }
            Self::Publish(mut publishing, held) => {
                let step = held.writer.as_ref().and_then(|writer| {
                    zone.with(|segment| publishing.step(segment, writer).ok()).flatten()
                });
                match step {
                    None => gone(),
                    Some(None) => Step::Goes(Self::Publish(publishing, held)),
                    Some(Some(_)) => Step::Ends(Ok(())),
                }
            }
            Self::Ended(result) => Step::Ends(result),
        }
    }
}
