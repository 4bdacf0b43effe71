//! The variables of a timer's request.
#![forbid(unsafe_code)]

use std::any::Any;
use std::ffi::CStr;
use std::fmt::Write;
use std::rc::Rc;

use crate::nginx::conf::{Parsing, Refused};
use crate::nginx::process::Role;
use crate::nginx::run::Origin;
use crate::nginx::run::variable::{self, LONGEST, OptionalVariable, Variable};
use crate::nginx::text::Text;
use crate::runner::{Notification, Run};

/// Adds all variables, before the configuration is read.
///
/// # Errors
///
/// nginx has said why.
pub fn add(parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    variable::add::<Name>(parsing)?;
    variable::add::<RunId>(parsing)?;
    variable::add::<Due>(parsing)?;
    variable::add::<AttemptNumber>(parsing)?;
    variable::add::<Trigger>(parsing)?;
    variable::add::<Lateness>(parsing)?;
    variable::add::<LastSuccess>(parsing)?;
    variable::add::<WorkerSlot>(parsing)?;
    variable::add::<Fence>(parsing)?;
    variable::add::<FenceCluster>(parsing)?;
    variable::add::<FleetName>(parsing)?;
    variable::add::<NodeName>(parsing)?;
    variable::add_optional::<KeyvalEtag>(parsing)?;
    variable::add_optional::<EventName>(parsing)?;
    variable::add_optional::<OutcomeOf>(parsing)?;
    variable::add_optional::<Status>(parsing)?;
    variable::add_optional::<Error>(parsing)?;
    variable::add_optional::<Response>(parsing)?;
    variable::add_optional::<Failures>(parsing)?;
    variable::add_optional::<Duration>(parsing)
}

type VariableText = Text<LONGEST>;

