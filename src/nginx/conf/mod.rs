//! The configuration: its directives, its locations, and what happens when it has been read.

mod block;
pub(in crate::nginx) mod directive;
mod keyed_variable;
pub(in crate::nginx) mod location;
pub(in crate::nginx) mod opening;
pub(in crate::nginx) mod parsing;
#[cfg(ngx_feature = "pcre")]
mod regex;
#[cfg(not(ngx_feature = "pcre"))]
#[path = "no_regex.rs"]
mod regex;
mod shared_zone;
mod uri;
mod variable;
pub(in crate::nginx) mod wholly_read;

pub use directive::{
    Arguments, Commands, Context, HttpDirective, LocationDirective, http_command, location_command,
    no_command, parse_size, parse_time,
};
pub use keyed_variable::{Lookup, ValueRoom};
pub use location::{ContentHandler, Location, LocationKind};
pub use opening::{Opening, Purpose, Unusable};
pub use parsing::{ConfPosition, Parsing, Refused};
pub use regex::Regex;
pub use shared_zone::{SharedZone, page_size};
pub use variable::Variable;
pub use wholly_read::WhollyRead;
