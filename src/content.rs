//! What answers the runs of a location by itself: `timer_cleanup`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::TimerModule;
use crate::api::Api;
use crate::cleanup::{Failure, Problem, Step, Walk};
use crate::conf::{LocationConf, MainConf};
use crate::nginx::escaped;
use crate::nginx::hooks::with_main;
use crate::nginx::http::response::{Answer, Body, Job, Progress, Response};
use crate::nginx::http::{Block, ClientRequest, Handler};
use crate::nginx::log::Level;
use crate::nginx::process;
use crate::os::file::FileId;
use crate::os::wall_clock;
use crate::runner::Run;

/// Gives `conf`, that of `block`, what it has not set itself; what is a part of a location is answered as that is.
pub fn inherit(conf: &mut LocationConf, from: &LocationConf, block: &Block) {
    conf.inherit(from);
    if conf.inherit_api(from, block.is_part_of_location()) {
        block.answer_by::<Api>();
    }
    if conf.inherit_cleanup(from, block.is_part_of_location()) {
        block.answer_by::<Cleanup>();
    }
}

/// Removes old files.
pub struct Cleanup;

impl Handler for Cleanup {
    type Module = TimerModule;

    fn answer(request: &ClientRequest<'_>) -> Answer {
        let origin = request.origin();
        let is_run = origin.is_some_and(|origin| (*origin).as_any().is::<Run>());
        if !is_run || !request.is_main() {
            return response(403, "text/plain", "for a timer's run only\n".to_owned());
        }
        let options = request.configuration::<TimerModule>().and_then(LocationConf::cleanup);
        let Some(options) = options else { return response(500, "text/plain", String::new()) };
        let walk = Walk::new(Arc::clone(options), wall_clock(), own_files());
        Answer::Background(Box::new(CleanupJob(walk)))
    }
}

/// Files that are no concern of a clean-up, wherever they are.
fn own_files() -> Vec<FileId> {
    let mut own = process::own_files();
    let states = with_main::<TimerModule, _>(|main: &MainConf| {
        let timers = main.state().and_then(|state| state.path());
        let zones = main.keyval_zones().iter().filter_map(|zone| zone.state());
        timers.into_iter().chain(zones).filter_map(|path| FileId::at(path).ok()).collect()
    });
    own.extend(states.unwrap_or_else(Vec::new));
    own
}

struct CleanupJob(Walk);

impl Job for CleanupJob {
    fn work(&mut self, may_go_on: &dyn Fn() -> bool) -> Progress {
        loop {
            if self.0.step() == Step::Last {
                return Progress::Done;
            }
            if !may_go_on() {
                return Progress::More;
            }
        }
    }

    fn answer(self: Box<Self>, request: &ClientRequest<'_>) -> Answer {
        let report = self.0.report();
        for failure in &report.failures {
            log(request, failure);
        }
        let path = shown(self.0.path());
        request.log(Level::Notice, format_args!("clean-up of \"{path}\": {report}"));
        let status = if report.has_failed() { 500 } else { 200 };
        let mut json = serde_json::to_string(report).unwrap_or_default();
        json.push('\n');
        response(status, "application/json", json)
    }
}

fn log(request: &ClientRequest<'_>, Failure { path, problem }: &Failure) {
    let path = shown(path);
    match problem {
        Problem::Call(call, errno) => {
            request.log_error(Level::Error, *errno, format_args!("{call} \"{path}\" failed"));
        }
        Problem::TooDeep => {
            request.log(Level::Error, format_args!("directory \"{path}\" is too deep"));
        }
        Problem::NoMemory => {
            request.log(Level::Error, format_args!("no memory for clean-up of \"{path}\""));
        }
    }
}

/// Its bytes as they can stand in a log.
fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes()).to_string()
}

fn response(status: u16, content_type: &'static str, body: String) -> Answer {
    let body = Body::Whole(Cow::Owned(body.into_bytes()));
    Answer::Now(Response { status, content_type, headers: Vec::new(), body })
}
