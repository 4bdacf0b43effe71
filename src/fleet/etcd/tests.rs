//! Answers of etcd 3.4.23, as captured, and whatever else may come in their place.

use super::*;
use crate::fleet::engine::Denial;
use crate::fleet::tests::etcd::Store;
use crate::fleet::values::{ClaimId, ClaimKind, ClaimRequest, Last, Node, Pause, Revision, Run};
use crate::schedule::{UnixMs, stable_hash};
use crate::state::{RunId, Trigger};

fn engine() -> Etcd {
    Etcd::new("/nginx-timer/", "prod")
}

fn read(status: u16, body: &str) -> Answer {
    engine().decode(&Ask::Read, Response { status, body: body.as_bytes() }).answer
}

fn claim() -> ClaimRequest {
    ClaimRequest {
        id: ClaimId([7; 16]),
        kind: ClaimKind::Due,
        run: RunId([8; 16]),
        due: UnixMs(1_700_000_000_000),
        attempt: 1,
        trigger: Trigger::Schedule,
        started_at: UnixMs(1_700_000_000_001),
        node: Node::parse("web-1.example").unwrap(),
        ttl: std::time::Duration::from_secs(30),
        schedule: 9,
    }
}

#[test]
fn what_etcd_refuses_is_told_apart() {
    let refused = |status, message: &str, code| {
        read(status, &format!(r#"{{"error":"{message}","message":"{message}","code":{code}}}"#))
    };
    let forbidden = |message: &str| Answer::Denied(Denial::Forbidden(message.to_owned()));
    for (status, message, code, expected) in [
        (400, "etcdserver: user name is empty", 3, Answer::Denied(Denial::Unauthenticated)),
        (401, "etcdserver: invalid auth token", 16, Answer::Denied(Denial::Unauthenticated)),
        (
            400,
            "etcdserver: revision of auth store is old",
            3,
            Answer::Denied(Denial::Unauthenticated),
        ),
        (403, "etcdserver: permission denied", 7, forbidden("permission denied")),
        (
            400,
            "etcdserver: authentication failed, invalid user ID or password",
            3,
            forbidden("authentication failed, invalid user ID or password"),
        ),
        (429, "etcdserver: mvcc: database space exceeded", 8, Answer::Denied(Denial::NoSpace)),
        (429, "etcdserver: too many requests", 8, Answer::Unknown),
        (
            400,
            "etcdserver: duplicate key given in txn request",
            3,
            Answer::Denied(Denial::Invalid("duplicate key given in txn request".to_owned())),
        ),
        (500, "context deadline exceeded", 2, Answer::Unknown),
        (503, "etcdserver: request timed out", 14, Answer::Unknown),
    ] {
        assert_eq!(refused(status, message, code), expected, "{message}");
    }
    assert_eq!(read(404, "404 page not found\n"), Answer::Denied(Denial::NoGateway));
    for (status, body) in [
        (404, "<html><head><title>404 Not Found</title></head></html>"),
        (403, "<html>403 Forbidden</html>"),
        (400, r#"{"message":"etcdserver: user name is empty"}"#),
        (200, "<html>no</html>"),
        (200, ""),
        (200, "{}"),
        (200, r#"{"header":{"revision":"5"}}"#),
        (200, r#"{"header":{},"responses":[]}"#),
        (200, r#"{"header":{"revision":"-5"},"responses":[]}"#),
        (204, ""),
    ] {
        assert_eq!(read(status, body), Answer::Unknown, "{status} {body}");
    }
}

#[test]
fn a_message_cannot_forge_a_line_of_a_log() {
    let body = r#"{"message":"no\n2024/01/01 [alert] \u001b[31m","code":7}"#;
    let Answer::Denied(Denial::Forbidden(message)) = read(403, body) else { panic!() };
    assert_eq!(message, "no?2024/01/01 [alert] ?[31m");
}

/// As 3.4.23 answers a claim that is applied: what is zero, false or empty is left out.
#[test]
fn a_claim_that_is_applied() {
    let ask = Ask::Claim { claim: claim(), result_modified: Revision(0) };
    let body = r#"{"header":{"cluster_id":"13145716370518538330","member_id":"13443049499400426158","revision":"24","raft_term":"2"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"24"}}},{"response_put":{"header":{"revision":"24"}}},{"response_range":{"header":{"revision":"24"}}},{"response_range":{"header":{"revision":"24"}}}]}"#;
    let decoded = engine().decode(&ask, Response { status: 200, body: body.as_bytes() });
    let Answer::Applied(applied) = decoded.answer else { panic!("{decoded:?}") };
    assert_eq!((applied.revision, applied.result, applied.done), (Revision(24), None, None));
    assert_eq!(decoded.header.unwrap().cluster, 13_145_716_370_518_538_330);
}

/// The responses of a store that has all keys, to all that can be read.
fn full() -> (Store, String) {
    let mut store = Store::default();
    let claim = claim();
    let run = Run::of(&claim, 0);
    let result = crate::fleet::LastResult::of(
        &run,
        None,
        crate::fleet::Outcome::Success,
        UnixMs(1),
        std::time::Duration::from_millis(5),
    );
    let pause = Pause { node: claim.node.clone(), since: UnixMs(3), until: Some(UnixMs(4)) };
    let init = Last::without_run(UnixMs(5), claim.node.clone(), 6);
    for ask in [
        Ask::Init { run_created: Revision(0), result_modified: Revision(0), last: init },
        Ask::Claim { claim: claim.clone(), result_modified: Revision(0) },
        Ask::End { created: Revision(3), result },
        Ask::ClaimAgain { claim, last_modified: Revision(3) },
        Ask::Pause(crate::fleet::Scope::Timer, pause.clone()),
        Ask::Pause(crate::fleet::Scope::Fleet, pause),
    ] {
        let answer = store.transaction(&engine().request("a", &ask).body);
        assert!(answer.contains(r#""succeeded":true"#), "{ask:?}: {answer}");
    }
    let read = store.transaction(&engine().request("a", &Ask::Read).body);
    (store, read)
}

#[test]
fn all_values_are_read_as_they_were_written() {
    let (_, body) = full();
    let Answer::Seen(view) = read(200, &body) else { panic!("{body}") };
    assert_eq!(view.run.unwrap().value, Run::of(&claim(), 0));
    assert_eq!(view.last.unwrap().value, Last::of(&claim()));
    assert_eq!(view.done.unwrap().value.claim, ClaimId([7; 16]));
    assert_eq!(view.result.unwrap().value.last_success_at, Some(UnixMs(1)));
    assert_eq!(view.pause.unwrap().value.until, Some(UnixMs(4)));
    assert!(view.fleet_pause.is_some());
}

/// Several timers in one answer, and not one more or less.
#[test]
fn several_timers_are_read_at_once() {
    let (mut store, one) = full();
    let body = store.transaction(&engine().read_many(&["a", "b"]).body);
    let response = Response { status: 200, body: body.as_bytes() };
    let (_, views) = engine().decode_many(2, response);
    let views = views.unwrap();
    assert_eq!(views[0], read(200, &one));
    let Answer::Seen(other) = &views[1] else { panic!() };
    assert!(other.run.is_none() && other.fleet_pause.is_some());
    assert_eq!(engine().decode_many(3, response).1, Err(Answer::Unknown));
}

/// A value under the prefix that is somebody else's is an error of the engine, whichever it is.
#[test]
fn values_of_others_are_not_read() {
    let (_, body) = full();
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let garbage = ["", "x", "{}", "null", "\u{0}", &"9".repeat(2000), &"[".repeat(900)];
    for (index, key) in READ.into_iter().enumerate() {
        for value in garbage {
            let mut json = json.clone();
            json["responses"][index]["response_range"]["kvs"][0]["value"] =
                transaction::base64(value).into();
            let answer = read(200, &json.to_string());
            let Answer::Denied(Denial::Foreign { key: named, modified, last_due, .. }) = answer
            else {
                panic!("{key:?} {value}: {answer:?}")
            };
            let is_last = key == Key::Last;
            assert_eq!(
                (named, modified.is_none(), last_due.is_none()),
                (key.shown(), is_last, is_last)
            );
        }
    }
}

/// A reset removes no other value than that which was found.
#[test]
fn a_reset_removes_what_was_not_readable() {
    let last = Last::without_run(UnixMs(5), Node::default(), 1);
    for key in READ.into_iter().filter(|key| *key != Key::Last) {
        let removes = Some((key.shown(), Revision(9)));
        let ask = Ask::Reset { last_modified: Revision(7), last: last.clone(), removes };
        let body: serde_json::Value =
            serde_json::from_str(&engine().request("x", &ask).body).unwrap();
        let path = if key == Key::FleetPause {
            "/nginx-timer/prod/pause".to_owned()
        } else {
            format!("/nginx-timer/prod/x/{}", key.name())
        };
        assert_eq!(body["compare"][1]["key"], transaction::base64(&path), "{body}");
        assert_eq!(body["compare"][1]["mod_revision"], "9");
        assert_eq!(body["success"][1]["request_delete_range"]["key"], transaction::base64(&path));
    }
    let ask = Ask::Reset { last_modified: Revision(7), last, removes: None };
    let body: serde_json::Value = serde_json::from_str(&engine().request("x", &ask).body).unwrap();
    assert_eq!(body["success"].as_array().unwrap().len(), 1);
}

/// Whatever comes, it is read or refused, and no panic. What is read is within its bounds.
#[test]
fn mutated_answers_are_read_or_refused() {
    let (_, body) = full();
    for seed in 0..3000_u64 {
        let mut bytes = body.clone().into_bytes();
        let draw = |number: u64, bound: usize| {
            let hash = stable_hash(&[&seed.to_le_bytes(), &number.to_le_bytes()]);
            usize::try_from(hash % bound as u64).unwrap()
        };
        for change in 0..=draw(0, 4) as u64 {
            let at = draw(10 * change + 1, bytes.len());
            match draw(10 * change + 2, 4) {
                0 => bytes[at] = u8::try_from(draw(10 * change + 3, 256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"0\"{}[],:-"[draw(10 * change + 4, 9)]),
            }
        }
        let response = Response { status: 200, body: &bytes };
        for ask in [Ask::Read, Ask::Claim { claim: claim(), result_modified: Revision(0) }] {
            if let Answer::Seen(view) = engine().decode(&ask, response).answer {
                let node = view.last.map(|last| last.value.node.as_str().len());
                assert!(node.unwrap_or(1) <= 64);
            }
        }
        let _ = engine().decode_many(1, response);
        let _ = engine().token(response);
        let _ = engine().decode(&Ask::Read, Response { status: 403, body: &bytes });
    }
    let deep = format!(r#"{{"header":{}"#, "[".repeat(60_000));
    assert_eq!(read(200, &deep), Answer::Unknown);
    let long = format!("{body}{}", " ".repeat(MOST_BYTES));
    assert_eq!(read(200, &long), Answer::Unknown);
}

/// etcd compares bytes: what follows the due time in the value must not count.
#[test]
fn due_times_are_compared_as_numbers() {
    let Request { body, .. } =
        engine().request("a", &Ask::Claim { claim: claim(), result_modified: Revision(0) });
    assert!(body.contains(&transaction::base64("00000001700000000000")), "{body}");
}

#[test]
fn a_token_is_part_of_a_header() {
    let token = |body: &str| engine().token(Response { status: 200, body: body.as_bytes() });
    assert_eq!(token(r#"{"token":"QCZjgNNKjLbZsLyF.2651"}"#), Ok("QCZjgNNKjLbZsLyF.2651".into()));
    for body in [r#"{"token":"a\r\nb: c"}"#, r#"{"token":""}"#, "{}", r#"{"token":" "}"#] {
        assert_eq!(token(body), Err(Answer::Unknown), "{body}");
    }
}
