//! A server of a group, by its address.

use ngx::core::Pool;
use ngx::ffi::{ngx_pool_t, ngx_str_t, sockaddr, socklen_t};

use crate::nginx::core::pool;

/// The address of a server, as nginx has it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SocketAddress {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl SocketAddress {
    /// The size of `struct sockaddr_storage`.
    const ROOM: usize = 128;

    /// From the bytes of a `sockaddr`; `None` if they are none.
    pub fn new(address: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::ROOM];
        if address.len() < size_of::<u16>() {
            return None;
        }
        bytes.get_mut(..address.len())?.copy_from_slice(address);
        Some(Self { bytes, len: address.len() })
    }

    /// The same with another port; the same as it is where there is none (`unix:`).
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        // Both `sockaddr_in` and `sockaddr_in6` begin so: the family, and the port.
        let [a, b, high, low, ..] = &mut self.bytes;
        if [libc::AF_INET, libc::AF_INET6].contains(&i32::from(u16::from_ne_bytes([*a, *b]))) {
            [*high, *low] = port.to_be_bytes();
        }
        self
    }

    /// The size of the `sockaddr`.
    pub(super) fn size(&self) -> socklen_t {
        socklen_t::try_from(self.len).unwrap_or(0)
    }
}

/// A server of a group.
#[derive(Clone)]
pub struct Server {
    /// Its address.
    pub address: SocketAddress,
    /// Its name, as nginx shows it: `10.0.0.1:8080`.
    pub name: Vec<u8>,
}

/// What nginx is shown of it.
#[derive(Clone, Copy)]
pub(super) struct PeerInPool {
    address: SocketAddress,
    pub(super) name: ngx_str_t,
}

impl PeerInPool {
    /// Its address, for nginx.
    ///
    /// # Safety
    ///
    /// One that is there.
    pub(super) unsafe fn sockaddr(this: *mut Self) -> *mut sockaddr {
        // SAFETY: the caller's promise.
        unsafe { &raw mut (*this).address }.cast()
    }
}

impl Server {
    /// # Safety
    ///
    /// A pool that is there.
    pub(super) unsafe fn place_in(&self, pool: *mut ngx_pool_t) -> Option<*mut PeerInPool> {
        // SAFETY: the caller's promise.
        let name = unsafe { pool::concat(pool, &[&self.name]) }?;
        // SAFETY: as above; HOST-13: may be null.
        let peer = unsafe { Pool::from_ngx_pool(pool) }.calloc_type::<PeerInPool>();
        if peer.is_null() {
            return None;
        }
        // SAFETY: just made, and nobody else has it.
        unsafe { peer.write(PeerInPool { address: self.address, name }) };
        Some(peer)
    }
}
