//! Pod addresses out of the node's CIDR.
//!
//! An address returns to the pool when its pod is gone, and the pool is gone through in a circle, so
//! that an address is not given to the next pod at once, while tables elsewhere still name the last.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net};

/// The addresses of one node's pods, by pod uid.
#[derive(Debug)]
pub struct Addresses {
    cidr: Ipv4Net,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_ip: HashMap<Ipv4Addr, String>,
    by_uid: HashMap<String, Ipv4Addr>,
    next: u32,
}

impl Addresses {
    /// # Errors
    /// If the CIDR is not IPv4 or has no room for a pod.
    pub fn new(cidr: IpNet) -> anyhow::Result<Addresses> {
        match cidr {
            IpNet::V4(cidr) if cidr.prefix_len() <= 30 => Ok(Addresses { cidr, taken: Mutex::default() }),
            _ => anyhow::bail!("the pod CIDR {cidr} must be IPv4 with a prefix of at most 30 bits"),
        }
    }

    /// Gives `uid` the address it had, if it is of this node and free.
    pub fn reserve(&self, uid: &str, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = taken.by_uid.get(uid) {
            return *known == ip;
        }
        let usable = self.cidr.contains(&ip) && self.host(ip) != 0 && !taken.by_ip.contains_key(&ip);
        if usable {
            taken.insert(uid, ip);
        }
        usable
    }

    /// The address of `uid`: the one it has, or a free one; `None` when the CIDR is full.
    pub fn allocate(&self, uid: &str) -> Option<IpAddr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ip) = taken.by_uid.get(uid) {
            return Some(IpAddr::V4(*ip));
        }
        // The first and the last are the network's own.
        let usable = self.size().saturating_sub(2);
        for _ in 0..usable {
            taken.next = taken.next % usable + 1;
            let ip = Ipv4Addr::from(u32::from(self.cidr.network()).wrapping_add(taken.next));
            if !taken.by_ip.contains_key(&ip) {
                taken.insert(uid, ip);
                return Some(IpAddr::V4(ip));
            }
        }
        None
    }

    pub fn release(&self, uid: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ip) = taken.by_uid.remove(uid) {
            taken.by_ip.remove(&ip);
        }
    }

    fn size(&self) -> u32 {
        1_u32.checked_shl(32 - u32::from(self.cidr.prefix_len())).unwrap_or(u32::MAX)
    }

    fn host(&self, ip: Ipv4Addr) -> u32 {
        u32::from(ip).wrapping_sub(u32::from(self.cidr.network()))
    }
}

impl Taken {
    fn insert(&mut self, uid: &str, ip: Ipv4Addr) {
        self.by_ip.insert(ip, uid.to_owned());
        self.by_uid.insert(uid.to_owned(), ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(cidr: &str) -> Addresses {
        Addresses::new(cidr.parse().expect("a CIDR")).expect("usable")
    }

    #[test]
    fn addresses_are_given_once_and_in_a_circle() {
        let pool = addresses("127.64.0.0/29");
        let given: Vec<String> =
            (0..6).filter_map(|n| pool.allocate(&n.to_string())).map(|ip| ip.to_string()).collect();
        assert_eq!(given, (1..=6).map(|n| format!("127.64.0.{n}")).collect::<Vec<_>>());
        assert_eq!(pool.allocate("one too many"), None);
        pool.release("1");
        pool.release("4");
        assert_eq!(pool.allocate("next"), "127.64.0.2".parse().ok());
        assert_eq!(pool.allocate("next"), "127.64.0.2".parse().ok(), "the same pod keeps its address");
    }

    #[test]
    fn a_pod_that_was_here_before_keeps_its_address() {
        let pool = addresses("127.64.0.0/18");
        let ip = |text: &str| text.parse().expect("an address");
        assert!(pool.reserve("a", ip("127.64.0.1")));
        assert!(!pool.reserve("b", ip("127.64.0.1")), "taken");
        assert!(!pool.reserve("b", ip("127.65.0.1")), "of another node");
        assert!(!pool.reserve("b", ip("127.64.0.0")), "the network's own");
        assert_eq!(pool.allocate("b"), "127.64.0.2".parse().ok());
    }

    #[test]
    fn a_cidr_without_room_is_refused() {
        assert!(Addresses::new("127.64.0.0/31".parse().expect("a CIDR")).is_err());
        assert!(Addresses::new("fd00::/64".parse().expect("a CIDR")).is_err());
    }
}
