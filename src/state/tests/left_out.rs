//! What is left out while the file cannot be read or written: nobody takes it, and each is counted once.

use crate::os::fault::{Call, CallFault, Effect, Repeat, errno, with};
use crate::schedule::UnixMs;
use crate::state::*;

use super::fixture::*;

const CALLS: [Call; 2] = [Call::Read, Call::Write];

fn failing(call: Call) -> CallFault {
    let effect = Effect::Errno(errno::EIO);
    CallFault { call: Some(call), after: 0, repeat: Repeat::FromThenOn, effect }
}

/// Leaves a due time out for a run in progress, however often that has to be tried.
fn overlap(store: &Store, timer: TimerRef<'_>, at: i64) -> Edited<bool> {
    let overlap = || store.overlap(timer, UnixMs(at), OverlapPolicy::Skip, UnixMs(at));
    (0..9).map(|_| overlap()).find(|edited| *edited != Edited::Again).unwrap()
}

/// The timer belongs to `one`; `two` has a run of it, and `one` has read the record.
struct Scene {
    fixture: Fixture,
    due_times: Jittered,
    one: Store,
    two: Store,
    first: Option<Claim>,
}

impl Scene {
    fn new() -> Self {
        let fixture = Fixture::file(&["a"]);
        let (one, two) = (fixture.worker(1), fixture.worker(2));
        let mut scene = Self { fixture, due_times: secondly(), one, two, first: None };
        scene.first = Some(won(&scene.two, scene.others(), due(1_001_000), 1_001_000));
        scene.one.read_for(scene.own()).unwrap();
        scene
    }

    fn record(&self) -> &Record {
        &self.fixture.records[0]
    }

    /// The timer as `one` has it.
    fn own(&self) -> TimerRef<'_> {
        timer(self.record(), &self.due_times)
    }

    /// The timer as `two` has it.
    fn others(&self) -> TimerRef<'_> {
        TimerRef { owner: Owner::Other, ..self.own() }
    }

    fn end_first(&mut self) {
        self.first.take().unwrap().finish(ended(Outcome::Success), None);
    }

    /// Runs, overlaps and missed due times, by the file.
    fn account(&self) -> (u64, u64, u64) {
        let Reading { claim, control, .. } = self.two.read(self.record()).unwrap();
        (claim.runs(), control.overlaps, control.missed)
    }
}

#[test]
fn what_the_owner_alone_knows_to_be_left_out_is_not_taken_by_others() {
    for call in CALLS {
        let mut scene = Scene::new();
        with(failing(call), || {
            let edited = overlap(&scene.one, scene.own(), 1_002_000);
            assert_eq!(edited, Edited::NotWritten(true));
        });
        scene.end_first();
        let step = claim(&scene.two, scene.others(), due(1_002_000), 1_002_900);
        assert!(matches!(step, Step::Handled));
        scene.one.write_again(scene.own());
        assert_eq!(scene.account(), (1, 1, 0), "{call:?}");
    }
}

#[test]
fn what_others_have_left_out_is_not_counted_by_an_owner_who_cannot_see_it() {
    for call in CALLS {
        let mut scene = Scene::new();
        assert_eq!(overlap(&scene.two, scene.others(), 1_002_000), Edited::Done(true));
        with(failing(call), || {
            let edited = overlap(&scene.one, scene.own(), 1_002_000);
            assert_eq!(edited, Edited::Done(false), "{call:?}");
        });
        scene.end_first();
        scene.one.write_again(scene.own());
        assert_eq!(scene.account(), (1, 1, 0), "{call:?}");
    }
}

#[test]
fn what_several_workers_have_left_out_is_counted_together() {
    let of_both = |call| (1..6).map(move |count| (call, count));
    for (call, others_count) in CALLS.into_iter().flat_map(of_both) {
        let mut scene = Scene::new();
        with(failing(call), || {
            for at in [1_002_000, 1_003_000] {
                assert_eq!(overlap(&scene.one, scene.own(), at), Edited::NotWritten(true));
            }
        });
        scene.end_first();
        let second = won(&scene.two, scene.others(), due(1_004_000), 1_004_000);
        for number in 1..=others_count {
            let at = 1_004_000 + 1000 * number;
            assert_eq!(overlap(&scene.two, scene.others(), at), Edited::Done(true));
        }
        second.finish(ended(Outcome::Success), None);
        // It fails once more in between.
        with(failing(call), || scene.one.write_again(scene.own()));
        let _ = scene.one.read_for(scene.own()).unwrap();
        scene.one.write_again(scene.own());
        let overlaps = u64::try_from(2 + others_count).unwrap();
        assert_eq!(scene.account(), (2, overlaps, 0), "{call:?} {others_count}");
        assert!(!scene.one.has_unwritten(scene.record()));
    }
}
