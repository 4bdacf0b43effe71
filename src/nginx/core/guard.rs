//! The border for panics: none may reach C.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::log::{Level, Log};
#[cfg(feature = "panic-points")]
use super::panics;

/// Runs the body of a function that nginx calls; after a panic, which is a defect of ours, writes
/// an alert and answers `otherwise`.
///
/// That has to be right wherever the body panics: what is done in nginx, and makes another answer of
/// it, stands behind the guard.
#[cfg_attr(feature = "panic-points", track_caller)]
pub(in crate::nginx) fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    guard_else(body, || otherwise)
}

/// The same, for what is still to be done after a panic; `otherwise` does nothing that may panic.
#[cfg_attr(feature = "panic-points", track_caller)]
pub(in crate::nginx) fn guard_else<T>(
    body: impl FnOnce() -> T,
    otherwise: impl FnOnce() -> T,
) -> T {
    #[cfg(feature = "panic-points")]
    let body = panics::around(body);
    // Nothing that a body leaves half done is used again without being set anew.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        tell_of_panic(message(&*panic));
        // Its payload may panic when it is dropped.
        std::mem::forget(panic);
        otherwise()
    })
}

/// The same in another thread than nginx's, in which nothing is logged: what is to be told of a panic is the error.
#[cfg_attr(feature = "panic-points", track_caller)]
pub(in crate::nginx) fn guard_in_thread<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    #[cfg(feature = "panic-points")]
    let body = panics::around_in_thread(body);
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = message(&*panic).to_owned();
        // Its payload may panic when it is dropped.
        std::mem::forget(panic);
        text
    })
}

/// A panic was caught.
pub(in crate::nginx) fn tell_of_panic(text: &str) {
    Log::cycle().write(Level::Alert, format_args!("timer: caught panic: {text}"));
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}
