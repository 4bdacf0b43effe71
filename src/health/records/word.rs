//! A word of the shared memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// One word. Every change is a step: between two of them a worker may be stopped, or killed.
///
/// All steps of all workers are seen in one order: several decisions rest on two words of which one is
/// written before the other is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a>(pub(super) &'a AtomicU64);

impl Word<'_> {
    pub(super) fn load(self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn store(self, value: u64) {
        step();
        self.0.store(value, Ordering::SeqCst);
    }

    /// Writes `to` if `from` is still there; answers whether it was.
    pub(super) fn change(self, from: u64, to: u64) -> bool {
        step();
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn add(self, n: u64) {
        step();
        self.0.fetch_add(n, Ordering::SeqCst);
    }

    /// The greater one of `value` and what is there.
    pub(super) fn raise(self, value: u64) {
        step();
        self.0.fetch_max(value, Ordering::SeqCst);
    }

    /// Writes what `to` makes of what is there, until nobody else has written meanwhile; nothing if
    /// that is `None`. Answers what it was.
    pub(super) fn update(self, mut to: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        loop {
            let from = self.load();
            if self.change(from, to(from)?) {
                return Some(from);
            }
        }
    }
}

/// Some of a word's bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits {
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Bits {
    pub(super) const fn mask(self) -> u64 {
        (1 << self.len) - 1
    }

    pub(super) const fn of(self, word: u64) -> u64 {
        word >> self.at & self.mask()
    }

    /// `value` at its place; what does not fit is cut off.
    pub(super) const fn put(self, value: u64) -> u64 {
        (value & self.mask()) << self.at
    }
}

#[cfg(not(test))]
fn step() {}

#[cfg(test)]
pub(super) use hook::{at_steps, step};

#[cfg(test)]
mod hook {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut()>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Has `hook` called before each step that this thread makes in `body`.
    pub(in super::super) fn at_steps<T>(
        hook: impl FnMut() + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        struct Ends;
        impl Drop for Ends {
            fn drop(&mut self) {
                HOOK.take();
            }
        }
        HOOK.set(Some(Box::new(hook)));
        let _ends = Ends;
        body()
    }

    pub(in super::super) fn step() {
        // What the hook itself does has no hook.
        if let Some(mut hook) = HOOK.take() {
            hook();
            HOOK.set(Some(hook));
        }
    }
}
