//! Pod addresses out of the node's CIDR.
//!
//! An address returns to the pool when its pod is gone, and the pool is gone through in a circle, so
//! that an address is not given to the next pod at once, while tables elsewhere still name the last.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net};

use super::config::Bridged;

/// The addresses of one node's pods, by pod uid.
#[derive(Debug)]
pub struct Addresses {
    /// Of this machine itself: whoever is of this process answers there.
    own: Pool,
    /// Of a bridge, for pods that have a network of their own.
    bridged: Option<Pool>,
}

#[derive(Debug)]
struct Pool {
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
    /// If a CIDR is not IPv4 or has no room for a pod.
    pub fn new(cidr: IpNet, bridged: Option<&Bridged>) -> anyhow::Result<Addresses> {
        let bridge = bridged.map(|bridged| -> anyhow::Result<Pool> {
            let pool = Pool::new(bridged.cidr.into())?;
            pool.reserve("the gateway", bridged.gateway);
            Ok(pool)
        });
        let own = match bridged {
            // The bridge has the upper half.
            Some(_) => cidr.subnets(cidr.prefix_len() + 1)?.next().unwrap_or(cidr),
            None => cidr,
        };
        Ok(Addresses { own: Pool::new(own)?, bridged: bridge.transpose()? })
    }

    /// Gives `uid` the address it had, if it is of this node and free.
    pub fn reserve(&self, uid: &str, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        let pools = std::iter::once(&self.own).chain(&self.bridged);
        pools.into_iter().any(|pool| pool.reserve(uid, ip))
    }

    /// The address of `uid`: the one it has, or a free one; `None` when the CIDR is full, or if there are no
    /// such addresses here.
    pub fn allocate(&self, uid: &str, bridged: bool) -> Option<IpAddr> {
        let pool = if bridged { self.bridged.as_ref()? } else { &self.own };
        pool.allocate(uid)
    }

    pub fn release(&self, uid: &str) {
        std::iter::once(&self.own).chain(&self.bridged).for_each(|pool| pool.release(uid));
    }
}

impl Pool {
    fn new(cidr: IpNet) -> anyhow::Result<Pool> {
        match cidr {
            IpNet::V4(cidr) if cidr.prefix_len() <= 30 => Ok(Pool { cidr, taken: Mutex::default() }),
            _ => anyhow::bail!("the pod CIDR {cidr} must be IPv4 with a prefix of at most 30 bits"),
        }
    }

    fn reserve(&self, uid: &str, ip: Ipv4Addr) -> bool {
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

    fn allocate(&self, uid: &str) -> Option<IpAddr> {
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

    fn release(&self, uid: &str) {
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
        Addresses::new(cidr.parse().expect("a CIDR"), None).expect("usable")
    }

    #[test]
    fn addresses_are_given_once_and_in_a_circle() {
        let pool = addresses("127.64.0.0/29");
        let given: Vec<String> =
            (0..6).filter_map(|n| pool.allocate(&n.to_string(), false)).map(|ip| ip.to_string()).collect();
        assert_eq!(given, (1..=6).map(|n| format!("127.64.0.{n}")).collect::<Vec<_>>());
        assert_eq!(pool.allocate("one too many", false), None);
        pool.release("1");
        pool.release("4");
        assert_eq!(pool.allocate("next", false), "127.64.0.2".parse().ok());
        assert_eq!(pool.allocate("next", false), "127.64.0.2".parse().ok(), "the same pod keeps its address");
    }

    #[test]
    fn a_pod_that_was_here_before_keeps_its_address() {
        let pool = addresses("127.64.0.0/18");
        let ip = |text: &str| text.parse().expect("an address");
        assert!(pool.reserve("a", ip("127.64.0.1")));
        assert!(!pool.reserve("b", ip("127.64.0.1")), "taken");
        assert!(!pool.reserve("b", ip("127.65.0.1")), "of another node");
        assert!(!pool.reserve("b", ip("127.64.0.0")), "the network's own");
        assert_eq!(pool.allocate("b", false), "127.64.0.2".parse().ok());
    }

    #[test]
    fn pods_with_a_network_of_their_own_have_the_upper_half() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
        let bridged = Bridged { cidr: "10.0.0.8/29".parse().expect("a CIDR"), gateway: ip("10.0.0.9") };
        let pool = Addresses::new("10.0.0.0/28".parse().expect("a CIDR"), Some(&bridged)).expect("usable");
        assert_eq!(pool.allocate("wasm", false), Some(ip("10.0.0.1").into()));
        assert_eq!(pool.allocate("linux", true), Some(ip("10.0.0.10").into()), "behind the gateway's");
        assert!(pool.reserve("before", ip("10.0.0.12").into()) && !pool.reserve("other", ip("10.0.0.12").into()));
        pool.release("linux");
        assert!(pool.reserve("other", ip("10.0.0.10").into()));
        assert_eq!(addresses("10.0.0.0/28").allocate("linux", true), None, "there is no bridge");
    }

    #[test]
    fn a_cidr_without_room_is_refused() {
        assert!(Addresses::new("127.64.0.0/31".parse().expect("a CIDR"), None).is_err());
        assert!(Addresses::new("fd00::/64".parse().expect("a CIDR"), None).is_err());
    }
}
