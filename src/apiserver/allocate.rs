//! ClusterIPs and node ports: who has which, in memory, from the Services in the store. An address that somebody else
//! has entered as an IPAddress is nobody's to have.
//!
//! What a Service needs is decided by its kind ([`allocate`]); this is where the numbers come from.
//! A number is reserved before the Service is written and given back when the write fails: the
//! [`Reservation`] does that by being dropped. What an update no longer needs is given back only after
//! it has succeeded. One server owns the ranges; the store's compare-and-swap guards the Services, this
//! lock guards the numbers.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use rand::Rng;
use serde_json::Value;

use super::derived;
use super::registry::{self, Place};
use super::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::ip_address::{IPAddress, MANAGED_BY, MANAGER};
use crate::kinds::meta as kmeta;
use crate::kinds::service::allocate::{Held, Numbers, allocate};
use crate::kinds::service_cidr::{Ranges, ServiceCIDR};
use crate::store::Store;

/// How often a free number is guessed before the range is searched: at half full, one guess in 2⁸ fails.
const GUESSES: usize = 8;

/// The numbers of all Services.
pub struct Allocator {
    used: Arc<Mutex<Held>>,
    ranges: Ranges,
    ports: RangeInclusive<u16>,
    store: Arc<dyn Store>,
}

/// Numbers taken for a write that is not made yet.
#[must_use = "dropping a reservation gives its numbers back"]
pub struct Reservation {
    used: Arc<Mutex<Held>>,
    taken: Held,
    /// Given back when the write succeeds.
    leaving: Held,
    kept: bool,
}

impl Reservation {
    /// The write has been made: what was taken stays taken.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let back = if self.kept { &self.leaving } else { &self.taken };
        if back.ips.is_empty() && back.ports.is_empty() {
            return;
        }
        let mut used = lock(&self.used);
        for ip in &back.ips {
            used.ips.remove(ip);
        }
        for port in &back.ports {
            used.ports.remove(port);
        }
    }
}

