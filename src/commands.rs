//! The directives.
#![forbid(unsafe_code)]

use crate::api::Api;
use crate::conf;
use crate::content::Cleanup;
use crate::nginx::conf::{Commands, http_command, location_command, no_command};

/// All directives, closed by nginx's empty one.
pub static COMMANDS: Commands<22> = Commands([
    location_command::<conf::TimerDirective>(),
    location_command::<conf::TimerFleet>(),
    location_command::<conf::TimerWorker>(),
    location_command::<conf::TimerTimeout>(),
    location_command::<conf::TimerSuccess>(),
    location_command::<conf::TimerMissed>(),
    location_command::<conf::TimerOverlap>(),
    location_command::<conf::TimerRetry>(),
    location_command::<conf::TimerTimezone>(),
    location_command::<conf::TimerCapture>(),
    location_command::<conf::TimerKeyval>(),
    location_command::<conf::TimerNotify>(),
    location_command::<conf::TimerUnhealthyAfter>(),
    location_command::<conf::TimerApi<Api>>(),
    location_command::<conf::TimerCleanup<Cleanup>>(),
    location_command::<conf::HealthCheckDirective>(),
    http_command::<conf::MatchDirective>(),
    http_command::<conf::KeyvalZoneDirective>(),
    http_command::<conf::KeyvalDirective>(),
    http_command::<conf::TimerState>(),
    http_command::<conf::TimerMaxRunning>(),
    no_command(),
]);
