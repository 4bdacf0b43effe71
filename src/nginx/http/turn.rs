//! Which answers are at work in a turn of the event loop, and for how long.
//!
//! ```text
//!   a new answer, nobody waits ────────────> a slot
//!                                            │   ^ in each turn, one after the other, until the time
//!   others wait, or the turn has             v   │ of all answers in it is spent
//!   no time left ───────────────────> at the end of the queue
//! ```
//!
//! An answer is at work for one slot: a piece of it, or [`SLOT`]. So each of many has its share, and one
//! alone has all of the time that answers have.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::nginx::core::event::{Hold, Next, Timer};
use crate::os::Share;
use crate::os::memory::{NoMemory, fallible};

/// How long an answer is at work before others are.
const SLOT: Duration = Duration::from_millis(1);
/// The next turn comes after this time.
const NEXT_TURN: Duration = Duration::from_millis(1);

/// What waits for a slot.
pub(in crate::nginx) trait Work {
    /// Works for one slot.
    fn work(self: Rc<Self>);
}

/// The turn of the event loop, as answers see it.
#[derive(Clone, Copy)]
struct Turn {
    /// What all answers together may take of it.
    share: Share,
    at: usize,
}

struct Queue {
    waiting: RefCell<VecDeque<Weak<dyn Work>>>,
    timer: RefCell<Option<Timer>>,
}

thread_local! {
    /// The turn in which an answer was at work last.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
    /// When the slot that is in use began.
    static SLOT_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static QUEUE: Queue = const {
        Queue { waiting: RefCell::new(VecDeque::new()), timer: RefCell::new(None) }
    };
}

/// Whether an answer has been at work for long enough: it does a little all the same, and goes on in
/// another slot.
pub fn time_is_up() -> bool {
    SLOT_BEGAN.get().is_none_or(|began| began.elapsed() >= SLOT) || is_spent()
}

/// Begins a slot, if there is one now: nobody waits, and the turn has time left.
pub(in crate::nginx) fn begin_slot() -> bool {
    let is_free = QUEUE.with(|queue| queue.waiting.borrow().is_empty()) && !is_spent();
    SLOT_BEGAN.set(is_free.then(Instant::now));
    is_free
}

/// Whether what all answers may take of this turn is spent.
fn is_spent() -> bool {
    // nginx looks at the clock once in each turn.
    // SAFETY: HOST-1: one thread.
    let at = unsafe { ngx::ffi::ngx_current_msec };
    let turn = TURN.get().filter(|turn| turn.at == at).unwrap_or_else(|| {
        let turn = Turn { share: Share::begin(), at };
        TURN.set(Some(turn));
        turn
    });
    turn.share.is_spent()
}

/// Where in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nginx) enum End {
    /// It is the next one: it has waited for something else.
    Front,
    /// All others come first.
    Back,
}

/// Has `work` done in a slot of its own; it is not in the queue yet.
///
/// # Errors
///
/// There is no memory.
pub(in crate::nginx) fn enqueue<T: Work + 'static>(work: &Rc<T>, end: End) -> Result<(), NoMemory> {
    let work: Weak<T> = Rc::downgrade(work);
    QUEUE.with(|queue| {
        {
            let mut waiting = queue.waiting.borrow_mut();
            fallible(|| waiting.try_reserve(1))?;
            match end {
                End::Front => waiting.push_front(work),
                End::Back => waiting.push_back(work),
            }
        }
        queue.come_back();
        Ok(())
    })
}

impl Queue {
    fn come_back(&self) {
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| {
            Timer::new(Hold::HoldsExit, || {
                QUEUE.with(Self::turn);
                Next::Stop
            })
        });
        timer.arm(NEXT_TURN);
    }

    /// One slot after the other, until the time is spent or nobody waits.
    fn turn(&self) {
        while !is_spent() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { return };
            // Those that have gone meanwhile have nothing to do.
            if let Some(work) = next.upgrade() {
                SLOT_BEGAN.set(Some(Instant::now()));
                work.work();
            }
        }
        if !self.waiting.borrow().is_empty() {
            self.come_back();
        }
    }
}