/// A set of numbers is whole after each statement, so a panic elsewhere cannot have broken it.
fn lock(used: &Mutex<Held>) -> MutexGuard<'_, Held> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocator {
    /// For ranges of addresses and node ports, with nothing taken yet. The IPAddresses and further ServiceCIDRs are in
    /// `store`.
    pub fn new(ranges: Ranges, ports: RangeInclusive<u16>, store: Arc<dyn Store>) -> Self {
        Self { used: Arc::default(), ranges, ports, store }
    }

    /// Takes the numbers of a Service found in the store at start.
    pub fn adopt(&self, service: &Value) {
        let held = Held::by(service);
        let mut used = lock(&self.used);
        used.ips.extend(held.ips);
        used.ports.extend(held.ports);
    }

    /// A reservation of nothing.
    pub fn nothing(&self) -> Reservation {
        Reservation { used: self.used.clone(), taken: Held::default(), leaving: Held::default(), kept: false }
    }

    /// Fills in the numbers of a new Service; other kinds pass.
    pub fn on_create(&self, kind: &dyn Kind, service: &mut Value) -> Result<Reservation, ApiError> {
        let mut reservation = self.nothing();
        if is_service(kind) {
            self.fill(kind, service, None, &mut reservation)?;
        }
        Ok(reservation)
    }

    /// Fills in what a changed Service newly needs, keeping what it has.
    pub fn on_update(&self, kind: &dyn Kind, new: &mut Value, old: &Value) -> Result<Reservation, ApiError> {
        let mut reservation = self.nothing();
        if is_service(kind) {
            self.fill(kind, new, Some(old), &mut reservation)?;
            let (before, after) = (Held::by(old), Held::by(new));
            reservation.leaving.ips = before.ips.difference(&after.ips).copied().collect();
            reservation.leaving.ports = before.ports.difference(&after.ports).copied().collect();
        }
        Ok(reservation)
    }

    /// A Service is gone.
    pub fn on_delete(&self, kind: &dyn Kind, service: &Value) {
        if is_service(kind) {
            let mut reservation = self.nothing();
            reservation.leaving = Held::by(service);
            reservation.keep();
        }
    }

    fn fill(
        &self,
        kind: &dyn Kind,
        service: &mut Value,
        old: Option<&Value>,
        reservation: &mut Reservation,
    ) -> Result<(), ApiError> {
        let before = old.map(Held::by).unwrap_or_default();
        let errors = allocate(service, old, &mut Claim { allocator: self, before, reservation });
        let name = kmeta::text(service, "name");
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind.info(), name, &errors)) }
    }

    fn take_ip(&self, reservation: &mut Reservation) -> Option<Ipv4Addr> {
        let ranges = self.ranges();
        let mut used = lock(&self.used);
        let free = ranges.into_iter().filter_map(bounds).find_map(|(first, last)| {
            let guess = (0..GUESSES).map(|_| rand::rng().random_range(first..=last)).map(Ipv4Addr::from);
            let mut all = guess.chain((first..=last).map(Ipv4Addr::from));
            all.find(|ip| !used.ips.contains(ip) && !self.is_booked(*ip))
        })?;
        used.ips.insert(free);
        reservation.taken.ips.insert(free);
        Some(free)
    }

    /// Where Services may get addresses from: the range of the start, then those that are stored and stay.
    fn ranges(&self) -> Vec<Ipv4Net> {
        let stored = derived::objects(&*self.store, &ServiceCIDR);
        let staying = stored.iter().filter(|range| range["metadata"]["deletionTimestamp"].is_null());
        let more = staying.filter_map(|range| self.ranges.usable(range).ok());
        std::iter::once(self.ranges.services).chain(more.filter(|range| *range != self.ranges.services)).collect()
    }

    fn take_this_ip(&self, ip: Ipv4Addr, reservation: &mut Reservation) -> Result<(), String> {
        let within = |(first, last): (u32, u32)| (first..=last).contains(&u32::from(ip));
        let in_range = self.ranges().into_iter().filter_map(bounds).any(within);
        if !in_range {
            return Err(self.out_of_range(IpAddr::V4(ip)));
        }
        if self.is_booked(ip) || !lock(&self.used).ips.insert(ip) {
            return Err("provided IP is already allocated".to_owned());
        }
        reservation.taken.ips.insert(ip);
        Ok(())
    }

    /// Whether somebody else has entered the address. The entries of the cluster's own controller follow the Services
    /// and say nothing that is not known.
    fn is_booked(&self, ip: Ipv4Addr) -> bool {
        let place = Place { kind: &IPAddress, namespace: "", name: &ip.to_string() };
        let Some(entry) = self.store.get(&place.key()) else { return false };
        registry::decode(place, &entry).is_ok_and(|entry| entry["metadata"]["labels"][MANAGED_BY] != MANAGER)
    }

    fn out_of_range(&self, ip: IpAddr) -> String {
        let cidr = self.ranges.services;
        format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}")
    }

    fn take_port(&self, reservation: &mut Reservation) -> Option<u16> {
        let mut used = lock(&self.used);
        let guess = (0..GUESSES).map(|_| rand::rng().random_range(self.ports.clone()));
        let free = guess.chain(self.ports.clone()).find(|port| !used.ports.contains(port))?;
        used.ports.insert(free);
        reservation.taken.ports.insert(free);
        Some(free)
    }

    fn take_this_port(&self, port: u16, reservation: &mut Reservation) -> bool {
        let new = lock(&self.used).ports.insert(port);
        if new {
            reservation.taken.ports.insert(port);
        }
        new
    }
}

/// The first and last address that a Service may have: neither the network's nor the broadcast's.
fn bounds(range: Ipv4Net) -> Option<(u32, u32)> {
    let (first, last) = (u32::from(range.network()) + 1, u32::from(range.broadcast()).checked_sub(1)?);
    (first <= last).then_some((first, last))
}

/// The numbers as one Service sees them.
struct Claim<'a> {
    allocator: &'a Allocator,
    /// What it has already.
    before: Held,
    reservation: &'a mut Reservation,
}

impl Numbers for Claim<'_> {
    fn take_ip(&mut self) -> Option<Ipv4Addr> {
        self.allocator.take_ip(self.reservation)
    }

    fn take_this_ip(&mut self, ip: IpAddr) -> Result<(), String> {
        match ip {
            IpAddr::V4(v4) if self.before.ips.contains(&v4) => Ok(()),
            IpAddr::V4(v4) => self.allocator.take_this_ip(v4, self.reservation),
            IpAddr::V6(_) => Err(self.allocator.out_of_range(ip)),
        }
    }

    fn take_port(&mut self) -> Option<u16> {
        self.allocator.take_port(self.reservation)
    }

    fn take_this_port(&mut self, port: i64) -> Result<(), String> {
        let ports = &self.allocator.ports;
        let Some(port) = u16::try_from(port).ok().filter(|port| ports.contains(port)) else {
            let (first, last) = (ports.start(), ports.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
        };
        if self.before.ports.contains(&port) || self.allocator.take_this_port(port, self.reservation) {
            Ok(())
        } else {
            Err("provided port is already allocated".to_owned())
        }
    }
}

