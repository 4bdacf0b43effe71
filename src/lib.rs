//! `ngx_http_timer_module`: single-instance timers for nginx. A timer is a location that nginx runs on schedule.
//!
//! The descriptor that nginx loads, and hooks that forward. The layers below it:
//!
//! - [`schedule`]: pure functions from one instant to the next due time;
//! - [`state`]: which due times have been run or skipped, and what is in progress, in a file;
//! - [`fleet`]: which of several hosts makes a run; [`os`]: system calls; `nginx`: everything that names nginx's types;
//! - [`keyval`]: key-value pairs in memory that all workers share; `sync`: what runs fetch is put there;
//! - [`health`]: which servers of an upstream group get requests; `checker`: their checks at work;
//! - [`cleanup`]: old files; `conf`: directives as plain values; `content`: what answers runs; `variables`: of timers;
//! - `api`: what is shown, and done by hand;
//! - `runner`: on a due time, arm the next, then run this one; `deadlines`: which is due first.
#![cfg_attr(not(feature = "nginx"), expect(dead_code, unused_imports))] // built for its tests alone
#[cfg(any(test, feature = "nginx"))]
mod api;
#[cfg(feature = "nginx")]
mod checker;
mod cleanup;
#[cfg(feature = "nginx")]
mod commands;
#[cfg(feature = "nginx")]
mod conf;
#[cfg(feature = "nginx")]
mod content;
mod deadlines;
mod fleet;
mod health;
mod keyval;
#[cfg(feature = "nginx")]
mod nginx;
mod nth;
mod os;
#[cfg(feature = "nginx")]
mod runner;
mod schedule;
mod state;
#[cfg(feature = "nginx")]
mod sync;
mod throttle;
#[cfg(feature = "nginx")]
mod variables;

#[cfg(feature = "nginx")]
use module::TimerModule;

/// The module's descriptor and hooks.
#[cfg(feature = "nginx")]
mod module {
    use std::ffi::c_void;

    use ngx::ffi::{ngx_command_t, ngx_http_module_t, ngx_module_t};

    use crate::commands::COMMANDS;
    use crate::conf::{LocationConf, MainConf};
    use crate::nginx::conf::{Opening, Parsing, Refused, Unusable, WhollyRead};
    use crate::nginx::hooks::{HttpModule, InitProcess, context, descriptor};
    use crate::nginx::{http::Block, log::Log, module::Module};
    use crate::{checker, conf, content, runner, sync, variables};

    /// The module, as nginx sees it.
    pub struct TimerModule;

    static CONTEXT: ngx_http_module_t = context::<TimerModule>();

    /// The descriptor. nginx writes the module's indices to it.
    #[unsafe(no_mangle)]
    pub static mut ngx_http_timer_module: ngx_module_t = ngx_module_t {
        ctx: (&raw const CONTEXT).cast_mut().cast::<c_void>(),
        commands: (&raw const COMMANDS).cast_mut().cast::<ngx_command_t>(),
        ..descriptor::<TimerModule>()
    };

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
            content::inherit(conf, from, block);
        }

        fn after_configuration(main: &mut MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
            conf::resolve(main, read)
        }

        fn open(main: &MainConf, opening: &Opening) -> Result<(), Unusable> {
            sync::open(main, opening)?;
            checker::open(main, opening)?;
            runner::open(main, opening)
        }

        fn loaded(main: &MainConf, workers: usize, log: Log) {
            sync::load(main, log);
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
            sync::end();
        }
    }
}

/// What `load_module` reads of a file (`ngx_load_module`), beside the descriptor: one module, in no order of its own.
#[cfg(feature = "loadable")]
mod loadable {
    use std::ffi::c_char;
    use std::ptr;

    use ngx::ffi::ngx_module_t;

    use crate::module::ngx_http_timer_module;

    #[unsafe(no_mangle)]
    pub static mut ngx_modules: [*const ngx_module_t; 2] =
        [&raw const ngx_http_timer_module, ptr::null()];

    #[unsafe(no_mangle)]
    pub static mut ngx_module_names: [*const c_char; 2] =
        [c"ngx_http_timer_module".as_ptr(), ptr::null()];

    #[unsafe(no_mangle)]
    pub static mut ngx_module_order: [*const c_char; 1] = [ptr::null()];
}
