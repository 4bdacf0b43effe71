//! Cron schedules as a whole: worked cases, properties, and a second computation.

mod days;
mod properties;
mod random;
mod reference;
mod vectors;

use super::*;

fn cron(expression: &str, zone: &str) -> Cron {
    let zone = zones().get(zone).unwrap();
    Cron::parse(expression, zone).unwrap_or_else(|e| panic!("{expression}: {e}"))
}

/// The built-in copy: the same everywhere.
fn zones() -> Zones {
    Zones::builtin()
}

fn at(instant: &str) -> UnixMs {
    UnixMs(instant.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}
