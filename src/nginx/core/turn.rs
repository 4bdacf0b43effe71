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
//! alone has all of the time that answers have. That is little: who waits to be accepted waits for as many
//! turns as there are connections before it, since nginx accepts one in a turn.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::event::{EventTimer, Hold, Next, Posted};
use crate::os::memory::{NoMemory, fallible};

/// How long an answer is at work before others are, and all together before nginx is: long beside what a turn
/// costs.
const SLOT: Duration = Duration::from_millis(1);
/// The timer that holds an exiting worker while somebody waits has nothing else to do.
const HOLD: Duration = Duration::from_secs(60);

/// What waits for a slot.
pub(in crate::nginx) trait Work {
    /// Works for one slot.
    fn work(self: Rc<Self>);
}

/// The turn of the event loop, as answers see it.
#[derive(Clone, Copy)]
struct Turn {
    /// When the first answer in it began.
    began: Instant,
    at: usize,
}

struct WorkQueue {
    waiting: RefCell<VecDeque<Weak<dyn Work>>>,
    next_turn: OnceCell<NextTurn>,
}

/// The next turn comes at once, also while nginx's clock stands still.
struct NextTurn {
    posted: Posted,
    hold: EventTimer,
}

thread_local! {
    /// The turn in which an answer was at work last.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
    /// When the slot that is in use began.
    static SLOT_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static QUEUE: WorkQueue = const {
        WorkQueue { waiting: RefCell::new(VecDeque::new()), next_turn: OnceCell::new() }
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
        let turn = Turn { began: Instant::now(), at };
        TURN.set(Some(turn));
        turn
    });
    turn.began.elapsed() >= SLOT
}

/// Where in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nginx) enum QueueEnd {
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
pub(in crate::nginx) fn enqueue<T: Work + 'static>(
    work: &Rc<T>,
    end: QueueEnd,
) -> Result<(), NoMemory> {
    let work: Weak<T> = Rc::downgrade(work);
    QUEUE.with(|queue| {
        {
            let mut waiting = queue.waiting.borrow_mut();
            fallible(|| waiting.try_reserve(1))?;
            match end {
                QueueEnd::Front => waiting.push_front(work),
                QueueEnd::Back => waiting.push_back(work),
            }
        }
        queue.come_back();
        Ok(())
    })
}

impl WorkQueue {
    fn come_back(&self) {
        let next_turn = self.next_turn.get_or_init(|| NextTurn {
            posted: Posted::new(|| QUEUE.with(Self::turn)),
            hold: EventTimer::new(Hold::HoldsExit, || Next::After(HOLD)),
        });
        next_turn.posted.post_next();
        next_turn.hold.arm(HOLD);
    }

    /// One slot after the other, until the time is spent or nobody waits.
    fn turn(&self) {
        TURN.set(None);
        while !is_spent() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            // Those that have gone meanwhile have nothing to do.
            if let Some(work) = next.upgrade() {
                SLOT_BEGAN.set(Some(Instant::now()));
                work.work();
            }
        }
        if !self.waiting.borrow().is_empty() {
            self.come_back();
        } else if let Some(next_turn) = self.next_turn.get() {
            next_turn.hold.cancel();
        }
    }
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Another one.
    Again,
    /// Another one, after this time.
    After(Duration),
    /// Nothing.
    End,
}

/// Work that is done a little at a time, so that requests need not wait for it; dropping it ends it.
pub struct InTurns(Rc<Steps>);

struct Steps {
    step: RefCell<Option<Box<dyn FnMut() -> Stepped>>>,
    later: OnceCell<EventTimer>,
}

/// Without memory it is tried again after this time.
const NO_MEMORY: Duration = Duration::from_millis(100);

impl InTurns {
    /// Begins; each step takes a millisecond at most.
    pub fn begin(step: impl FnMut() -> Stepped + 'static) -> Self {
        let steps = Steps { step: RefCell::new(Some(Box::new(step))), later: OnceCell::new() };
        let this = Self(Rc::new(steps));
        this.0.come_back();
        this
    }
}

impl Drop for InTurns {
    fn drop(&mut self) {
        // It may be in the middle of a step, which has it then.
        drop(self.0.step.take());
        if let Some(later) = self.0.later.get() {
            later.cancel();
        }
    }
}

impl Steps {
    fn come_back(self: &Rc<Self>) {
        if enqueue(self, QueueEnd::Back).is_err() {
            self.come_back_after(NO_MEMORY);
        }
    }

    fn come_back_after(self: &Rc<Self>, after: Duration) {
        let later = self.later.get_or_init(|| {
            let me = Rc::downgrade(self);
            EventTimer::new(Hold::HoldsExit, move || {
                if let Some(me) = me.upgrade() {
                    me.come_back();
                }
                Next::Stop
            })
        });
        later.arm(after);
    }
}

impl Work for Steps {
    fn work(self: Rc<Self>) {
        let Some(mut step) = self.step.take() else { return };
        let next = loop {
            let next = step();
            // Who it is for may have dropped it meanwhile.
            if next != Stepped::Again || Rc::strong_count(&self) == 1 || time_is_up() {
                break next;
            }
        };
        if next == Stepped::End || Rc::strong_count(&self) == 1 {
            return;
        }
        self.step.replace(Some(step));
        match next {
            Stepped::After(after) => self.come_back_after(after),
            _ => self.come_back(),
        }
    }
}