fn is_service(kind: &dyn Kind) -> bool {
    kind.info().plural == "services" && kind.info().group.is_empty()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::kinds::config_map::ConfigMap;
    use crate::kinds::service::Service;
    use crate::store::MemoryStore;
    use serde_json::json;

    fn allocator() -> Allocator {
        let ranges = Ranges { services: "127.96.0.0/29".parse().expect("a CIDR"), pods: None };
        Allocator::new(ranges, 30000..=30001, Arc::new(MemoryStore::new()))
    }

    fn service(kind: &str) -> Value {
        json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": [{"port": 80, "protocol": "TCP"}]}})
    }

    fn make(allocator: &Allocator, mut service: Value) -> Result<Value, String> {
        let reservation = allocator.on_create(&Service, &mut service).map_err(|e| e.message().to_owned())?;
        reservation.keep();
        Ok(service)
    }

    #[test]
    fn the_range_fills_up_and_deletion_makes_room() {
        let allocator = allocator();
        let all: Vec<Value> = (0..6).map(|_| make(&allocator, service("ClusterIP")).expect("room")).collect();
        let distinct: HashSet<&str> = all.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()).collect();
        assert_eq!(distinct.len(), 6);
        assert!(make(&allocator, service("ClusterIP")).is_err_and(|e| e.contains("range is full")));
        allocator.on_delete(&Service, &all[3]);
        assert_eq!(
            make(&allocator, service("ClusterIP")).map(|s| s["spec"]["clusterIP"].clone()),
            Ok(all[3]["spec"]["clusterIP"].clone())
        );
    }

    #[test]
    fn a_dropped_reservation_gives_back() {
        let allocator = allocator();
        let mut one = service("NodePort");
        drop(allocator.on_create(&Service, &mut one).expect("room"));
        assert!(lock(&allocator.used).ips.is_empty() && lock(&allocator.used).ports.is_empty());
    }

    #[test]
    fn requested_numbers_are_given_or_refused() {
        let allocator = allocator();
        let mut wanted = service("NodePort");
        wanted["spec"]["clusterIP"] = "127.96.0.3".into();
        wanted["spec"]["ports"][0]["nodePort"] = 30001.into();
        assert!(make(&allocator, wanted.clone()).is_ok());
        assert_eq!(
            make(&allocator, wanted.clone()),
            Err("Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"127.96.0.3\"]: failed to allocate IP 127.96.0.3: provided IP is already allocated".into())
        );
        wanted["spec"]["clusterIP"] = "10.0.0.1".into();
        assert!(make(&allocator, wanted.clone()).is_err_and(|e| e.contains("The range of valid IPs is 127.96.0.0/29")));
        wanted["spec"]["clusterIP"] = Value::Null;
        assert!(
            make(&allocator, wanted)
                .is_err_and(|e| e.ends_with("Invalid value: 30001: provided port is already allocated"))
        );
        assert_eq!(lock(&allocator.used).ips.len(), 1, "refused Services hold nothing");
    }

    #[test]
    fn an_update_keeps_what_it_has_and_leaves_what_it_drops() {
        let allocator = allocator();
        let old = make(&allocator, service("NodePort")).expect("room");
        let mut same = service("NodePort");
        allocator.on_update(&Service, &mut same, &old).expect("an update").keep();
        assert_eq!(same["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(same["spec"]["ports"], old["spec"]["ports"]);
        let mut plain = service("ClusterIP");
        allocator.on_update(&Service, &mut plain, &old).expect("an update").keep();
        assert!(lock(&allocator.used).ports.is_empty());
        assert_eq!(lock(&allocator.used).ips.len(), 1);
        let mut external = json!({"spec": {"type": "ExternalName"}});
        allocator.on_update(&Service, &mut external, &plain).expect("an update").keep();
        assert!(lock(&allocator.used).ips.is_empty());
    }

    #[test]
    fn other_kinds_pass() {
        let mut object = service("ClusterIP");
        allocator().on_create(&ConfigMap, &mut object).expect("nothing to do").keep();
        assert!(object["spec"]["clusterIP"].is_null());
    }
}
