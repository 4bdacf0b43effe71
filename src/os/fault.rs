//! System calls that fail, for tests: each call of the state layer asks here first.
//!
//! In the module itself nothing fails here, and the questions compile to nothing.

pub use super::call::Call;

/// Whether `call` may be made now.
///
/// # Errors
///
/// What a test has it fail with.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it may fail")]
pub(super) const fn check(_call: Call) -> std::io::Result<()> {
    Ok(())
}

/// How many of `bytes` this call transfers.
///
/// # Errors
///
/// What a test has it fail with.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it may fail")]
pub(super) const fn transfer(_call: Call, bytes: usize) -> std::io::Result<usize> {
    Ok(bytes)
}

#[cfg(test)]
pub(crate) use injected::{CallFault, Effect, Repeat, fired, with};
/// What the calls of tests fail with.
#[cfg(test)]
pub(crate) mod errno {
    pub(crate) use libc::{EACCES, EBUSY, EINVAL, EIO, EMFILE, ENOLCK, ENOSPC, ENOSYS, EPERM};
}

#[cfg(test)]
pub(super) use injected::{check, transfer};

#[cfg(test)]
mod injected {
    use std::cell::Cell;
    use std::io;

    use super::Call;

    /// What befalls the calls of this thread.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct CallFault {
        /// Which ones; `None` for all.
        pub(crate) call: Option<Call>,
        /// So many succeed before.
        pub(crate) after: u32,
        pub(crate) repeat: Repeat,
        pub(crate) effect: Effect,
    }

    /// How often it happens.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Repeat {
        Once,
        FromThenOn,
    }

    /// What happens.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Effect {
        /// The call fails with this errno.
        Errno(i32),
        /// It transfers so many bytes at most; other calls than read and write succeed.
        Short(usize),
    }

    thread_local! {
        static FAULT: Cell<Option<CallFault>> = const { Cell::new(None) };
        static FIRED: Cell<u32> = const { Cell::new(0) };
    }

    /// Does `work` under a fault, in this thread.
    pub(crate) fn with<T>(fault: CallFault, work: impl FnOnce() -> T) -> T {
        struct Cleared;
        impl Drop for Cleared {
            fn drop(&mut self) {
                FAULT.set(None);
            }
        }
        FIRED.set(0);
        FAULT.set(Some(fault));
        let _cleared = Cleared;
        work()
    }

    /// How many calls the last fault has befallen.
    pub(crate) fn fired() -> u32 {
        FIRED.get()
    }

    fn effect(call: Call) -> Option<Effect> {
        let fault = FAULT.get()?;
        if fault.call.is_some_and(|it| it != call) {
            return None;
        }
        if fault.after > 0 {
            FAULT.set(Some(CallFault { after: fault.after - 1, ..fault }));
            return None;
        }
        if fault.repeat == Repeat::Once {
            FAULT.set(None);
        }
        FIRED.set(FIRED.get() + 1);
        Some(fault.effect)
    }

    pub(in crate::os) fn check(call: Call) -> io::Result<()> {
        match effect(call) {
            Some(Effect::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Short(_)) | None => Ok(()),
        }
    }

    pub(in crate::os) fn transfer(call: Call, bytes: usize) -> io::Result<usize> {
        match effect(call) {
            Some(Effect::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Short(most)) => Ok(bytes.min(most)),
            None => Ok(bytes),
        }
    }
}
