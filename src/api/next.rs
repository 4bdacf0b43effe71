//! The due times to come, of a timer or of any expression.

use std::rc::Rc;

use serde::Serialize;

use super::piece::Then;
use super::query_args::{Plus, QueryArgs};
use super::response::{self, body_by, response};
use crate::nginx::http::response::Answer;
use crate::os::wall_clock;
use crate::runner::Registry;
use crate::schedule::{Cron, Schedule, UnixMs, Zone};

/// What comes before the list.
#[derive(Serialize)]
struct Head<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    schedule: String,
    timezone: Option<&'a str>,
    after: String,
}

/// Longer expressions are none.
const LONGEST: usize = 1024;

/// Those of a timer.
pub(super) fn of_timer(
    registry: &Rc<Registry>,
    number: usize,
    arguments: QueryArgs<'_>,
) -> Result<Answer, String> {
    let timer = registry.timers().get(number).ok_or("no such timer")?;
    list(Some(timer.name.as_str()), timer.due_times.schedule.clone(), arguments)
}

/// Those of the expression in `cron` in the zone in `tz`.
pub(super) fn of_expression(
    registry: &Registry,
    arguments: QueryArgs<'_>,
) -> Result<Answer, String> {
    let cron = arguments.get("cron", Plus::Blank)?.ok_or("\"cron\" argument is missing")?;
    let zone = match arguments.get("tz", Plus::Itself)? {
        Some(name) => registry.zones().get(&name).map_err(|why| why.to_string())?,
        None => Zone::utc(),
    };
    if cron.len() > LONGEST {
        return Err("\"cron\" argument is too long".to_owned());
    }
    let parsed = Cron::parse(&cron, zone).map_err(|why| {
        if why.is_never_due() {
            format!("cron expression \"{cron}\" {why}")
        } else {
            format!("invalid cron expression \"{cron}\": {why}")
        }
    })?;
    list(None, Schedule::Cron(parsed), arguments)
}

fn list(
    name: Option<&str>,
    schedule: Schedule,
    arguments: QueryArgs<'_>,
) -> Result<Answer, String> {
    let after = arguments.after(wall_clock())?;
    let mut left = arguments.count()?;
    let mut start = Vec::new();
    let timezone = match &schedule {
        Schedule::Every(_) => None,
        Schedule::Cron(cron) => Some(cron.zone().name()),
    };
    let after_shown = after.rfc3339().to_string();
    let head = Head { name, schedule: schedule.to_string(), timezone, after: after_shown };
    super::json::write(&head, &mut start);
    start.pop();
    start.extend_from_slice(b",\"next\":[");

    let mut from: UnixMs = after;
    let mut first = true;
    let body = body_by(move |piece| {
        piece.append(&mut start);
        let due = if left == 0 { None } else { schedule.next(from) };
        let due = due.filter(|due| due.is_in_calendar());
        let Some(due) = due else {
            piece.extend_from_slice(b"]}\n");
            return Then::End;
        };
        if !first {
            piece.push(b',');
        }
        first = false;
        left -= 1;
        from = due;
        super::json::write(&due.rfc3339().to_string(), piece);
        Then::More
    });
    Ok(Answer::Now(response(200, response::JSON, body)))
}
