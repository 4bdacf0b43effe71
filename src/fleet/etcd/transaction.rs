//! From what is asked to the JSON of a transaction.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};

use super::value::{Value, due_digits};
use crate::fleet::engine::{Ask, Scope};
use crate::fleet::values::{ClaimKind, ClaimRequest, Done, Last, Revision, Run};
use crate::schedule::UnixMs;

/// A key of a timer, or the fleet's pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Run,
    Last,
    Done,
    Result,
    Pause,
    FleetPause,
}

/// All that is read of a timer, in the order of the answer.
pub(super) const READ: [Key; 6] =
    [Key::Run, Key::Last, Key::Done, Key::Result, Key::Pause, Key::FleetPause];

impl Key {
    /// The last part of its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Last => "last",
            Self::Done => "done",
            Self::Result => "result",
            Self::Pause | Self::FleetPause => "pause",
        }
    }

    /// What it is called where somebody reads it.
    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::FleetPause => "pause of the fleet",
            _ => self.name(),
        }
    }

    fn of(scope: Scope) -> Self {
        match scope {
            Scope::Timer => Self::Pause,
            Scope::Fleet => Self::FleetPause,
        }
    }
}

/// The keys of one timer.
pub(super) struct Keys<'a> {
    pub(super) prefix: &'a str,
    pub(super) timer: &'a str,
}

impl Keys<'_> {
    fn base64(&self, key: Key) -> String {
        let Self { prefix, timer } = self;
        match key {
            Key::FleetPause => base64(&format!("{prefix}{}", key.name())),
            _ => base64(&format!("{prefix}{timer}/{}", key.name())),
        }
    }

    fn created(&self, key: Key, revision: Revision) -> Json {
        json!({"key": self.base64(key), "target": "CREATE", "result": "EQUAL",
            "create_revision": revision.0.to_string()})
    }

    fn modified(&self, key: Key, revision: Revision) -> Json {
        json!({"key": self.base64(key), "target": "MOD", "result": "EQUAL",
            "mod_revision": revision.0.to_string()})
    }

    /// `last` is of an earlier due time. Its value goes on after the due time, and compares are of bytes:
    /// nothing may follow the due time here.
    fn is_before(&self, due: UnixMs) -> Json {
        json!({"key": self.base64(Key::Last), "target": "VALUE", "result": "LESS",
            "value": base64(&due_digits(due))})
    }

    fn put(&self, key: Key, value: &impl Value) -> Json {
        json!({"request_put": {"key": self.base64(key), "value": base64(&value.encode())}})
    }

    fn put_and_tell(&self, key: Key, value: &impl Value) -> Json {
        json!({"request_put": {"key": self.base64(key), "value": base64(&value.encode()),
            "prev_kv": true}})
    }

    pub(super) fn range(&self, key: Key) -> Json {
        json!({"request_range": {"key": self.base64(key)}})
    }

    fn delete(&self, key: Key) -> Json {
        json!({"request_delete_range": {"key": self.base64(key)}})
    }

    fn not_paused(&self) -> [Json; 2] {
        [Key::Pause, Key::FleetPause].map(|key| self.created(key, NEVER))
    }
}

/// Of a key that does not exist.
const NEVER: Revision = Revision(0);

/// The conditions and the changes of a transaction.
#[derive(Default)]
struct Transaction {
    compare: Vec<Json>,
    success: Vec<Json>,
}

/// The body for what is asked.
pub(super) fn body(keys: &Keys<'_>, ask: &Ask) -> String {
    let Transaction { compare, success } = transaction(keys, ask);
    let reads = READ.map(|key| keys.range(key));
    if success.is_empty() {
        json!({"success": reads}).to_string()
    } else {
        json!({"compare": compare, "success": success, "failure": reads}).to_string()
    }
}

