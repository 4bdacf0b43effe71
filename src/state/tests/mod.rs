//! Tests of more than one module, and the simulator.

pub(in crate::state) mod bounded;
pub(in crate::state) mod check;
pub(in crate::state) mod claim;
pub(in crate::state) mod contention;
pub(in crate::state) mod convert;
pub(in crate::state) mod decide;
pub(in crate::state) mod events;
pub(in crate::state) mod fault;
pub(in crate::state) mod fixture;
pub(in crate::state) mod fleet;
pub(in crate::state) mod fleet_simulator;
pub(in crate::state) mod left_out;
pub(in crate::state) mod load;
pub(in crate::state) mod make;
pub(in crate::state) mod open;
pub(in crate::state) mod rng;
pub(in crate::state) mod simulator;
pub(in crate::state) mod simulator_tests;
pub(in crate::state) mod take_over;
pub(in crate::state) mod texts;
