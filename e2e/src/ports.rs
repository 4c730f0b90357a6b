//! Free TCP ports on the loopback address for servers that cannot be told to pick one themselves.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Below the kernel's ephemeral range (32768 and up on Linux), so that no outgoing connection can take a port between
/// the moment it is chosen here and the moment the server binds it.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port nobody listens on. One process never gets the same port twice, and processes start searching at places that
/// differ by process id, so that test runs side by side do not collide.
pub fn free() -> Result<u16> {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // 97 consecutive ports per process id before the next id's places begin; 97 is prime to COUNT, so that ids
        // spread over the whole range.
        let offset = std::process::id()
            .wrapping_mul(97)
            .wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + offset % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port between {FIRST} and {}", FIRST + COUNT - 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_the_same_port_twice() {
        let first = super::free().unwrap();
        let second = super::free().unwrap();
        assert_ne!(first, second);
    }
}
