//! What is to be done and when: pure functions of a record, a schedule and the clock.

pub(in crate::state) mod decide;
pub(in crate::state) mod due;
pub(in crate::state) mod events;
pub(in crate::state) mod fleet;
pub(in crate::state) mod left_out;
pub(in crate::state) mod look;
pub(in crate::state) mod retry;
