//! `ngx_http_timer_module`: single-instance timers for nginx. A timer is a location that nginx runs on schedule.
//!
//! The descriptor that nginx loads, and hooks that forward. The layers below it:
//!
//! - [`schedule`]: pure functions from one instant to the next due time;
//! - [`state`]: which due times have been run or skipped, and what is in progress, in a file;
//! - [`os`]: system calls; `nginx`: everything that names nginx's types;
//! - [`health`]: which servers of an upstream group get requests; `checker`: their checks at work;
//! - `conf`: directives as plain values; `api`: what is shown, and done by hand; `variables`: of timers;
//! - `runner`: on a due time, arm the next, then run this one; `deadlines`: which is due first.
#![cfg_attr(not(feature = "nginx"), expect(dead_code, unused_imports))] // built for its tests alone

#[cfg(any(test, feature = "nginx"))]
mod api;
#[cfg(feature = "nginx")]
mod checker;
#[cfg(feature = "nginx")]
mod conf;
mod deadlines;
mod health;
#[cfg(feature = "nginx")]
mod nginx;
mod nth;
mod os;
#[cfg(feature = "nginx")]
mod runner;
mod schedule;
mod state;
mod throttle;
#[cfg(feature = "nginx")]
mod variables;

#[cfg(feature = "nginx")]
use module::TimerModule;

/// The module's descriptor and hooks.
#[cfg(feature = "nginx")]
mod module {
    use std::ffi::{c_char, c_void};
    use std::ptr;

    use ngx::ffi::{ngx_command_t, ngx_http_module_t, ngx_module_t};

    use crate::api::Api;
    use crate::conf::{
        HealthCheckDirective, LocationConf, MainConf, MatchDirective, TimerApi, TimerCapture,
        TimerDirective, TimerMaxRunning, TimerMissed, TimerNotify, TimerOverlap, TimerRetry,
        TimerState, TimerSuccess, TimerTimeout, TimerTimezone, TimerUnhealthyAfter, TimerWorker,
    };
    use crate::nginx::conf::{
        Commands, Opening, Parsing, Refused, Unusable, WhollyRead, http_command, location_command,
    };
    use crate::nginx::hooks::{HttpModule, InitProcess, context, descriptor};
    use crate::nginx::{http::Block, log::Log, module::Module};
    use crate::{checker, conf, runner, variables};

    /// The module, as nginx sees it.
    pub struct TimerModule;

    static COMMANDS: Commands<17> = Commands([
        location_command::<TimerDirective>(),
        location_command::<TimerWorker>(),
        location_command::<TimerTimeout>(),
        location_command::<TimerSuccess>(),
        location_command::<TimerMissed>(),
        location_command::<TimerOverlap>(),
        location_command::<TimerRetry>(),
        location_command::<TimerTimezone>(),
        location_command::<TimerCapture>(),
        location_command::<TimerNotify>(),
        location_command::<TimerUnhealthyAfter>(),
        location_command::<TimerApi<Api>>(),
        location_command::<HealthCheckDirective>(),
        http_command::<MatchDirective>(),
        http_command::<TimerState>(),
        http_command::<TimerMaxRunning>(),
        ngx_command_t::empty(),
    ]);

    static CONTEXT: ngx_http_module_t = context::<TimerModule>();

    /// The descriptor. nginx writes the module's indices to it.
    #[unsafe(no_mangle)]
    pub static mut ngx_http_timer_module: ngx_module_t = ngx_module_t {
        ctx: (&raw const CONTEXT).cast_mut().cast::<c_void>(),
        commands: (&raw const COMMANDS).cast_mut().cast::<ngx_command_t>(),
        ..descriptor::<TimerModule>()
    };

    /// The modules of this file, as `load_module` finds them (`ngx_load_module`).
    #[unsafe(no_mangle)]
    pub static mut ngx_modules: [*const ngx_module_t; 2] =
        [&raw const ngx_http_timer_module, ptr::null()];

    /// Their names.
    #[unsafe(no_mangle)]
    pub static mut ngx_module_names: [*const c_char; 2] =
        [c"ngx_http_timer_module".as_ptr(), ptr::null()];

    /// Their order: none is asked for.
    #[unsafe(no_mangle)]
    pub static mut ngx_module_order: [*const c_char; 1] = [ptr::null()];

    // SAFETY: a static, whose context is that of this type.
    unsafe impl Module for TimerModule {
        type Main = MainConf;
        type Location = LocationConf;

        fn descriptor() -> *const ngx_module_t {
            &raw const ngx_http_timer_module
        }
    }

    impl HttpModule for TimerModule {
        fn before_configuration(parsing: &mut Parsing<'_>) -> Result<(), Refused> {
            variables::add(parsing)
        }

        fn inherit(conf: &mut LocationConf, from: &LocationConf, block: &Block) {
            conf.inherit(from);
            if conf.inherit_api(from, block.is_part_of_location()) {
                block.answer_by::<Api>();
            }
        }

        fn after_configuration(main: &mut MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
            conf::resolve(main, read)
        }

        fn open(main: &MainConf, opening: &Opening) -> Result<(), Unusable> {
            checker::open(main, opening)?;
            runner::open(main, opening)
        }

        fn loaded(main: &MainConf, workers: usize, log: Log) {
            checker::load(main);
            runner::load(main, workers, log);
        }

        fn process_begins(main: &MainConf, process: InitProcess) {
            runner::begin(main, process);
            checker::begin(main, process);
        }

        fn process_ends() {
            checker::end();
            runner::end();
        }
    }
}
