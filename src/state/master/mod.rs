//! The state in the master: the file opened, made, moved and converted, and what a load writes.

pub(in crate::state) mod allocate;
pub(in crate::state) mod attach;
pub(in crate::state) mod check;
pub(in crate::state) mod convert;
pub(in crate::state) mod file;
pub(in crate::state) mod judge;
pub(in crate::state) mod load;
pub(in crate::state) mod path;
pub(in crate::state) mod quota;
pub(in crate::state) mod rewrite;
pub(in crate::state) mod scan;
pub(in crate::state) mod state;
pub(in crate::state) mod take_over;
pub(in crate::state) mod texts;