/// Defines a variable that is empty outside a timer's request.
macro_rules! of_run {
    ($(#[$doc:meta])* $variable:ident, $name:literal, |$run:ident, $value:ident| $write:expr) => {
        $(#[$doc])*
        struct $variable;

        impl Variable for $variable {
            const NAME: &'static CStr = $name;

            fn write(origin: Option<Rc<dyn Origin>>, $value: &mut VariableText) {
                let origin = origin.as_deref().map(|origin| origin.as_any());
                if let Some($run) = origin.and_then(<dyn Any>::downcast_ref::<Run>) {
                    // What does not fit is cut off, never an error.
                    let _ = $write;
                }
            }
        }
    };
    ($(#[$doc:meta])* $variable:ident, $name:literal, |$run:ident, $value:ident| $write:expr,
     |$told:ident| $also:expr) => {
        $(#[$doc])*
        struct $variable;

        impl Variable for $variable {
            const NAME: &'static CStr = $name;

            fn write(origin: Option<Rc<dyn Origin>>, $value: &mut VariableText) {
                let origin = origin.as_deref().map(|origin| origin.as_any());
                if let Some($run) = origin.and_then(<dyn Any>::downcast_ref::<Run>) {
                    let _ = $write;
                } else if let Some($told) =
                    origin.and_then(<dyn Any>::downcast_ref::<Notification>)
                {
                    let _ = $also;
                }
            }
        }
    };
}

/// Defines a variable that there is in a notification's request alone.
macro_rules! of_notification {
    ($(#[$doc:meta])* $variable:ident, $name:literal, |$told:ident| $value:expr) => {
        $(#[$doc])*
        struct $variable;

        impl OptionalVariable for $variable {
            const NAME: &'static CStr = $name;

            fn value(origin: Option<Rc<dyn Origin>>) -> Option<Vec<u8>> {
                let origin = origin.as_deref().map(|origin| origin.as_any());
                let $told = origin.and_then(<dyn Any>::downcast_ref::<Notification>)?;
                Some(String::into_bytes($value))
            }
        }
    };
}

of_notification!(
    /// What has happened.
    EventName, c"timer_event", |told| told.event().name().to_owned()
);
of_notification!(
    /// How the run has ended.
    OutcomeOf, c"timer_outcome", |told| told.outcome().map(|it| it.to_string()).unwrap_or_default()
);
of_notification!(
    /// The status of its response; 0 if there was none.
    Status, c"timer_status", |told| told.status().to_string()
);
of_notification!(
    /// Why it failed, or how many due times were missed; empty for a success.
    Error, c"timer_error", |told| told.error().unwrap_or_default().to_owned()
);
of_notification!(
    /// The beginning of its response, with `timer_capture`.
    Response, c"timer_response", |told| told.response().unwrap_or_default().to_owned()
);
of_notification!(
    /// How many runs in a row have failed.
    Failures, c"timer_failures", |told| told.failures().to_string()
);
of_notification!(
    /// How long the run's last attempt took, in seconds with milliseconds.
    Duration, c"timer_duration", |told| {
        let ms = told.duration_ms();
        format!("{}.{:03}", ms / 1000, ms % 1000)
    }
);

of_run!(
    /// The timer's name.
    Name, c"timer_name", |run, value| value.write_str(run.timer()),
    |told| value.write_str(told.timer())
);
of_run!(
    /// The run's unique id, 32 hex digits.
    RunId, c"timer_run", |run, value| write!(value, "{}", run.id()),
    |told| told.run().map_or(Ok(()), |run| write!(value, "{run}"))
);
of_run!(
    /// The due time, in Unix seconds with milliseconds.
    Due, c"timer_due", |run, value| write!(value, "{}", run.due()),
    |told| told.due().map_or(Ok(()), |due| write!(value, "{due}"))
);
of_run!(
    /// The number of the attempt, from 1.
    AttemptNumber, c"timer_attempt", |run, value| write!(value, "{}", run.attempt())
);
of_run!(
    /// Why it runs.
    Trigger, c"timer_trigger", |run, value| write!(value, "{}", run.trigger())
);
of_run!(
    /// Seconds with milliseconds between the due time and the start of this attempt.
    Lateness, c"timer_lateness", |run, value| {
        let ms = run.lateness().as_millis();
        write!(value, "{}.{:03}", ms / 1000, ms % 1000)
    }
);
of_run!(
    /// The start of the last success, as the due time; empty if there is none.
    LastSuccess, c"timer_last_success", |run, value| match run.last_success() {
        Some(start) => write!(value, "{start}"),
        None => Ok(()),
    }
);

of_run!(
    /// A number that grows with each attempt of a timer of a fleet.
    Fence, c"timer_fence", |run, value| match run.fence() {
        Some((fence, _)) => write!(value, "{fence}"),
        None => Ok(()),
    }
);
of_run!(
    /// The cluster whose numbers can be compared.
    FenceCluster, c"timer_fence_cluster", |run, value| match run.fence() {
        Some((_, cluster)) => write!(value, "{cluster}"),
        None => Ok(()),
    }
);
of_run!(
    /// The fleet of the timer.
    FleetName, c"timer_fleet", |run, value| match run.fleet() {
        Some(fleet) => value.write_str(fleet.name.as_str()),
        None => Ok(()),
    }
);
of_run!(
    /// What this host is called in that fleet.
    NodeName, c"timer_node", |run, value| match run.fleet() {
        Some(fleet) => value.write_str(&fleet.node),
        None => Ok(()),
    }
);
/// What the sender of a zone's content calls it, in the requests of the timer that fills it.
struct KeyvalEtag;

impl OptionalVariable for KeyvalEtag {
    const NAME: &'static CStr = c"timer_keyval_etag";

    fn value(origin: Option<Rc<dyn Origin>>) -> Option<Vec<u8>> {
        Some(origin.as_deref()?.as_any().downcast_ref::<Run>()?.etag())
    }
}

/// The slot of the worker that serves the request.
struct WorkerSlot;

impl Variable for WorkerSlot {
    const NAME: &'static CStr = c"timer_worker";

    fn write(_: Option<Rc<dyn Origin>>, value: &mut VariableText) {
        if let Some(slot) = Role::current().slot() {
            let _ = write!(value, "{slot}");
        }
    }
}
