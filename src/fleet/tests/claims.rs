//! What a claim does where the engine has lost something, or does not say whether it was applied.

use std::time::Duration;

use crate::fleet::claimed::{ClaimOptions, Claimed, NotClaimed, WhileRunning};
use crate::fleet::claiming::Claiming;
use crate::fleet::engine::{Answer, Applied, Ask, Denial, View};
use crate::fleet::instant::{BootMs, Do};
use crate::fleet::values::{
    ClaimId, ClaimKind, ClaimRequest, Last, LastResult, Node, Outcome, Revision, Run, Versioned,
};
use crate::schedule::UnixMs;
use crate::state::{RunId, Trigger};

const BEFORE: UnixMs = UnixMs(3000);
const DUE: UnixMs = UnixMs(4000);
const NOW: BootMs = BootMs(1_000_000);

fn request(id: u8, kind: ClaimKind, due: UnixMs, trigger: Trigger) -> ClaimRequest {
    ClaimRequest {
        id: ClaimId([id; 16]),
        kind,
        run: RunId([id; 16]),
        due,
        attempt: 1,
        trigger,
        started_at: due,
        node: Node::default(),
        ttl: Duration::from_secs(30),
        schedule: 0,
    }
}

fn claiming(kind: ClaimKind) -> Claiming {
    let options = ClaimOptions {
        while_running: WhileRunning::Skip,
        alive: None,
        if_forgotten: BEFORE,
        sent_before: false,
        seed: 1,
    };
    Claiming::new(request(1, kind, DUE, Trigger::Schedule), options)
}

fn versioned<T>(value: T) -> Versioned<T> {
    Versioned { value, created: Revision(5), modified: Revision(5) }
}

fn run_of(due: UnixMs, trigger: Trigger) -> Versioned<Run> {
    versioned(Run::of(&request(2, ClaimKind::Due, due, trigger), 0))
}

fn result_of(due: UnixMs, trigger: Trigger) -> Versioned<LastResult> {
    let run = run_of(due, trigger).value;
    versioned(LastResult::of(&run, None, Outcome::Success, due, Duration::ZERO))
}

/// Sends what is to be sent, at once or later, and answers it.
fn exchange(claiming: &mut Claiming, answer: Answer) -> Ask {
    let mut now = NOW;
    loop {
        match claiming.step(now) {
            Do::Send(ask) => {
                claiming.answered(answer, now, now, None);
                return ask;
            }
            Do::Wait(until) if until < BootMs::NEVER => now = until,
            other => panic!("{other:?}"),
        }
    }
}

fn seen(view: View) -> Answer {
    Answer::Seen(Box::new(view))
}

fn applied() -> Answer {
    Answer::Applied(Box::new(Applied { revision: Revision(9), ..Applied::default() }))
}

/// The due time that `last` is made anew with, where it is not there, and what is done then.
fn after_removal(kind: ClaimKind, view: View) -> (UnixMs, Do<Claimed>) {
    let mut claiming = claiming(kind);
    exchange(&mut claiming, seen(view));
    let Ask::Init { last, .. } = exchange(&mut claiming, applied()) else { panic!("no init") };
    assert!(claiming.take_forgotten());
    (last.due, claiming.step(NOW))
}

/// A host that finds no `last` does not know whether somebody had the due time before it was removed.
#[test]
fn what_may_have_been_run_before_its_keys_were_removed_is_not_run() {
    let missed = Do::Say(Claimed::Not(NotClaimed::Missed));
    let schedule = Trigger::Schedule;
    for view in [
        View::default(),
        View { run: Some(run_of(DUE, schedule)), ..View::default() },
        View { result: Some(result_of(DUE, schedule)), ..View::default() },
        View { result: Some(result_of(DUE, Trigger::Missed)), ..View::default() },
        // The run of this one may have been removed with it.
        View { result: Some(result_of(BEFORE, schedule)), ..View::default() },
        // A run by hand says nothing of due times.
        View {
            run: Some(run_of(DUE, Trigger::Manual)),
            result: Some(result_of(BEFORE, schedule)),
            ..View::default()
        },
        View { result: Some(result_of(BEFORE, Trigger::Manual)), ..View::default() },
        View {
            run: Some(run_of(DUE, schedule)),
            result: Some(result_of(BEFORE, schedule)),
            ..View::default()
        },
    ] {
        assert_eq!(after_removal(ClaimKind::Due, view.clone()), (DUE, missed.clone()), "{view:?}");
    }
    let later = View { result: Some(result_of(UnixMs(9000), schedule)), ..View::default() };
    assert_eq!(after_removal(ClaimKind::Due, later), (UnixMs(9000), missed));
}

#[test]
fn what_cannot_have_been_run_before_is_claimed_again() {
    for (run, result) in [
        (Some(run_of(BEFORE, Trigger::Schedule)), None),
        (Some(run_of(BEFORE, Trigger::Schedule)), Some(result_of(UnixMs(2000), Trigger::Schedule))),
    ] {
        let view = View { run, result, ..View::default() };
        let (due, next) = after_removal(ClaimKind::Due, view);
        assert_eq!(due, BEFORE);
        assert!(matches!(next, Do::Send(Ask::Claim { .. })), "{next:?}");
    }
}

/// Whoever repeats a run does not open its due time.
#[test]
fn a_repetition_does_not_bring_its_due_time_back() {
    let kind = ClaimKind::Repetition { last_modified: Revision(3) };
    for result in [None, Some(result_of(BEFORE, Trigger::Schedule))] {
        let (due, _) = after_removal(kind, View { result, ..View::default() });
        assert_eq!(due, DUE);
    }
}

/// Of a claim that was refused so, it is seen whether it was applied.
#[test]
fn what_may_be_applied_though_it_was_refused_is_not_given_up() {
    for denial in [Denial::NoSpace, Denial::RevisionsWentBack, Denial::OtherCluster] {
        let mut claiming = claiming(ClaimKind::Due);
        exchange(&mut claiming, Answer::Denied(denial));
        let own = request(1, ClaimKind::Due, DUE, Trigger::Schedule);
        let view = View {
            run: Some(versioned(Run::of(&own, 0))),
            last: Some(versioned(Last::of(&own))),
            ..View::default()
        };
        let again = exchange(&mut claiming, seen(view));
        assert!(matches!(again, Ask::Claim { .. }), "{again:?}");
        let beat = exchange(&mut claiming, applied());
        assert!(matches!(beat, Ask::Beat { .. }), "{beat:?}");
        let won = claiming.step(NOW);
        assert!(matches!(won, Do::Say(Claimed::Won(_) | Claimed::WonTooLate(_))), "{won:?}");
    }
    let denial = Denial::Forbidden("permission denied".to_owned());
    let mut claiming = claiming(ClaimKind::Due);
    exchange(&mut claiming, Answer::Denied(denial.clone()));
    assert_eq!(claiming.step(NOW), Do::Say(Claimed::Not(NotClaimed::Refused(denial))));
}

/// A due time of which nobody can know is closed, and not claimed again.
#[test]
fn what_is_given_up_is_closed() {
    let mut claiming = claiming(ClaimKind::Due);
    exchange(&mut claiming, Answer::Unknown);
    claiming.give_up();
    let close = exchange(&mut claiming, applied());
    assert!(matches!(close, Ask::Close { .. }), "{close:?}");
    assert_eq!(claiming.step(NOW), Do::Say(Claimed::Not(NotClaimed::Missed)));
}
