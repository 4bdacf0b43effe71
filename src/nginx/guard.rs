//! The border for panics: none may reach C.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::log::{Level, Log};

/// Runs the body of a function that nginx calls; after a panic, which is a defect of ours, writes
/// an alert and answers `otherwise`.
pub(super) fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    // Nothing that a body leaves half done is used again without being set anew.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = message(&*panic);
        Log::cycle().write(Level::Alert, format_args!("timer: caught panic: {text}"));
        // Its payload may panic when it is dropped.
        std::mem::forget(panic);
        otherwise
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}
