//! What the directives say of a timer's runs: shown of one timer, not in the list of all.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::state::{MissedPolicy, OverlapPolicy, RetryPolicy};

/// The request of a timer, and its policies.
#[derive(Debug, Serialize)]
pub(super) struct TimerDefinition {
    pub(super) method: String,
    /// As it is written, with its variables.
    pub(super) uri: String,
    pub(super) jitter_ms: u64,
    #[serde(serialize_with = "overlap")]
    pub(super) overlap: OverlapPolicy,
    #[serde(serialize_with = "missed")]
    pub(super) missed: MissedPolicy,
    #[serde(serialize_with = "retry")]
    pub(super) retry: RetryPolicy,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn overlap<S: Serializer>(policy: &OverlapPolicy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match policy {
        OverlapPolicy::Skip => "skip",
        OverlapPolicy::Queue => "queue",
    })
}

fn missed<S: Serializer>(policy: &MissedPolicy, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Missed {
        policy: &'static str,
        within_ms: Option<u64>,
    }
    let (policy, within_ms) = match policy {
        MissedPolicy::Run { within } => ("run", Some(ms(*within))),
        MissedPolicy::Skip => ("skip", None),
    };
    Missed { policy, within_ms }.serialize(serializer)
}

fn retry<S: Serializer>(policy: &RetryPolicy, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Retry {
        number: u32,
        on: Vec<String>,
        backoff_ms: u64,
        max_ms: u64,
    }
    let RetryPolicy { more, on, backoff, max } = policy;
    let on = on.iter().map(ToString::to_string).collect();
    let shown = Retry { number: *more, on, backoff_ms: ms(*backoff), max_ms: ms(*max) };
    Some(shown).filter(|retry| retry.number > 0).serialize(serializer)
}

/// In milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
