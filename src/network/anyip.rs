//! Whole ranges of addresses as this machine's own.
//!
//! Any address of 127/8 can be bound by anybody, but only this machine's own processes reach it. Where
//! others are to (containers with a network of their own, other machines), Services and pods have addresses
//! of ordinary ranges, and one local route a range makes the kernel take all of it for this machine's:
//! nothing need be added to an interface, and a listener may be bound to any of them.
//!
//! The route is asked of the kernel by netlink, as `ip route replace local RANGE dev lo` would. That takes
//! CAP_NET_ADMIN; where another has set it before, nothing is needed.

use std::io;
use std::net::{IpAddr, UdpSocket};

use ipnet::Ipv4Net;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const INET: u8 = 2;
const TABLE_LOCAL: u8 = 255;
const SET_BY_ADMINISTRATOR: u8 = 4;
const SCOPE_HOST: u8 = 254;
const LOCAL: u8 = 2;
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
/// The loopback device is the first of every network.
const LOOPBACK: u32 = 1;
/// A message's head, and a route's.
const HEADS: usize = 16 + 12;

/// Makes all addresses of the range this machine's own, unless they are.
///
/// # Errors
/// The system's, with what to run instead.
pub fn claim(range: Ipv4Net) -> io::Result<()> {
    let asked = ask(&message(NEW_ROUTE, REQUEST | ACKNOWLEDGE | CREATE | REPLACE, range));
    match asked {
        // Somebody may have done it for us.
        Err(_) if is_ours(range) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "cannot make {range} this machine's own: {error}; run it with CAP_NET_ADMIN (and CAP_NET_BIND_SERVICE, \
                 for ports below 1024), or once: sudo ip route add local {range} dev lo"
            ),
        )),
        Ok(()) => Ok(()),
    }
}

/// Gives the range back.
pub fn release(range: Ipv4Net) {
    // It may be gone already, or another's to remove.
    let _ = ask(&message(DELETE_ROUTE, REQUEST | ACKNOWLEDGE, range));
}

/// Whether an address of the range can be bound.
fn is_ours(range: Ipv4Net) -> bool {
    let probe = range.hosts().last().unwrap_or_else(|| range.network());
    UdpSocket::bind((IpAddr::V4(probe), 0)).is_ok()
}

fn message(kind: u16, flags: u16, range: Ipv4Net) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADS + 16);
    bytes.extend_from_slice(&(HEADS as u32 + 16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&1_u32.to_ne_bytes()); // sequence
    bytes.extend_from_slice(&0_u32.to_ne_bytes()); // port
    bytes.extend_from_slice(&[INET, range.prefix_len(), 0, 0, TABLE_LOCAL, SET_BY_ADMINISTRATOR, SCOPE_HOST, LOCAL]);
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    for (kind, value) in [(DESTINATION, range.network().octets()), (DEVICE, LOOPBACK.to_ne_bytes())] {
        bytes.extend_from_slice(&8_u16.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&value);
    }
    bytes
}

fn ask(message: &[u8]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    // The protocol of routes is the one that is meant by none.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::send(&socket, message, SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // The head, then the error's negative number, 0 for none.
    let code = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel gave no answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_claimed_and_given_back_or_it_is_said_what_to_run() {
        // Of those for documentation; another than any other run of this test.
        let range = Ipv4Net::new_assert([198, 51, 100, (std::process::id() % 64 * 4) as u8].into(), 30);
        match claim(range) {
            Ok(()) => {
                assert!(is_ours(range));
                release(range);
                assert!(!is_ours(range));
            }
            Err(error) => {
                assert!(error.to_string().contains(&format!("sudo ip route add local {range} dev lo")), "{error}");
            }
        }
    }

    #[test]
    fn what_is_ours_already_needs_no_rights() {
        assert!(is_ours("127.64.0.0/18".parse().expect("a range")));
    }
}
