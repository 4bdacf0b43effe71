//! The timers as an answer sees them: their records are read when it needs them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::definition::TimerDefinition;
use super::fleet::{FleetSample, FleetView, Whereabouts};
use super::fleets;
use super::json;
use super::metrics::Info;
use super::piece::Timers;
use super::samples::{Moment, Read, Sample, Samples};
use super::view::{AssignedTo, Configured, View};
use crate::conf::{TimerConf, WorkerChoice};
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::os::wall_clock;
use crate::runner::Registry;
use crate::schedule::{Schedule, UnixMs};
use crate::state::{Health, Reading, Steps};

/// The timers of a configuration, as one answer sees them.
pub(super) struct Snapshot {
    pub(super) registry: Rc<Registry>,
    /// What holds at this instant is shown, however long it takes.
    now: UnixMs,
    shared: Rc<Shared>,
    began: Moment,
    /// The waits for records that somebody is writing.
    steps: Steps,
}

/// What the answers of this worker share.
struct Shared {
    registry: Rc<Registry>,
    samples: RefCell<Samples>,
    is_used: Cell<bool>,
    is_armed: Cell<bool>,
    timer: EventTimer,
}

thread_local! {
    /// For as long as an answer needs it.
    static SHARED: RefCell<Weak<Shared>> = const { RefCell::new(Weak::new()) };
}

/// What no answer has needed for so long is given up.
const UNUSED: Duration = Duration::from_secs(1);

impl Shared {
    fn of(registry: &Rc<Registry>) -> Rc<Self> {
        let current = SHARED.with_borrow(Weak::upgrade);
        if let Some(shared) = current.filter(|shared| Rc::ptr_eq(&shared.registry, registry)) {
            return shared;
        }
        let shared = Rc::new_cyclic(|weak: &Weak<Self>| {
            let weak = Weak::clone(weak);
            let look = move || weak.upgrade().map_or(Next::Stop, |shared| shared.give_up());
            Self {
                registry: Rc::clone(registry),
                samples: RefCell::new(Samples::new(registry.timers().len())),
                is_used: Cell::new(false),
                is_armed: Cell::new(false),
                timer: EventTimer::new(Hold::Cancelable, look),
            }
        });
        SHARED.set(Rc::downgrade(&shared));
        shared
    }

    fn get(&self, number: usize, began: Moment) -> Option<Read> {
        self.is_used.set(true);
        self.samples.borrow().get(number, began)
    }

    fn put(&self, number: usize, read: Read) {
        self.is_used.set(true);
        self.samples.borrow_mut().put(number, read);
        if !self.is_armed.replace(true) {
            self.timer.arm(UNUSED);
        }
    }

    /// Unless it was used since the last time.
    fn give_up(&self) -> Next {
        if self.is_used.replace(false) {
            return Next::After(UNUSED);
        }
        self.samples.borrow_mut().forget();
        self.is_armed.set(false);
        Next::Stop
    }
}

impl Snapshot {
    /// As they are now.
    pub(super) fn now(registry: &Rc<Registry>) -> Self {
        let shared = Shared::of(registry);
        let began = shared.samples.borrow_mut().begin();
        let (registry, now) = (Rc::clone(registry), wall_clock());
        Self { registry, now, shared, began, steps: Steps::default() }
    }

    /// Shows one timer to `look`; `None` if there is none of this number.
    ///
    /// # Errors
    ///
    /// Somebody is writing its record: to be asked again after this time.
    pub(super) fn look<T>(
        &mut self,
        number: usize,
        look: impl FnOnce(&View<'_>) -> T,
    ) -> Result<Option<T>, Duration> {
        let Some(conf) = self.registry.timers().get(number) else { return Ok(None) };
        let reading = self.registry.read(number);
        let results = |reading: &Reading| self.registry.results(number, reading);
        if reading.is_none() {
            if let Some(after) = self.steps.next() {
                return Err(after);
            }
        }
        let timer = configured(conf, self.registry.workers());
        let failure_text = |reading: &Reading| self.registry.failure_text(number, reading);
        let (results, failure_text) = (&results, &failure_text);
        let fleet = fleets::view(&self.registry, number);
        let fleet = fleet.as_ref();
        let view = View { timer: &timer, reading, now: self.now, results, failure_text, fleet };
        Ok(Some(look(&view)))
    }

    /// What the directives say of one timer's runs.
    pub(super) fn definition(&self, number: usize) -> Option<TimerDefinition> {
        let timer = self.registry.timers().get(number)?;
        Some(TimerDefinition {
            method: timer.method.to_string(),
            uri: timer.written_uri.clone(),
            jitter_ms: timer.due_times.jitter.bound_ms(),
            overlap: timer.overlap,
            missed: timer.missed,
            retry: timer.retry.clone(),
        })
    }

    /// What is to be said of all timers, and of the state.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let registry = &self.registry;
        if let Some(paused) = registry.header().paused.filter(|paused| paused.holds(self.now)) {
            remarks.push(format!("all timers are paused since {}", paused.since.rfc3339()));
        }
        if registry.health() != Health::Ok {
            remarks.push(format!("the state is {}", json::health(registry.health())));
        }
        remarks.extend(fleets::views(registry).iter().filter_map(FleetView::complaint));
        remarks
    }
}

impl Timers for Snapshot {
    fn count(&self) -> usize {
        self.registry.timers().len()
    }

    fn name(&self, number: usize) -> &str {
        self.registry.timers().get(number).map_or("", |timer| timer.name.as_str())
    }

    fn sample(&mut self, number: usize) -> Result<Option<Sample>, Duration> {
        if let Some(Read(sample)) = self.shared.get(number, self.began) {
            return Ok(sample);
        }
        let sample = self.look(number, Sample::of)?.flatten();
        self.shared.put(number, Read(sample));
        Ok(sample)
    }

    fn info(&self, number: usize) -> Info {
        let timer = self.registry.timers().get(number);
        let schedule = timer.map(|timer| &timer.due_times.schedule);
        Info {
            schedule: schedule.map(ToString::to_string).unwrap_or_default(),
            timezone: match schedule {
                Some(Schedule::Cron(cron)) => cron.zone().name().to_owned(),
                Some(Schedule::Every(_)) | None => String::new(),
            },
            server: timer.map(server_of).unwrap_or_default(),
        }
    }

    fn whereabouts(&self, number: usize) -> Whereabouts {
        let fleet = fleets::view(&self.registry, number);
        fleet.as_ref().map(|fleet| fleet.whereabouts(self.now)).unwrap_or_default()
    }

    fn fleets(&self) -> Vec<FleetSample> {
        fleets::samples(&self.registry)
    }

    fn now(&self) -> UnixMs {
        self.now
    }

    fn state_ok(&self) -> bool {
        self.registry.health() != Health::Degraded
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks()
    }
}

fn configured(timer: &TimerConf, workers: usize) -> Configured {
    Configured {
        name: timer.name.as_str().to_owned(),
        due_times: timer.due_times.clone(),
        scheduled: timer.scheduled,
        worker: match timer.worker {
            WorkerChoice::Any => AssignedTo::Any,
            choice => AssignedTo::Slot(choice.slot(&timer.name, workers)),
        },
        server: server_of(timer),
        location: String::from_utf8_lossy(&timer.location.name()).into_owned(),
        config: timer.position.to_string(),
        timeout: timer.timeout,
        unhealthy_after: timer.unhealthy_after,
    }
}

fn server_of(timer: &TimerConf) -> String {
    String::from_utf8_lossy(&timer.location.first_server_name()).into_owned()
}
