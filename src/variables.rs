//! The variables of a timer's request.
#![forbid(unsafe_code)]

use std::any::Any;
use std::ffi::CStr;
use std::fmt::Write;
use std::rc::Rc;

use crate::nginx::conf::{Parsing, Refused};
use crate::nginx::process::Role;
use crate::nginx::run::Origin;
use crate::nginx::run::variable::{self, LONGEST, Variable};
use crate::nginx::text::Text;
use crate::runner::Run;

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
    variable::add::<WorkerSlot>(parsing)
}

type Value = Text<LONGEST>;

/// Defines a variable that is empty outside a timer's request.
macro_rules! of_run {
    ($(#[$doc:meta])* $variable:ident, $name:literal, |$run:ident, $value:ident| $write:expr) => {
        $(#[$doc])*
        struct $variable;

        impl Variable for $variable {
            const NAME: &'static CStr = $name;

            fn write(origin: Option<Rc<dyn Origin>>, $value: &mut Value) {
                let origin = origin.as_deref().map(|origin| origin as &dyn Any);
                if let Some($run) = origin.and_then(<dyn Any>::downcast_ref::<Run>) {
                    // What does not fit is cut off, never an error.
                    let _ = $write;
                }
            }
        }
    };
}

of_run!(
    /// The timer's name.
    Name, c"timer_name", |run, value| value.write_str(run.timer())
);
of_run!(
    /// The run's unique id, 32 hex digits.
    RunId, c"timer_run", |run, value| write!(value, "{}", run.id())
);
of_run!(
    /// The due time, in Unix seconds with milliseconds.
    Due, c"timer_due", |run, value| write!(value, "{}", run.due())
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

/// The slot of the worker that serves the request.
struct WorkerSlot;

impl Variable for WorkerSlot {
    const NAME: &'static CStr = c"timer_worker";

    fn write(_: Option<Rc<dyn Origin>>, value: &mut Value) {
        if let Some(slot) = Role::current().slot() {
            let _ = write!(value, "{slot}");
        }
    }
}
