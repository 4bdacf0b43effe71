//! What the timers of a worker have to do, a little in each turn of the event loop.
//!
//! ```text
//!   an attempt has ended ──────────────┐
//!   a due time or alarm has come ──────┤     one after the other, until the
//!   somebody waits and a place is free ┼───> turn's share of time is spent,  ───> the next turn
//!   a record is to be looked at ───────┤     each kind in its turn
//!   other processes have news ─────────┘
//! ```
//!
//! nginx runs what is posted while posted events are run in the same turn: what is left here is posted
//! for the next one, so that clients are served in between. Nothing here allocates but [`Line::join`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::job::Job;
use crate::deadlines::Deadlines;
use crate::nginx::event::{Hold, Next, Posted, Timer};
use crate::nginx::log::{Level, Log};
use crate::nginx::process;
use crate::os::Share;
use crate::os::memory::{self, NoMemory, fallible, push};
use crate::throttle::Throttle;

/// At most `limit` runs are in progress; who finds no place waits in the line.
///
/// # Invariants
///
/// `places` is `limit` less the [`Place`]s that exist.
pub(super) struct Line {
    places: Cell<usize>,
    jobs: RefCell<Vec<Weak<Job>>>,
    queues: RefCell<[Queue; 4]>,
    /// Two for each job: see [`Wake`].
    deadlines: RefCell<Deadlines>,
    /// Which of [`TURNS`] comes first now.
    turn: Cell<usize>,
    posted: Posted,
    /// Runs out with the first deadline, and when there may be memory again.
    timer: Timer,
    timer_at: Cell<Option<Instant>>,
    no_memory: Throttle,
}

/// A job's place in the line's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member(usize);

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The next due time.
    Clock,
    /// Whatever there is to do before that.
    Alarm,
}

/// A queue, by its place among the line's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Those whose attempt has ended.
    End,
    /// Those that wait for a place.
    Start,
    /// Those whose record is to be looked at.
    Look,
    /// Those that another process may have changed.
    LookAtNews,
}

/// What is done in turn, so that none of it holds up the others: a queue, or the deadlines.
const TURNS: [Option<To>; 4] = [Some(To::Start), None, Some(To::Look), Some(To::LookAtNews)];

/// Without memory it goes on after this time.
const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// A place among the runs in progress; given back when it is dropped.
pub(super) struct Place(Rc<Line>);

