//! Who may come to a pod's own sockets, and with whom it speaks by datagram.
//!
//! A connection has two directions, datagrams have none: who was sent one with permission may answer, and who
//! was let in may be answered, for as long as they keep speaking, as the kernel's own filters have it.
//! wasmtime says who comes, and not to which of the pod's ports; that is found out here where the answer
//! depends on it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Peers whom a container may answer: the latest.
pub const MAX_PEERS: usize = 1024;
/// How long they may be silent. As long as Linux remembers datagrams that had an answer, and a half longer.
const SILENCE: Duration = Duration::from_secs(180);
/// Ports whose numbers are remembered: more servers than any pod has.
const MAX_PORTS: usize = 64;

/// With whom datagrams are exchanged, and when last.
#[derive(Default)]
pub struct Conversations(Mutex<HashMap<SocketAddr, Instant>>);

impl Conversations {
    /// One said something, or was told something.
    pub fn note(&self, peer: SocketAddr) {
        self.note_at(peer, Instant::now());
    }

    fn note_at(&self, peer: SocketAddr, now: Instant) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            let oldest = peers.iter().min_by_key(|(_, at)| **at).map(|(peer, _)| *peer);
            oldest.map(|oldest| peers.remove(&oldest));
        }
        peers.insert(peer, now);
    }

    /// Whether the conversation goes on; asking keeps it up.
    pub fn goes_on(&self, peer: SocketAddr) -> bool {
        self.goes_on_at(peer, Instant::now())
    }

    fn goes_on_at(&self, peer: SocketAddr, now: Instant) -> bool {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get_mut(&peer) {
            Some(at) if now.saturating_duration_since(*at) <= SILENCE => {
                *at = now;
                true
            }
            Some(_) => {
                peers.remove(&peer);
                false
            }
            None => false,
        }
    }
}

/// The ports that a container's servers have.
#[derive(Default)]
pub struct Served(Mutex<Vec<u16>>);

impl Served {
    pub fn add(&self, port: u16) {
        let mut ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if port != 0 && ports.len() < MAX_PORTS && !ports.contains(&port) {
            ports.push(port);
        }
    }

    pub fn list(&self) -> Vec<u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The port of `own` at which a TCP connection from `peer` has arrived, as the kernel tells.
pub fn arrived_at(own: IpAddr, peer: SocketAddr) -> Option<u16> {
    let file = if own.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    port_in(&std::fs::read_to_string(file).ok()?, own, peer)
}

/// Of each line the second and third word: the own and the other address, in hexadecimal.
fn port_in(table: &str, own: IpAddr, peer: SocketAddr) -> Option<u16> {
    let (own, peer) = (hex(own), format!("{}:{:04X}", hex(peer.ip()), peer.port()));
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let port = local.strip_prefix(&own)?.strip_prefix(':')?;
        if remote == peer { u16::from_str_radix(port, 16).ok() } else { None }
    })
}

/// In words of 32 bits, each as this machine has it.
fn hex(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
    words.map(|word| format!("{:08X}", u32::from_ne_bytes(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_conversation_ends_in_silence_and_the_oldest_makes_room() {
        let (talks, start) = (Conversations::default(), Instant::now());
        talks.note_at(peer(1), start);
        assert!(talks.goes_on_at(peer(1), start + SILENCE));
        assert!(talks.goes_on_at(peer(1), start + SILENCE * 2), "asking kept it up");
        assert!(!talks.goes_on_at(peer(1), start + SILENCE * 4));
        assert!(!talks.goes_on_at(peer(1), start + SILENCE * 2), "it is forgotten");
        for port in 1..=1025 {
            talks.note_at(peer(port), start + Duration::from_millis(port.into()));
        }
        assert!(!talks.goes_on_at(peer(1), start + SILENCE) && talks.goes_on_at(peer(2), start));
        assert_eq!(talks.0.lock().expect("no panic").len(), MAX_PEERS);
    }

    #[test]
    fn the_kernel_tells_where_a_connection_has_arrived() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(own).expect("connected");
        let _accepted = listener.accept().expect("accepted");
        let from = client.local_addr().expect("bound");
        assert_eq!(arrived_at(own.ip(), from), Some(own.port()));
        assert_eq!(arrived_at(own.ip(), SocketAddr::new([192, 0, 2, 9].into(), from.port())), None);
    }
}
