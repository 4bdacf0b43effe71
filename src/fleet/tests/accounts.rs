//! What the record is told of an answer.

use crate::fleet::claimed::{Claimed, NotClaimed, Won};
use crate::fleet::engine::{Paused, Scope, View};
use crate::fleet::instant::BootMs;
use crate::fleet::values::{Last, Node, Pause, Revision, Run, Versioned};
use crate::schedule::UnixMs;
use crate::state::{OpenEnd, OverlapPolicy, RunId, Trigger};

const DUE: UnixMs = UnixMs(4000);

fn view(last: UnixMs) -> View {
    let revision = Revision(5);
    let value = Last::without_run(last, Node::default(), 0);
    View {
        last: Some(Versioned { created: revision, modified: revision, value }),
        ..View::default()
    }
}

/// What others have taken between this host's last due time and the one that is claimed is theirs, and neither
/// missed nor an overlap, whatever becomes of the claim.
#[test]
fn the_due_time_that_others_have_taken_before_is_told() {
    let seen = view(UnixMs(3000)).due_before(DUE);
    assert_eq!(seen, Some(UnixMs(3000)));
    let run = Run {
        claim: crate::fleet::values::ClaimId([1; 16]),
        id: RunId([2; 16]),
        node: Node::default(),
        due: UnixMs(3000),
        attempt: 1,
        trigger: Trigger::Schedule,
        ttl: std::time::Duration::from_secs(30),
        beat: 0,
        started_at: UnixMs(3001),
    };
    let paused = Paused {
        scope: Scope::Timer,
        pause: Pause { node: Node::default(), since: DUE, until: None },
    };
    let policy = OverlapPolicy::Skip;
    for (not, end) in [
        (NotClaimed::Overlap(Box::new(run)), OpenEnd::Overlap { policy, last: seen }),
        (NotClaimed::Lost, OpenEnd::Lost { last: seen }),
        (NotClaimed::Missed, OpenEnd::Missed { last: seen }),
        (NotClaimed::Paused(paused), OpenEnd::Paused { last: seen }),
    ] {
        assert_eq!(Claimed::Not(not).end(seen), end);
    }
    // The answer to a claim that was seen late, by its run, says nothing of it.
    let won = |last_before| {
        let (created, fence, sent) = (Revision(7), Revision(8), BootMs(1));
        let (last_modified, result, done) = (None, None, None);
        Box::new(Won { created, fence, sent, last_modified, last_before, result, done })
    };
    let (created, fence) = (7, 8);
    assert_eq!(Claimed::Won(won(None)).end(seen), OpenEnd::Won { created, fence, last: seen });
    let own = Last::without_run(UnixMs(2000), Node::default(), 0);
    let last = Some(UnixMs(2000));
    let end = Claimed::Won(won(Some(own.clone()))).end(seen);
    assert_eq!(end, OpenEnd::Won { created, fence, last }, "the answer knows better");
    assert_eq!(Claimed::WonTooLate(won(Some(own))).end(seen), OpenEnd::Lost { last });
}

/// What this very claim has written is not what was there before.
#[test]
fn a_due_time_is_not_taken_before_itself() {
    assert_eq!((view(DUE).due_before(DUE), view(UnixMs(9000)).due_before(DUE)), (None, None));
    assert_eq!(View::default().due_before(DUE), None);
}
