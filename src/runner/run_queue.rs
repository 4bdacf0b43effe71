//! What the timers of a worker have to do, a little in each turn of the event loop.
//!
//! ```text
//!   an attempt has ended ──────────────┐
//!   a due time or alarm has come ──────┤     one after the other, until the
//!   somebody waits and a run may start ┼───> turn's share of time is spent,  ───> the next turn
//!   a record is to be looked at ───────┤     each kind in its turn
//!   other processes have news ─────────┘
//! ```
//!
//! nginx runs what is posted while posted events are run in the same turn: what is left here is posted
//! for the next one, so that clients are served in between. Nothing here allocates but [`RunQueue::reserve`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::job::Job;
use crate::deadlines::Deadlines;
use crate::nginx::event::{EventTimer, Hold, Next, Posted};
use crate::nginx::log::{Level, Log};
use crate::nginx::process;
use crate::os::Share;
use crate::os::memory::{self, NoMemory, fallible, push};
use crate::throttle::Throttle;

/// What is to be done for each timer of a worker, and when. At most `limit` runs are in progress; who
/// gets no [`Permit`] waits in a queue.
///
/// # Invariants
///
/// `permits` is `limit` less the [`Permit`]s that exist.
pub(super) struct RunQueue {
    permits: Cell<usize>,
    jobs: RefCell<Vec<Weak<Job>>>,
    queues: RefCell<[JobQueue; 4]>,
    /// Two for each job: see [`Deadline`].
    deadlines: RefCell<Deadlines>,
    /// Which of [`ROUND_ROBIN`] comes first now.
    position: Cell<usize>,
    posted: Posted,
    /// Runs out with the first deadline, and when there may be memory again.
    timer: EventTimer,
    timer_at: Cell<Option<Instant>>,
    no_memory: Throttle,
}

/// Which of the timers of this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JobIndex(usize);

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The next due time.
    Clock,
    /// Whatever there is to do before that.
    Alarm,
}

/// A queue, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Those whose attempt has ended.
    End,
    /// Those that wait for a permit.
    Start,
    /// Those whose record is to be looked at.
    Look,
    /// Those that another process may have changed.
    LookAtNews,
}

/// What is done in turn, so that none of it holds up the others: a queue, or the deadlines.
const ROUND_ROBIN: [Option<To>; 4] = [Some(To::Start), None, Some(To::Look), Some(To::LookAtNews)];

/// Without memory it goes on after this time.
const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// The right to be one of the runs in progress; given back when it is dropped.
pub(super) struct Permit(Rc<RunQueue>);

