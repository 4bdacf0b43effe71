//! Groups of servers: which one a location passes to, which of its servers get requests, and checks of
//! them.

mod check;
mod end;
mod exchange;
mod first_line;
mod group;
mod judging;
mod kept;
mod list;
mod own;
mod passed;
mod peers;
mod pin;
mod response;
mod server;
mod settings;
mod uri;
mod wrap;

pub use check::{CheckInProgress, CheckRequest, check};
pub use end::{CheckEnd, Cut};
pub use exchange::{Exchange, ExchangeRequest, Exchanged, exchange};
pub use group::Group;
pub use passed::Passed;
pub use peers::{Mark, Marked, Membership, Peer, PeersUnreadable};
pub use response::UpstreamResponse;
pub use server::{Server, SocketAddress};
pub use settings::{Altered, altered};
pub use uri::proxy_uri;
pub use wrap::{allow_pinning, watch_connects};
