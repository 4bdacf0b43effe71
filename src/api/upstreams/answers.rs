//! JSON of groups, written a server at a time.

use super::json::{begin_group, write_server};
use super::look::Groups;
use super::view::GroupView;
use super::{Then, Upstreams as _};
use crate::api::json;
use crate::api::response::{self, body_by, response};
use crate::nginx::http::response::Answer;

/// The JSON of one group.
pub(in crate::api) fn one(groups: &Groups, number: usize) -> Answer {
    let mut list = GroupWriter { view: groups.view(number), next: None };
    let body = body_by(move |piece| {
        if list.write(piece) {
            return Then::More;
        }
        piece.push(b'\n');
        Then::End
    });
    Answer::Now(response(200, response::JSON, body))
}

/// The JSON of all groups, by their names.
pub(in crate::api) fn write_all(groups: Groups) -> Answer {
    let (mut number, mut list) = (0, None);
    let body = body_by(move |piece| {
        if number == 0 && list.is_none() {
            piece.push(b'{');
        }
        if list.is_none() {
            let Some(view) = groups.view(number) else {
                piece.extend_from_slice(b"}\n");
                return Then::End;
            };
            piece.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
            json::write(&view.name, piece);
            piece.push(b':');
            list = Some(GroupWriter { view: Some(view), next: None });
        }
        if list.as_mut().is_none_or(|list| !list.write(piece)) {
            (number, list) = (number + 1, None);
        }
        Then::More
    });
    Answer::Now(response(200, response::JSON, body))
}

/// A group that is being written, and the next of its servers.
struct GroupWriter {
    view: Option<GroupView>,
    next: Option<usize>,
}

impl GroupWriter {
    /// Appends what comes next; answers whether there is more.
    fn write(&mut self, piece: &mut Vec<u8>) -> bool {
        let Some(view) = &self.view else { return false };
        let Some(next) = self.next else {
            begin_group(view, piece);
            self.next = Some(0);
            return true;
        };
        let Some(server) = view.servers.get(next) else {
            piece.extend_from_slice(b"]}");
            return false;
        };
        piece.extend_from_slice(if next == 0 { b"\n" } else { b",\n" });
        write_server(view, server, piece);
        self.next = Some(next + 1);
        true
    }
}
