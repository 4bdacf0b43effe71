//! From a request to its answer.

use std::rc::Rc;

use super::fleets::{Which, after_reads};
use super::query_args::QueryArgs;
use super::query_args::Reach;
use super::response::{self, error, not_found};
use super::route::Route;
use super::upstreams::{self, Groups};
use super::{act, check, keyvals, lists, next, origin};
use crate::TimerModule;
use crate::conf::{KeyvalAccess, LocationConf, WriteAccess};
use crate::nginx::http::response::{Answer, Response};
use crate::nginx::http::{ClientRequest, Handler};
use crate::runner::Registry;

/// The content handler of `timer_api`.
pub struct Api;

impl Handler for Api {
    type Module = TimerModule;

    fn answer(request: &ClientRequest<'_>) -> Answer {
        answer(request).unwrap_or_else(Answer::Now)
    }
}

/// What is there is only read.
fn only_read() -> Response {
    response::not_allowed("GET, HEAD", "use GET")
}

/// What is there is an order.
fn only_act() -> Response {
    response::not_allowed("POST", "use POST")
}

/// It would be one, if this location took orders.
fn no_orders() -> Response {
    response::not_allowed("GET, HEAD", r#""timer_api" has no "write=on" here"#)
}

fn answer(request: &ClientRequest<'_>) -> Result<Answer, Response> {
    let write = request.configuration::<TimerModule>().and_then(LocationConf::api);
    let write = write.unwrap_or(WriteAccess::Off);
    let route = request.path().and_then(Route::of);
    match request.method() {
        b"GET" | b"HEAD" => {
            let route = route.filter(|route| write == WriteAccess::On || !route.acts());
            let route = route.ok_or_else(not_found)?;
            if route.acts() {
                return Err(only_act());
            }
            show(request, &registry()?, route, write)
        }
        b"POST" if write == WriteAccess::On => {
            may_act(request)?;
            let route = route.ok_or_else(not_found)?;
            if route.acts() {
                let known = QueryArgs(request.arguments()).only(route.arguments());
                known.map_err(|why| error(400, &why))?;
            }
            match route {
                Route::Act(name, action) => Ok(act::act(request, &registry()?, name, action)),
                Route::ActOnAll(action) => Ok(act::act_on_all(request, &registry()?, action)),
                _ => Err(only_read()),
            }
        }
        _ if !route.is_some_and(Route::acts) => Err(only_read()),
        _ if write == WriteAccess::On => Err(only_act()),
        _ => Err(no_orders()),
    }
}

fn registry() -> Result<Rc<Registry>, Response> {
    Registry::current().ok_or_else(|| error(503, "timers are not running"))
}

fn may_act(request: &ClientRequest<'_>) -> Result<(), Response> {
    if request.is_of_run() {
        return Err(error(403, "a timer's run may not act on timers"));
    }
    let mut headers = request.headers();
    let why = headers.find_map(|(name, value)| origin::refusal(request.host(), name, value));
    why.map_or(Ok(()), |why| Err(error(403, why)))
}

fn show(
    request: &ClientRequest<'_>,
    registry: &Rc<Registry>,
    route: Route<'_>,
    write: WriteAccess,
) -> Result<Answer, Response> {
    let arguments = QueryArgs(request.arguments());
    let number = |name: &str| registry.find(name).ok_or_else(not_found);
    let bad = |why: String| error(400, &why);
    match route {
        Route::Index if wants_page(request) => {
            Ok(all(registry, move |registry| lists::page(registry, write)))
        }
        Route::Index | Route::Timers => Ok(all(registry, lists::timers)),
        Route::Timer(name) => {
            let (number, registry) = (number(name)?, Rc::clone(registry));
            let which = Which::One(number);
            Ok(after_reads(&Rc::clone(&registry), which, move || lists::timer(&registry, number)))
        }
        Route::NextOf(name) => next::of_timer(registry, number(name)?, arguments).map_err(bad),
        Route::Next => next::of_expression(registry, arguments).map_err(bad),
        Route::Day => Ok(lists::day(registry)),
        Route::Text => Ok(all(registry, lists::text)),
        Route::Health => {
            if arguments.scope().map_err(bad)? == Some(Reach::Host) {
                return Ok(check::health_of_all(registry, Reach::Host));
            }
            Ok(all(registry, |registry| check::health_of_all(registry, Reach::Fleet)))
        }
        Route::HealthOf(name) => {
            let number = number(name)?;
            if arguments.scope().map_err(bad)? == Some(Reach::Host) {
                return Ok(check::health_of(registry, number, Reach::Host));
            }
            let of = Rc::clone(registry);
            let then = move || check::health_of(&of, number, Reach::Fleet);
            Ok(after_reads(registry, Which::One(number), then))
        }
        Route::Metrics => Ok(all(registry, lists::metrics)),
        Route::Upstreams => Ok(upstreams::write_all(Groups::now())),
        Route::Upstream(name) => {
            let groups = Groups::now();
            let number = groups.find(name).ok_or_else(not_found)?;
            Ok(upstreams::one(&groups, number))
        }
        Route::Keyvals => Ok(keyvals::list(registry, keyval_access(request))),
        Route::Keyval(name) => keyvals::content(name, keyval_access(request)),
        Route::Act(..) | Route::ActOnAll(_) => Err(only_act()),
    }
}

fn keyval_access(request: &ClientRequest<'_>) -> KeyvalAccess {
    let conf = request.configuration::<TimerModule>();
    conf.map(LocationConf::keyval_access).unwrap_or_default()
}

/// The answer about all timers, once it is known what their fleets say.
fn all(registry: &Rc<Registry>, then: impl FnOnce(&Rc<Registry>) -> Answer + 'static) -> Answer {
    let of = Rc::clone(registry);
    after_reads(registry, Which::All, move || then(&of))
}

/// Whether the client asks for HTML, as a browser does and curl does not.
fn wants_page(request: &ClientRequest<'_>) -> bool {
    let accept = request.header("accept").unwrap_or_default();
    accept.windows(9).any(|word| word.eq_ignore_ascii_case(b"text/html"))
}