impl RunQueue {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        Rc::new_cyclic(|queue: &Weak<Self>| {
            let of_timer = queue.clone();
            let timer = EventTimer::new(Hold::Cancelable, move || {
                if let Some(queue) = of_timer.upgrade() {
                    queue.timer_at.set(None);
                    queue.posted.post();
                }
                Next::Stop
            });
            let queue = queue.clone();
            let posted = Posted::new(move || {
                if let Some(queue) = queue.upgrade() {
                    queue.dispatch();
                }
            });
            // INVARIANT: no permit is given yet.
            Self {
                permits: Cell::new(limit),
                jobs: RefCell::default(),
                queues: RefCell::default(),
                deadlines: RefCell::default(),
                position: Cell::new(0),
                posted,
                timer,
                timer_at: Cell::new(None),
                no_memory: Throttle::default(),
            }
        })
    }

    /// Room for one more job, which is to be [put into its place](Self::insert).
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn reserve(&self) -> Result<JobIndex, NoMemory> {
        let mut jobs = self.jobs.borrow_mut();
        self.queues.borrow_mut().iter_mut().try_for_each(JobQueue::join)?;
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.join()?;
        deadlines.join()?;
        push(&mut jobs, Weak::new())?;
        Ok(JobIndex(jobs.len() - 1))
    }

    pub(super) fn insert(&self, index: JobIndex, job: Weak<Job>) {
        if let Some(slot) = self.jobs.borrow_mut().get_mut(index.0) {
            *slot = job;
        }
    }

    /// Has the job woken `after` this time, instead of when it was to be before.
    pub(super) fn wake(&self, job: JobIndex, what: Deadline, after: Duration) {
        let now = Instant::now();
        self.deadlines.borrow_mut().set(number(job, what), now + after);
        self.arm(now);
    }

    /// Does not wake the job any more, nor give it a permit.
    pub(super) fn leave(&self, job: JobIndex) {
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.clear(number(job, Deadline::Clock));
        deadlines.clear(number(job, Deadline::Alarm));
    }

    /// Has the job look at its record soon.
    pub(super) fn post(&self, job: JobIndex) {
        self.put(To::Look, job);
    }

    /// The same, for what another process may have changed.
    pub(super) fn post_news(&self, job: JobIndex) {
        self.put(To::LookAtNews, job);
    }

    /// Has the job settle the attempt that has ended.
    pub(super) fn post_end(&self, job: JobIndex) {
        self.put(To::End, job);
    }

    /// Puts the job at the end of those who wait for a permit.
    pub(super) fn wait(&self, job: JobIndex) {
        self.put(To::Start, job);
    }

    fn put(&self, to: To, job: JobIndex) {
        let mut queues = self.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(to as usize) {
            queue.push(job);
        }
        self.posted.post_next();
    }

    /// A permit, if one more run may be in progress.
    pub(super) fn permit(self: &Rc<Self>) -> Option<Permit> {
        let left = self.permits.get().checked_sub(1)?;
        // INVARIANT: the permit is made with this.
        self.permits.set(left);
        Some(Permit(Rc::clone(self)))
    }

    /// One turn.
    fn dispatch(self: &Rc<Self>) {
        let mut now = Instant::now();
        let share = Share::begin_at(now);
        if self.has_work(now) {
            // The next turn comes, whatever happens to this one.
            self.posted.post_next();
        }
        loop {
            if !memory::enough() {
                return self.rest();
            }
            if !self.step(now) {
                // Nothing is left for the next turn.
                self.posted.cancel();
                break;
            }
            now = Instant::now();
            if share.is_spent_at(now) {
                break;
            }
        }
        self.arm(now);
    }

    fn has_work(&self, now: Instant) -> bool {
        let queues = self.queues.borrow();
        let waits = |(n, queue): (usize, &JobQueue)| {
            !queue.jobs.is_empty() && (n != To::Start as usize || self.may_start())
        };
        let first = self.deadlines.borrow().first();
        queues.iter().enumerate().any(waits) || first.is_some_and(|first| first <= now)
    }

    fn waits(&self, to: To) -> bool {
        self.queues.borrow().get(to as usize).is_some_and(|queue| !queue.jobs.is_empty())
    }

    fn may_start(&self) -> bool {
        self.permits.get() > 0 && !process::is_leaving()
    }

    /// Does one thing; `false` if there is none.
    fn step(self: &Rc<Self>, now: Instant) -> bool {
        // What has ended makes room for others.
        if let Some(job) = self.next(To::End) {
            job.settle();
            return true;
        }
        ROUND_ROBIN.iter().any(|_| {
            let position = self.position.get();
            self.position.set((position + 1) % ROUND_ROBIN.len());
            match ROUND_ROBIN.get(position).copied().flatten() {
                None => self.wake_one(now),
                Some(To::Start) => self.start_one(),
                Some(To::LookAtNews) => {
                    self.next(To::LookAtNews).inspect(|it| it.follow_news()).is_some()
                }
                Some(to) => self.next(to).inspect(|job| job.dispatch()).is_some(),
            }
        })
    }

    fn start_one(self: &Rc<Self>) -> bool {
        if !self.may_start() {
            return false;
        }
        let Some(job) = self.next(To::Start) else { return false };
        if let Some(permit) = self.permit() {
            job.start_queued(permit);
        }
        true
    }

    fn wake_one(&self, now: Instant) -> bool {
        let Some(number) = self.deadlines.borrow_mut().pop(now) else { return false };
        let job = self.jobs.borrow().get(number / 2).and_then(Weak::upgrade);
        match job {
            Some(job) if number % 2 == Deadline::Clock as usize => job.look_at_clock(),
            Some(job) => job.dispatch(),
            None => {}
        }
        true
    }

    /// The next job of a queue that is still there.
    fn next(&self, to: To) -> Option<Rc<Job>> {
        loop {
            let index = self.queues.borrow_mut().get_mut(to as usize)?.pop()?;
            let job = self.jobs.borrow().get(index.0).and_then(Weak::upgrade);
            if job.is_some() {
                return job;
            }
        }
    }

    /// Arms the timer for the first deadline; one that has come is for the next turn.
    fn arm(&self, now: Instant) {
        let Some(first) = self.deadlines.borrow().first() else { return };
        if first <= now {
            return self.posted.post_next();
        }
        if self.timer_at.get().is_some_and(|at| at <= first) {
            return;
        }
        self.timer_at.set(Some(first));
        // Rounded up: before the deadline there is nothing to do.
        let after = first.saturating_duration_since(now);
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

impl Drop for Permit {
    fn drop(&mut self) {
        // INVARIANT: the permit is gone with this.
        self.0.permits.set(self.0.permits.get() + 1);
        if self.0.waits(To::Start) {
            self.0.posted.post_next();
        }
    }
}

fn number(job: JobIndex, what: Deadline) -> usize {
    2 * job.0 + what as usize
}

/// Jobs in the order in which they came, each at most once.
#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<JobIndex>,
    has: Vec<bool>,
}

impl JobQueue {
    /// Room for one more job.
    fn join(&mut self) -> Result<(), NoMemory> {
        let more = self.has.len() + 1 - self.jobs.len();
        fallible(|| self.jobs.try_reserve(more))?;
        push(&mut self.has, false)
    }

    fn push(&mut self, job: JobIndex) {
        if self.has.get_mut(job.0).is_some_and(|has| !std::mem::replace(has, true)) {
            self.jobs.push_back(job);
        }
    }

    fn pop(&mut self) -> Option<JobIndex> {
        let job = self.jobs.pop_front()?;
        if let Some(has) = self.has.get_mut(job.0) {
            *has = false;
        }
        Some(job)
    }
}
