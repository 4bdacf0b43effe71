//! The values of the keys: `last` and `done` are words with blanks in between, the others JSON.
//!
//! Whatever is read may have been written by anybody who has access to the engine. What is not exactly a value
//! of ours is none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::values::{ClaimId, Done, Last, LastResult, Node, Pause, Run};
use crate::schedule::UnixMs;
use crate::state::{RunId, Trigger};

/// The value of a key, as text.
pub(super) trait Value: Sized {
    fn encode(&self) -> String;
    fn decode(text: &str) -> Option<Self>;
}

/// A due time as transactions compare it: compares are of bytes, so it has always 20 digits.
pub(super) fn due_digits(due: UnixMs) -> String {
    format!("{:020}", due.0.max(0))
}

impl Value for Last {
    fn encode(&self) -> String {
        let Self { due, attempt, run, claim, node, schedule } = self;
        let run = run.map_or_else(|| "-".to_owned(), |run| run.to_string());
        let claim = claim.map_or_else(|| "-".to_owned(), |claim| claim.to_string());
        format!("{} {attempt} {run} {claim} {} {schedule:016x}", due_digits(*due), node.as_str())
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let last = Self {
            due: words.next().filter(|due| due.len() == 20).and_then(due)?,
            attempt: number(words.next()?)?,
            run: or_none(words.next()?, run_id)?.into(),
            claim: or_none(words.next()?, claim_id)?.into(),
            node: Node::parse(words.next()?)?,
            schedule: words.next().filter(|hash| hash.len() == 16).and_then(hex)?,
        };
        words.next().is_none().then_some(last)
    }
}

impl Value for Done {
    fn encode(&self) -> String {
        format!("{} {} {}", self.run, self.claim, self.outcome)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let done = Self {
            run: run_id(words.next()?)?,
            claim: claim_id(words.next()?)?,
            outcome: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(done)
    }
}

#[derive(Serialize, Deserialize)]
struct RunJson {
    claim: String,
    run: String,
    node: String,
    due: i64,
    attempt: u32,
    trigger: String,
    ttl_ms: u64,
    beat: u32,
    start: i64,
}

impl Value for Run {
    fn encode(&self) -> String {
        json(&RunJson {
            claim: self.claim.to_string(),
            run: self.id.to_string(),
            node: self.node.as_str().to_owned(),
            due: self.due.0,
            attempt: self.attempt,
            trigger: self.trigger.to_string(),
            ttl_ms: ms(self.ttl),
            beat: self.beat,
            start: self.started_at.0,
        })
    }

    fn decode(text: &str) -> Option<Self> {
        let json: RunJson = serde_json::from_str(text).ok()?;
        Some(Self {
            claim: claim_id(&json.claim)?,
            id: run_id(&json.run)?,
            node: Node::parse(&json.node)?,
            due: instant(json.due)?,
            attempt: attempt(json.attempt)?,
            trigger: trigger(&json.trigger)?,
            ttl: ttl(json.ttl_ms)?,
            beat: json.beat,
            started_at: instant(json.start)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct ResultJson {
    claim: String,
    run: String,
    node: String,
    due: i64,
    attempt: u32,
    trigger: String,
    outcome: String,
    start: i64,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success: Option<i64>,
    failures: u32,
}

impl Value for LastResult {
    fn encode(&self) -> String {
        json(&ResultJson {
            claim: self.claim.to_string(),
            run: self.run.to_string(),
            node: self.node.as_str().to_owned(),
            due: self.due.0,
            attempt: self.attempt,
            trigger: self.trigger.to_string(),
            outcome: self.outcome.to_string(),
            start: self.started_at.0,
            duration_ms: ms(self.duration),
            last_success: self.last_success_at.map(|at| at.0),
            failures: self.consecutive_failures,
        })
    }

    fn decode(text: &str) -> Option<Self> {
        let json: ResultJson = serde_json::from_str(text).ok()?;
        let last_success_at = match json.last_success {
            Some(at) => Some(instant(at)?),
            None => None,
        };
        Some(Self {
            claim: claim_id(&json.claim)?,
            run: run_id(&json.run)?,
            node: Node::parse(&json.node)?,
            due: instant(json.due)?,
            attempt: attempt(json.attempt)?,
            trigger: trigger(&json.trigger)?,
            outcome: json.outcome.parse().ok()?,
            started_at: instant(json.start)?,
            duration: Some(json.duration_ms)
                .filter(|ms| *ms <= LONGEST_MS)
                .map(Duration::from_millis)?,
            last_success_at,
            consecutive_failures: json.failures,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct PauseJson {
    node: String,
    since: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
}

impl Value for Pause {
    fn encode(&self) -> String {
        json(&PauseJson {
            node: self.node.as_str().to_owned(),
            since: self.since.0,
            until: self.until.map(|at| at.0),
        })
    }

    fn decode(text: &str) -> Option<Self> {
        let json: PauseJson = serde_json::from_str(text).ok()?;
        let until = match json.until {
            Some(at) => Some(instant(at)?),
            None => None,
        };
        Some(Self { node: Node::parse(&json.node)?, since: instant(json.since)?, until })
    }
}

/// The longest duration that is believed: the time that the calendar has.
const LONGEST_MS: u64 = 253_402_300_799_999;
const LAST_MS: i64 = 253_402_300_799_999;
/// What `ttl=` allows, in milliseconds. A shorter one would have a run removed under its holder's feet.
const TTL_MS: std::ops::RangeInclusive<u64> = 10_000..=600_000;
const TRIGGERS: [Trigger; 5] =
    [Trigger::Schedule, Trigger::First, Trigger::Missed, Trigger::Queue, Trigger::Manual];

fn json(value: &impl Serialize) -> String {
    // Strings and numbers can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(LONGEST_MS).min(LONGEST_MS)
}

fn instant(ms: i64) -> Option<UnixMs> {
    (0..=LAST_MS).contains(&ms).then_some(UnixMs(ms))
}

fn attempt(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn ttl(ms: u64) -> Option<Duration> {
    TTL_MS.contains(&ms).then(|| Duration::from_millis(ms))
}

fn trigger(name: &str) -> Option<Trigger> {
    TRIGGERS.into_iter().find(|trigger| trigger.to_string() == name)
}

fn due(digits: &str) -> Option<UnixMs> {
    let ms = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(UnixMs(ms))
}

fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// A word of which `-` says that there is none.
enum Word<T> {
    None,
    Some(T),
}

impl<T> From<Word<T>> for Option<T> {
    fn from(word: Word<T>) -> Self {
        match word {
            Word::None => None,
            Word::Some(word) => Some(word),
        }
    }
}

fn or_none<T>(word: &str, read: impl Fn(&str) -> Option<T>) -> Option<Word<T>> {
    if word == "-" { Some(Word::None) } else { read(word).map(Word::Some) }
}

fn hex(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

fn run_id(digits: &str) -> Option<RunId> {
    id(digits).map(RunId)
}

fn claim_id(digits: &str) -> Option<ClaimId> {
    id(digits).map(ClaimId)
}

fn id(digits: &str) -> Option<[u8; 16]> {
    let (high, low) = digits.split_at_checked(16).filter(|(_, low)| low.len() == 16)?;
    let number = u128::from(hex(high)?) << 64 | u128::from(hex(low)?);
    Some(number.to_be_bytes())
}
