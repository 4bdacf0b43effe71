//! What is in nginx's buffers, and how it is handed over.

use std::cell::Cell;

use ngx::ffi::{ngx_buf_t, ngx_read_file, off_t};

use super::receiver::{Flow, Receiver};

/// `ngx_buf_in_memory`.
pub(super) fn is_in_memory(buffer: &ngx_buf_t) -> bool {
    buffer.temporary() != 0 || buffer.memory() != 0 || buffer.mmap() != 0
}

/// `ngx_buf_size`.
pub(super) fn size(buffer: &ngx_buf_t) -> off_t {
    if is_in_memory(buffer) {
        off_t::try_from(buffer.last.addr().saturating_sub(buffer.pos.addr())).unwrap_or(0)
    } else {
        buffer.file_last - buffer.file_pos
    }
}

/// Part of a file, where the kernel wants it with `directio`, and of a size that it wants.
#[repr(align(4096))]
struct Piece([u8; 16 * 1024]);

/// How the content of a buffer is handed over.
pub(super) struct Pace<'a> {
    /// In pieces of so many bytes at most.
    pub(super) piece: usize,
    /// How much was handed over before.
    pub(super) taken: &'a Cell<usize>,
    /// Asked behind each piece, which was so long.
    pub(super) goes_on: &'a dyn Fn(usize) -> bool,
}

/// Hands the content of a buffer over, and answers whether that was all of it; `None` if its file could not be read.
///
/// # Safety
///
/// A buffer of a chain of nginx's.
pub(super) unsafe fn take_buffer(
    buffer: *mut ngx_buf_t,
    receiver: &dyn Receiver,
    pace: &Pace<'_>,
) -> Option<(Flow, bool)> {
    // SAFETY: the caller's promise; ends before nginx is called.
    let content = unsafe { &*buffer };
    let in_memory = is_in_memory(content);
    let has_content = in_memory || content.in_file() != 0;
    let size = if has_content { usize::try_from(size(content)).unwrap_or(0) } else { 0 };
    let mut room = (!in_memory && size > 0).then_some(Piece([0; 16 * 1024]));
    while pace.taken.get() < size && !receiver.is_full() {
        let (taken, left) = (pace.taken.get(), size - pace.taken.get());
        let piece = if in_memory {
            // SAFETY: a buffer in memory has its content between these two.
            let all = unsafe { std::slice::from_raw_parts(content.pos, size) };
            all.get(taken..taken + left.min(pace.piece))?
        } else {
            let from = content.file_pos + off_t::try_from(taken).ok()?;
            let room = &mut room.as_mut()?.0;
            // SAFETY: an open file of nginx's, and room of this size.
            let read = unsafe { ngx_read_file(content.file, room.as_mut_ptr(), room.len(), from) };
            let read = usize::try_from(read).ok().filter(|read| *read > 0)?;
            room.get(..read.min(left))?
        };
        pace.taken.set(taken + piece.len());
        if receiver.body(piece) == Flow::Enough {
            return Some((Flow::Enough, false));
        }
        if !(pace.goes_on)(piece.len()) {
            break;
        }
    }
    Some((Flow::More, pace.taken.get() >= size || receiver.is_full()))
}