fn transaction(keys: &Keys<'_>, ask: &Ask) -> Transaction {
    match ask {
        Ask::Read => Transaction::default(),
        Ask::Init { run_created, result_modified, last } => Transaction {
            compare: vec![
                keys.created(Key::Last, NEVER),
                keys.created(Key::Run, *run_created),
                keys.modified(Key::Result, *result_modified),
            ],
            success: vec![keys.put(Key::Last, last)],
        },
        Ask::Claim { claim, result_modified } => claiming(keys, claim, *result_modified),
        Ask::ClaimAgain { claim, last_modified } => Transaction {
            compare: vec![keys.modified(Key::Last, *last_modified), keys.created(Key::Run, NEVER)],
            success: vec![
                keys.put(Key::Run, &Run::of(claim, 0)),
                keys.put(Key::Last, &Last::of(claim)),
            ],
        },
        Ask::Beat { run, created } => Transaction {
            compare: vec![keys.created(Key::Run, *created)],
            success: vec![keys.put(Key::Run, run)],
        },
        Ask::Attempt { claim, created, last_modified, beat } => Transaction {
            compare: vec![
                keys.created(Key::Run, *created),
                keys.modified(Key::Last, *last_modified),
            ],
            success: vec![
                keys.put(Key::Run, &Run::of(claim, *beat)),
                keys.put(Key::Last, &Last::of(claim)),
            ],
        },
        Ask::End { created, result } => {
            let mut success = vec![keys.put(Key::Result, result), keys.delete(Key::Run)];
            if result.trigger != crate::state::Trigger::Manual {
                success.push(keys.put(Key::Done, &Done::of(result)));
            }
            Transaction { compare: vec![keys.created(Key::Run, *created)], success }
        }
        Ask::Close { created, last } => Transaction {
            compare: vec![keys.created(Key::Run, *created), keys.is_before(last.due)],
            success: vec![keys.put(Key::Last, last)],
        },
        Ask::CloseRepetition { last_modified, last } => Transaction {
            compare: vec![keys.modified(Key::Last, *last_modified)],
            success: vec![keys.put(Key::Last, last)],
        },
        Ask::Reset { last_modified, last, removes } => {
            let mut compare = vec![keys.modified(Key::Last, *last_modified)];
            let mut success = vec![keys.put(Key::Last, last)];
            let key = |shown| READ.into_iter().find(|key| key.shown() == shown);
            if let Some((key, modified)) = removes.and_then(|(shown, at)| Some((key(shown)?, at))) {
                compare.push(keys.modified(key, modified));
                success.push(keys.delete(key));
            }
            Transaction { compare, success }
        }
        Ask::Remove { modified, result, is_last } => {
            let mut success = vec![keys.put(Key::Result, result), keys.delete(Key::Run)];
            if *is_last {
                success.push(keys.put(Key::Done, &Done::of(result)));
            }
            Transaction { compare: vec![keys.modified(Key::Run, *modified)], success }
        }
        Ask::Pause(scope, pause) => {
            Transaction { compare: Vec::new(), success: vec![keys.put(Key::of(*scope), pause)] }
        }
        Ask::Resume { scope, timers, ends } => resuming(keys, *scope, timers, *ends),
    }
}

fn claiming(keys: &Keys<'_>, claim: &ClaimRequest, result_modified: Revision) -> Transaction {
    let mut compare = vec![keys.created(Key::Run, NEVER)];
    let mut success = vec![keys.put(Key::Run, &Run::of(claim, 0))];
    match claim.kind {
        ClaimKind::ByHand => compare.push(keys.modified(Key::Result, result_modified)),
        ClaimKind::Due => compare.push(keys.is_before(claim.due)),
        ClaimKind::Repetition { last_modified } => {
            compare.push(keys.modified(Key::Last, last_modified));
        }
    }
    if claim.kind != ClaimKind::ByHand {
        compare.extend(keys.not_paused());
        success.push(keys.put_and_tell(Key::Last, &Last::of(claim)));
    }
    success.extend([keys.range(Key::Result), keys.range(Key::Done)]);
    Transaction { compare, success }
}

fn resuming(
    keys: &Keys<'_>,
    scope: Scope,
    timers: &[(String, Revision, Last)],
    ends: bool,
) -> Transaction {
    let mut transaction = Transaction::default();
    for (timer, modified, last) in timers {
        let of_timer = Keys { prefix: keys.prefix, timer };
        transaction.compare.push(of_timer.modified(Key::Last, *modified));
        transaction.success.push(of_timer.put(Key::Last, last));
    }
    if ends {
        transaction.success.push(keys.delete(Key::of(scope)));
    }
    transaction
}

pub(super) fn base64(text: &str) -> String {
    BASE64.encode(text)
}

pub(super) fn from_base64(text: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(text).ok()?).ok()
}
