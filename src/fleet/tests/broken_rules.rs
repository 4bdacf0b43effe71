//! The rules of the protocol (docs/protocol.md, "Once per fleet") that the simulator breaks, one at a time. It
//! changes what is sent on its way, or uses the machines wrongly. They know nothing of it.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};

use crate::fleet::engine::Ask;

/// A rule without which a promise breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    // What is sent:
    OneRun,
    NewerThanLast,
    BareDueTime,
    ClaimIsLast,
    AgainOnce,
    AttemptOnce,
    ByHandOnce,
    RemovalIsAResult,
    EndIsDone,
    EndOnce,
    RepetitionOnce,
    InitIfUnknown,
    BeatIsWritten,
    BeatOfOurs,
    RemovalIfUnchanged,
    PauseIsRespected,
    // How the machines are used:
    SameClaimAgain,
    SuccessorGoesOn,
    RecordFirst,
    CloseBeforeOverlap,
    OverlapIsAlive,
    DeadlineFromSending,
    TtlFromArrival,
    GiveUp,
    DoneIsRead,
    ReadFirst,
    ClockGuard,
}

thread_local! {
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Whether this rule is broken in this thread.
pub(super) fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// Does `work` while `rule` is broken.
pub(super) fn without<T>(rule: Rule, work: impl FnOnce() -> T) -> T {
    BROKEN.set(Some(rule));
    let answer = work();
    BROKEN.set(None);
    answer
}

/// The body as it arrives.
pub(super) fn body(ask: &Ask, body: String) -> String {
    let Some(rule) = BROKEN.get() else { return body };
    let mut json: Json = serde_json::from_str(&body).unwrap();
    match (rule, ask) {
        (Rule::NewerThanLast, Ask::Claim { .. }) => drop_compare(&mut json, "last", "VALUE"),
        (Rule::BareDueTime, Ask::Claim { .. } | Ask::Close { .. }) => lengthen_operand(&mut json),
        (Rule::ClaimIsLast, Ask::Claim { .. } | Ask::ClaimAgain { .. }) => {
            drop_put(&mut json, "last");
        }
        (Rule::AgainOnce, Ask::ClaimAgain { .. }) => drop_put(&mut json, "last"),
        (Rule::AttemptOnce, Ask::Attempt { .. })
        | (Rule::ByHandOnce, Ask::Claim { .. })
        | (Rule::RemovalIfUnchanged, Ask::Remove { .. }) => {
            for key in ["last", "result", "run"] {
                drop_compare(&mut json, key, "MOD");
            }
        }
        (Rule::RepetitionOnce, Ask::Claim { .. }) => drop_compare(&mut json, "last", "MOD"),
        (Rule::RemovalIsAResult, Ask::Remove { .. }) => drop_put(&mut json, "result"),
        (Rule::EndIsDone, Ask::End { .. }) => drop_put(&mut json, "done"),
        (Rule::OneRun, Ask::Claim { .. } | Ask::ClaimAgain { .. })
        | (Rule::EndOnce, Ask::End { .. })
        | (Rule::BeatOfOurs, Ask::Beat { .. }) => {
            drop_compare(&mut json, "run", "CREATE");
        }
        (Rule::InitIfUnknown, Ask::Init { .. }) => json["compare"] = json!([]),
        (Rule::BeatIsWritten, Ask::Beat { .. }) => drop_put(&mut json, "run"),
        (Rule::PauseIsRespected, Ask::Claim { .. }) => drop_compare(&mut json, "pause", "CREATE"),
        _ => {}
    }
    json.to_string()
}

fn is_key(key: &Json, name: &str) -> bool {
    let key = String::from_utf8(BASE64.decode(key.as_str().unwrap()).unwrap()).unwrap();
    key.ends_with(&format!("/{name}"))
}

fn drop_compare(body: &mut Json, name: &str, target: &str) {
    if let Some(compares) = body["compare"].as_array_mut() {
        compares.retain(|compare| !is_key(&compare["key"], name) || compare["target"] != target);
    }
}

/// The put is acknowledged, and the key is as it was.
fn drop_put(body: &mut Json, name: &str) {
    for operation in body["success"].as_array_mut().unwrap() {
        if let Some(put) = operation.get_mut("request_put") {
            if is_key(&put["key"], name) {
                put["key"] = json!(BASE64.encode("/nowhere"));
            }
        }
    }
}

/// The operand of the compare of due times goes on as the value does.
fn lengthen_operand(body: &mut Json) {
    for compare in body["compare"].as_array_mut().unwrap() {
        if compare["target"] == "VALUE" {
            let due = BASE64.decode(compare["value"].as_str().unwrap()).unwrap();
            compare["value"] = json!(BASE64.encode([due, b" 9".to_vec()].concat()));
        }
    }
}
