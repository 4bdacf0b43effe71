//! From the JSON of a response to an answer.
//!
//! What is not exactly a transaction's answer is unknown: it proves nothing about the transaction.

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::transaction::{Key, READ, from_base64};
use super::value::Value;
use crate::fleet::engine::{Answer, Applied, Ask, Decoded, Denial, Header, View};
use crate::fleet::values::{ClaimKind, Last, Revision, Versioned};

/// A 64-bit number, which JSON has as text. Zero is left out.
#[derive(Clone, Copy, Debug, Default)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A revision, of which etcd has no more than 63 bits: a larger one would make all that follow look as if they
/// had gone back.
#[derive(Clone, Copy, Debug)]
struct RevisionNumber(Revision);

impl<'de> Deserialize<'de> for RevisionNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Number(number) = Number::deserialize(deserializer)?;
        i64::try_from(number).map_err(D::Error::custom)?;
        Ok(Self(Revision(number)))
    }
}

#[derive(Deserialize)]
struct HeaderJson {
    cluster_id: Number,
    #[serde(default)]
    member_id: Number,
    revision: RevisionNumber,
}

#[derive(Deserialize)]
pub(super) struct TransactionJson {
    header: HeaderJson,
    #[serde(default)]
    succeeded: bool,
    responses: Vec<OperationJson>,
}

/// What one operation answers: one of these is there.
#[derive(Deserialize)]
struct OperationJson {
    #[serde(rename = "response_range")]
    range: Option<RangeJson>,
    #[serde(rename = "response_put")]
    put: Option<PutJson>,
    #[serde(rename = "response_delete_range")]
    delete: Option<DeleteJson>,
}

#[derive(Deserialize)]
struct RangeJson {
    #[serde(default)]
    kvs: Vec<KeyValueJson>,
}

#[derive(Deserialize)]
struct PutJson {
    prev_kv: Option<KeyValueJson>,
}

#[derive(Deserialize)]
struct DeleteJson {}

#[derive(Deserialize)]
struct KeyValueJson {
    create_revision: RevisionNumber,
    mod_revision: RevisionNumber,
    #[serde(default)]
    value: String,
}

/// A response whose status says that a transaction was made.
pub(super) fn transaction(body: &[u8]) -> Option<TransactionJson> {
    serde_json::from_slice(body).ok()
}

impl TransactionJson {
    pub(super) fn header(&self) -> Header {
        Header {
            cluster: self.header.cluster_id.0,
            member: self.header.member_id.0,
            revision: self.header.revision.0,
        }
    }

    /// What it says to `ask`.
    pub(super) fn answer(&self, ask: &Ask) -> Decoded {
        let header = Some(self.header());
        let applied = self.succeeded && *ask != Ask::Read;
        let answer = if applied { self.applied(ask) } else { self.seen() };
        Decoded { header, answer: answer.unwrap_or(Answer::Unknown) }
    }

    fn applied(&self, ask: &Ask) -> Option<Answer> {
        let mut applied = Applied { revision: self.header.revision.0, ..Applied::default() };
        if let Ask::Claim { claim, .. } = ask {
            let (puts, ranges) =
                self.responses.split_at_checked(self.responses.len().checked_sub(2)?)?;
            let [result, done] = ranges else { return None };
            // It is applied, whatever else is there: what cannot be read does not matter here.
            applied.result = value(result.range()?).ok().flatten();
            applied.done = value(done.range()?).ok().flatten();
            if claim.kind != ClaimKind::ByHand {
                let before = puts.get(1)?.put.as_ref()?.prev_kv.as_ref();
                applied.last_before = before.and_then(decoded);
            }
        }
        let writes =
            |operation: &OperationJson| operation.put.is_some() || operation.delete.is_some();
        self.responses.first().filter(|first| writes(first))?;
        Some(Answer::Applied(Box::new(applied)))
    }

    fn seen(&self) -> Option<Answer> {
        let ranges = self.ranges()?;
        let ranges: &[&RangeJson; READ.len()] = ranges.as_slice().try_into().ok()?;
        Some(view(self.header.revision.0, ranges))
    }

    /// What a transaction of nothing but ranges answers.
    fn ranges(&self) -> Option<Vec<&RangeJson>> {
        self.responses.iter().map(OperationJson::range).collect()
    }

    /// The answer of a transaction that reads several timers: five keys each, and last the fleet's pause.
    pub(super) fn views(&self, timers: usize) -> Option<Vec<Answer>> {
        let ranges = self.ranges()?;
        let (fleet_pause, of_timers) = ranges.split_last()?;
        if of_timers.len() != timers * (READ.len() - 1) {
            return None;
        }
        let revision = self.header.revision.0;
        of_timers
            .chunks_exact(READ.len() - 1)
            .map(|of_timer| {
                let all: Vec<&RangeJson> = of_timer.iter().copied().chain([*fleet_pause]).collect();
                let all: &[&RangeJson; READ.len()] = all.as_slice().try_into().ok()?;
                Some(view(revision, all))
            })
            .collect()
    }
}

impl OperationJson {
    fn range(&self) -> Option<&RangeJson> {
        self.range.as_ref()
    }
}

/// The value of a key has been written by somebody else.
struct Foreign;

/// What stands in the keys [`READ`].
fn view(revision: Revision, ranges: &[&RangeJson; READ.len()]) -> Answer {
    let [run, last, done, result, pause, fleet_pause] = ranges;
    let modified =
        |range: &RangeJson| range.kvs.first().map_or(Revision(0), |kv| kv.mod_revision.0);
    let foreign = |key: Key, range: &RangeJson| Denial::Foreign {
        key: key.shown(),
        modified: (key != Key::Last).then(|| modified(range)),
        last_modified: modified(last),
        last_due: versioned::<Last>(last).ok().flatten().map(|last| last.value.due),
    };
    let read = || -> Result<View, Denial> {
        Ok(View {
            revision,
            run: versioned(run).map_err(|Foreign| foreign(Key::Run, run))?,
            last: versioned(last).map_err(|Foreign| foreign(Key::Last, last))?,
            done: versioned(done).map_err(|Foreign| foreign(Key::Done, done))?,
            result: versioned(result).map_err(|Foreign| foreign(Key::Result, result))?,
            pause: versioned(pause).map_err(|Foreign| foreign(Key::Pause, pause))?,
            fleet_pause: versioned(fleet_pause)
                .map_err(|Foreign| foreign(Key::FleetPause, fleet_pause))?,
        })
    };
    match read() {
        Ok(view) => Answer::Seen(Box::new(view)),
        Err(denial) => Answer::Denied(denial),
    }
}

fn versioned<T: Value>(range: &RangeJson) -> Result<Option<Versioned<T>>, Foreign> {
    let Some(kv) = range.kvs.first() else { return Ok(None) };
    let value = decoded(kv).ok_or(Foreign)?;
    let [created, modified] =
        [kv.create_revision, kv.mod_revision].map(|RevisionNumber(revision)| revision);
    Ok(Some(Versioned { value, created, modified }))
}

fn value<T: Value>(range: &RangeJson) -> Result<Option<T>, Foreign> {
    versioned(range).map(|found| found.map(|versioned| versioned.value))
}

/// The longest value that is read; ours have less than half of it.
const MOST_VALUE_BYTES: usize = 1024;

fn decoded<T: Value>(kv: &KeyValueJson) -> Option<T> {
    let text = from_base64(&kv.value).filter(|text| text.len() <= MOST_VALUE_BYTES)?;
    T::decode(&text)
}