impl Line {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        Rc::new_cyclic(|line: &Weak<Self>| {
            let of_timer = line.clone();
            let timer = Timer::new(Hold::Cancelable, move || {
                if let Some(line) = of_timer.upgrade() {
                    line.timer_at.set(None);
                    line.posted.post();
                }
                Next::Stop
            });
            let line = line.clone();
            let posted = Posted::new(move || {
                if let Some(line) = line.upgrade() {
                    line.deal();
                }
            });
            // INVARIANT: no place is taken yet.
            Self {
                places: Cell::new(limit),
                jobs: RefCell::default(),
                queues: RefCell::default(),
                deadlines: RefCell::default(),
                turn: Cell::new(0),
                posted,
                timer,
                timer_at: Cell::new(None),
                no_memory: Throttle::default(),
            }
        })
    }

    /// Room for one more job, which is to be [`seated`](Self::seat).
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn join(&self) -> Result<Member, NoMemory> {
        let mut jobs = self.jobs.borrow_mut();
        self.queues.borrow_mut().iter_mut().try_for_each(Queue::join)?;
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.join()?;
        deadlines.join()?;
        push(&mut jobs, Weak::new())?;
        Ok(Member(jobs.len() - 1))
    }

    pub(super) fn seat(&self, member: Member, job: Weak<Job>) {
        if let Some(seat) = self.jobs.borrow_mut().get_mut(member.0) {
            *seat = job;
        }
    }

    /// Has the job woken `after` this time, instead of when it was to be before.
    pub(super) fn wake(&self, member: Member, what: Wake, after: Duration) {
        let at = Instant::now() + after;
        self.deadlines.borrow_mut().set(number(member, what), at);
        self.arm();
    }

    /// Does not wake the job any more, nor give it a place.
    pub(super) fn leave(&self, member: Member) {
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.clear(number(member, Wake::Clock));
        deadlines.clear(number(member, Wake::Alarm));
    }

    /// Has the job look at its record soon.
    pub(super) fn post(&self, member: Member) {
        self.put(To::Look, member);
    }

    /// The same, for what another process may have changed.
    pub(super) fn post_news(&self, member: Member) {
        self.put(To::LookAtNews, member);
    }

    /// Has the job settle the attempt that has ended.
    pub(super) fn post_end(&self, member: Member) {
        self.put(To::End, member);
    }

    /// Puts the job at the end of those who wait for a place.
    pub(super) fn wait(&self, member: Member) {
        self.put(To::Start, member);
    }

    fn put(&self, to: To, member: Member) {
        let mut queues = self.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(to as usize) {
            queue.push(member);
        }
        self.posted.post_next();
    }

    /// A place, if there is one.
    pub(super) fn place(self: &Rc<Self>) -> Option<Place> {
        let left = self.places.get().checked_sub(1)?;
        // INVARIANT: the place is made with this.
        self.places.set(left);
        Some(Place(Rc::clone(self)))
    }

    /// One turn.
    fn deal(self: &Rc<Self>) {
        let share = Share::begin();
        if self.has_work() {
            // The next turn comes, whatever becomes of this one.
            self.posted.post_next();
        }
        loop {
            if !memory::enough() {
                return self.rest();
            }
            if !self.step() || share.is_spent() {
                break;
            }
        }
        self.arm();
    }

    fn has_work(&self) -> bool {
        let queues = self.queues.borrow();
        let waits = |(n, queue): (usize, &Queue)| {
            !queue.members.is_empty() && (n != To::Start as usize || self.may_start())
        };
        let first = self.deadlines.borrow().first();
        queues.iter().enumerate().any(waits) || first.is_some_and(|first| first <= Instant::now())
    }

    fn may_start(&self) -> bool {
        self.places.get() > 0 && !process::is_leaving()
    }

    /// Does one thing; `false` if there is none.
    fn step(self: &Rc<Self>) -> bool {
        // What has ended makes room for others.
        if let Some(job) = self.next(To::End) {
            job.settle();
            return true;
        }
        TURNS.iter().any(|_| {
            let turn = self.turn.get();
            self.turn.set((turn + 1) % TURNS.len());
            match TURNS.get(turn).copied().flatten() {
                None => self.wake_one(),
                Some(To::Start) => self.start_one(),
                Some(to) => self.next(to).inspect(|job| job.deal()).is_some(),
            }
        })
    }

    fn start_one(self: &Rc<Self>) -> bool {
        if !self.may_start() {
            return false;
        }
        let Some(job) = self.next(To::Start) else { return false };
        if let Some(place) = self.place() {
            job.leave_line(place);
        }
        true
    }

    fn wake_one(&self) -> bool {
        let Some(number) = self.deadlines.borrow_mut().pop(Instant::now()) else { return false };
        let job = self.jobs.borrow().get(number / 2).and_then(Weak::upgrade);
        match job {
            Some(job) if number % 2 == Wake::Clock as usize => job.look_at_clock(),
            Some(job) => job.post(),
            None => {}
        }
        true
    }

    /// The next job of a queue that is still there.
    fn next(&self, to: To) -> Option<Rc<Job>> {
        loop {
            let member = self.queues.borrow_mut().get_mut(to as usize)?.pop()?;
            let job = self.jobs.borrow().get(member.0).and_then(Weak::upgrade);
            if job.is_some() {
                return job;
            }
        }
    }

    /// Arms the timer for the first deadline.
    fn arm(&self) {
        let Some(first) = self.deadlines.borrow().first() else { return };
        if self.timer_at.get().is_some_and(|at| at <= first) {
            return;
        }
        self.timer_at.set(Some(first));
        // Rounded up: before the deadline there is nothing to do.
        let after = first.saturating_duration_since(Instant::now());
        self.timer.arm(after + Duration::from_micros(999));
    }

    /// There is no memory: waits for some.
    fn rest(&self) {
        self.posted.cancel();
        self.timer_at.set(Some(Instant::now() + WITHOUT_MEMORY));
        self.timer.arm(WITHOUT_MEMORY);
        if self.no_memory.pass(Instant::now()).is_some() {
            Log::cycle().write(Level::Error, format_args!("timer: no memory, timers wait"));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // INVARIANT: the place is gone with this.
        self.0.places.set(self.0.places.get() + 1);
        self.0.posted.post_next();
    }
}

fn number(member: Member, what: Wake) -> usize {
    2 * member.0 + what as usize
}

/// Jobs in the order in which they came, each at most once.
#[derive(Default)]
struct Queue {
    members: VecDeque<usize>,
    has: Vec<bool>,
}

impl Queue {
    /// Room for one more job.
    fn join(&mut self) -> Result<(), NoMemory> {
        let more = self.has.len() + 1 - self.members.len();
        fallible(|| self.members.try_reserve(more))?;
        push(&mut self.has, false)
    }

    fn push(&mut self, member: Member) {
        if self.has.get_mut(member.0).is_some_and(|has| !std::mem::replace(has, true)) {
            self.members.push_back(member.0);
        }
    }

    fn pop(&mut self) -> Option<Member> {
        let member = self.members.pop_front()?;
        if let Some(has) = self.has.get_mut(member) {
            *has = false;
        }
        Some(Member(member))
    }
}
