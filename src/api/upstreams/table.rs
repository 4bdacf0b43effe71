//! The table of servers for the terminal.

use std::fmt::Write as _;
use std::io::Write as _;

use super::json::result;
use super::view::{GroupView, ServerView};
use crate::api::table::{seconds, span};

const HEAD: [&str; 6] = ["UPSTREAM", "SERVER", "STATE", "LAST", "TOOK", "RESULT"];

/// Appends the servers of one group, under a head of their own.
pub(in crate::api) fn write_table(group: &GroupView, out: &mut Vec<u8>) {
    let rows: Vec<[String; 6]> = group.servers.iter().map(|server| row(group, server)).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    out.push(b'\n');
    line(&HEAD.map(str::to_owned), widths, out);
    for row in &rows {
        line(row, widths, out);
    }
    if group.is_out_of_use() {
        out.extend_from_slice(b"all down\n");
        return;
    }
    let (healthy, of) = group.share();
    let all = if group.fails_open { ", requests are passed to all" } else { "" };
    // Writing to memory cannot fail.
    let _ = writeln!(out, "{healthy} of {of} healthy{all}");
}

fn row(group: &GroupView, server: &ServerView) -> [String; 6] {
    let none = || "-".to_owned();
    let (at, took, told) = server.last().map_or_else(
        || (none(), none(), none()),
        |last| {
            let mut told = result(last.outcome).to_owned();
            if !last.reason.is_empty() {
                let _ = write!(told, ": {}", last.reason);
            }
            (seconds(last.at), span(last.duration), told)
        },
    );
    let backup = if server.backup { " backup" } else { "" };
    let unchecked = if server.is_unchecked() { " unchecked" } else { "" };
    [
        group.name.clone(),
        format!("{}{backup}", server.server),
        format!("{}{unchecked}", server.state()),
        at,
        took,
        told,
    ]
}

fn line(cells: &[String; 6], widths: [usize; 6], out: &mut Vec<u8>) {
    for (cell, width) in cells.iter().zip(widths).take(5) {
        let _ = write!(out, "{cell:width$}  ");
    }
    let _ = writeln!(out, "{}", cells[5]);
}

#[cfg(test)]
mod tests {
    use super::super::view::samples::group;
    use super::*;
    use crate::health::verdict::Standing;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut group = group(&[Standing::Healthy, Standing::Unhealthy]);
        group.servers[1].backup = true;
        group.fails_open = true;
        let mut out = Vec::new();
        write_table(&group, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\n\
             UPSTREAM  SERVER                 STATE      LAST                  TOOK  RESULT\n\
             back\"end  127.0.0.1:8000         up         2027-01-15 08:00:00Z  3ms   pass\n\
             back\"end  127.0.0.1:8001 backup  unhealthy  2027-01-15 08:00:00Z  3ms   fail: status \"503\"\n\
             1 of 2 healthy, requests are passed to all\n"
        );
        group.servers.iter_mut().for_each(|server| server.is_configured_down = true);
        let mut out = Vec::new();
        write_table(&group, &mut out);
        assert!(out.ends_with(b"\nall down\n"));
    }
}
