//! How a check ends.

/// What a check has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckEnd {
    /// The response has passed the tests.
    Passed,
    /// The server did not answer, or not as it must: why.
    Failed(String),
    /// The same, since time ran out: says nothing where this process has stood still meanwhile.
    TimedOut(String),
    /// Nothing can be said of the server: why.
    Inconclusive(String),
}

/// Why a check is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It takes too long.
    Timeout,
    /// The worker leaves.
    Leaving,
}
