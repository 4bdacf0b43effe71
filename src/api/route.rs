//! From a path to what is asked for.

use std::fmt;

/// What is asked for; names are as the client wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// The page, or all timers.
    Index,
    /// All timers.
    Timers,
    /// One timer.
    Timer(&'a str),
    /// The due times of a timer to come.
    NextOf(&'a str),
    /// Those of any expression.
    Next,
    /// The last and the next 24 hours of all timers.
    Day,
    /// The table.
    Text,
    /// Whether all timers are well.
    Health,
    /// Whether one is.
    HealthOf(&'a str),
    /// The metrics.
    Metrics,
    /// All groups with health checks.
    Upstreams,
    /// One of them.
    Upstream(&'a str),
    /// All zones of key-value pairs.
    Keyvals,
    /// The content of one of them.
    Keyval(&'a str),
    /// A timer is to be steered.
    Act(&'a str, Action),
    /// All timers are.
    ActOnAll(ActionOnAll),
}

/// What can be done with a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Run,
    Cancel,
    Pause,
    Resume,
    Reset,
}

/// What can be done with all timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActionOnAll {
    Pause,
    Resume,
}

impl<'a> Route<'a> {
    /// What `path`, decoded and below the location, asks for; `None` if nothing is there.
    pub(super) fn of(path: &'a [u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix('/')?;
        let (first, rest) = match path.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        Some(match (first, rest) {
            ("", None) => Self::Index,
            ("timers", None) => Self::Timers,
            ("timers", Some(rest)) => Self::of_timer(rest)?,
            ("next", None) => Self::Next,
            ("day", None) => Self::Day,
            ("text", None) => Self::Text,
            ("health", None) => Self::Health,
            ("health", Some(name)) => Self::HealthOf(name),
            ("metrics", None) => Self::Metrics,
            ("upstreams", None) => Self::Upstreams,
            ("upstreams", Some(name)) => Self::Upstream(name),
            ("keyvals", None) => Self::Keyvals,
            ("keyvals", Some(name)) => Self::Keyval(name),
            ("pause", None) => Self::ActOnAll(ActionOnAll::Pause),
            ("resume", None) => Self::ActOnAll(ActionOnAll::Resume),
            _ => return None,
        })
    }

    fn of_timer(rest: &'a str) -> Option<Self> {
        let Some((name, what)) = rest.split_once('/') else { return Some(Self::Timer(rest)) };
        Some(match what {
            "next" => Self::NextOf(name),
            "run" => Self::Act(name, Action::Run),
            "cancel" => Self::Act(name, Action::Cancel),
            "pause" => Self::Act(name, Action::Pause),
            "resume" => Self::Act(name, Action::Resume),
            "reset" => Self::Act(name, Action::Reset),
            _ => return None,
        })
    }

    /// The arguments that a `POST` may have.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Act(_, Action::Pause) | Self::ActOnAll(ActionOnAll::Pause) => &["for", "scope"],
            Self::Act(_, Action::Resume) | Self::ActOnAll(ActionOnAll::Resume) => &["scope"],
            _ => &[],
        }
    }

    /// Whether it changes something, and so is there for `POST` alone.
    pub(super) fn acts(self) -> bool {
        matches!(self, Self::Act(..) | Self::ActOnAll(_))
    }
}

/// The log's word for what was done.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "run by hand",
            Self::Cancel => "cancelled",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Reset => "reset",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there() {
        for (path, route) in [
            ("/", Route::Index),
            ("/timers", Route::Timers),
            ("/timers/a.b-c", Route::Timer("a.b-c")),
            ("/timers/a/next", Route::NextOf("a")),
            ("/timers/next", Route::Timer("next")),
            ("/next", Route::Next),
            ("/day", Route::Day),
            ("/text", Route::Text),
            ("/health", Route::Health),
            ("/health/a", Route::HealthOf("a")),
            ("/metrics", Route::Metrics),
            ("/upstreams", Route::Upstreams),
            ("/upstreams/back/end \"", Route::Upstream("back/end \"")),
            ("/keyvals", Route::Keyvals),
            ("/keyvals/a b", Route::Keyval("a b")),
            ("/timers/a/run", Route::Act("a", Action::Run)),
            ("/timers/a/cancel", Route::Act("a", Action::Cancel)),
            ("/timers/a/pause", Route::Act("a", Action::Pause)),
            ("/timers/a/resume", Route::Act("a", Action::Resume)),
            ("/timers/a/reset", Route::Act("a", Action::Reset)),
            ("/pause", Route::ActOnAll(ActionOnAll::Pause)),
            ("/resume", Route::ActOnAll(ActionOnAll::Resume)),
        ] {
            assert_eq!(Route::of(path.as_bytes()), Some(route), "{path}");
        }
    }

    #[test]
    fn finds_nothing_elsewhere() {
        for path in ["", "x", "/x", "//", "/text/", "/timers/a/b", "/timers/a/run/x", "/Timers"] {
            assert_eq!(Route::of(path.as_bytes()), None, "{path}");
        }
        assert_eq!(Route::of(b"/timers/\xff"), None);
    }

    #[test]
    fn only_orders_act() {
        assert!(Route::of(b"/timers/a/run").is_some_and(Route::acts));
        assert!(Route::of(b"/pause").is_some_and(Route::acts));
        assert!(!Route::of(b"/timers/a/next").is_some_and(Route::acts));
    }

    #[test]
    fn only_pauses_have_arguments() {
        let has = |path: &[u8]| Route::of(path).map(Route::arguments);
        assert_eq!(has(b"/timers/a/pause"), Some(&["for", "scope"][..]));
        assert_eq!(has(b"/pause"), Some(&["for", "scope"][..]));
        assert_eq!(has(b"/timers/a/run"), Some(&[][..]));
        assert_eq!(has(b"/timers/a/reset"), Some(&[][..]));
        assert_eq!(has(b"/resume"), Some(&["scope"][..]));
    }
}
