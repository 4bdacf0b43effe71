//! For t/nginx/receiver.t and panics.t alone, in the build with the feature `panic-points`: what each run's
//! response brings is written to the log, and each run has a guard.

use std::cell::Cell;

use super::receiver::{Flow, Receiver, ResponseHead};
use super::state::Guard;
use crate::nginx::core::log::{Level, Log};
use crate::nginx::core::string::escaped;

/// Has enough after so many bytes, if the response's header `X-Enough` says so.
#[derive(Default)]
pub(super) struct Witness {
    enough: Cell<Option<usize>>,
    taken: Cell<usize>,
}

impl Receiver for Witness {
    fn head(&self, head: &ResponseHead<'_>) -> Flow {
        say(format_args!("status {}", head.status()));
        for (name, value) in head.headers() {
            say(format_args!("header {}: {}", escaped(name), escaped(value)));
            if name.eq_ignore_ascii_case(b"X-Enough") {
                self.enough.set(String::from_utf8_lossy(value).parse().ok());
            }
        }
        self.flow()
    }

    fn body(&self, piece: &[u8]) -> Flow {
        let last = piece.get(piece.len().saturating_sub(20)..).unwrap_or_default();
        say(format_args!("{} bytes, the last are {}", piece.len(), escaped(last)));
        self.taken.set(self.taken.get() + piece.len());
        self.flow()
    }
}

impl Guard for Witness {
    fn goes_on(&self) -> bool {
        true
    }
}

impl Witness {
    fn flow(&self) -> Flow {
        let enough = self.enough.get().is_some_and(|enough| self.taken.get() >= enough);
        if enough { Flow::Enough } else { Flow::More }
    }
}

fn say(what: std::fmt::Arguments<'_>) {
    Log::cycle().write(Level::Notice, format_args!("received: {what}"));
}
