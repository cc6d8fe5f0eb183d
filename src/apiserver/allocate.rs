//! ClusterIPs and node ports: who has which, in memory, from the Services in the store.
//!
//! A number is reserved before the Service is written and given back when the write fails: the
//! [`Reservation`] does that by being dropped. What an update no longer needs is given back only after
//! it has succeeded. One server owns the ranges; the store's compare-and-swap guards the Services, this
//! lock guards the numbers.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use rand::Rng;
use serde_json::{Value, json};

use super::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::field::{Errors, Reason};
use crate::kinds::meta as kmeta;

/// How often a free number is guessed before the range is searched: at half full, one guess in 2⁸ fails.
const GUESSES: usize = 8;

#[derive(Default)]
struct Used {
    ips: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// The numbers of all Services.
pub struct Allocator {
    used: Arc<Mutex<Used>>,
    cidr: Ipv4Net,
    ports: RangeInclusive<u16>,
}

/// Numbers taken for a write that is not made yet.
#[must_use = "dropping a reservation gives its numbers back"]
pub struct Reservation {
    used: Arc<Mutex<Used>>,
    taken: Used,
    /// Given back when the write succeeds.
    leaving: Used,
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
fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocator {
    /// For a service CIDR and a node port range, with nothing taken yet.
    pub fn new(cidr: Ipv4Net, ports: RangeInclusive<u16>) -> Self {
        Self { used: Arc::default(), cidr, ports }
    }

    /// Takes the numbers of a Service found in the store at start.
    pub fn adopt(&self, service: &Value) {
        let held = held(service);
        let mut used = lock(&self.used);
        used.ips.extend(held.ips);
        used.ports.extend(held.ports);
    }

    /// A reservation of nothing.
    pub fn nothing(&self) -> Reservation {
        Reservation { used: self.used.clone(), taken: Used::default(), leaving: Used::default(), kept: false }
    }

    /// Fills in the numbers of a new Service; other kinds pass.
    pub fn on_create(&self, kind: &dyn Kind, service: &mut Value) -> Result<Reservation, ApiError> {
        let mut reservation = self.nothing();
        if is_service(kind) {
            self.fill(kind, service, &Value::Null, &mut reservation)?;
        }
        Ok(reservation)
    }

    /// Fills in what a changed Service newly needs, keeping what it has.
    pub fn on_update(&self, kind: &dyn Kind, new: &mut Value, old: &Value) -> Result<Reservation, ApiError> {
        let mut reservation = self.nothing();
        if is_service(kind) {
            keep_allocated(new, old);
            self.fill(kind, new, old, &mut reservation)?;
            let (before, after) = (held(old), held(new));
            reservation.leaving.ips = before.ips.difference(&after.ips).copied().collect();
            reservation.leaving.ports = before.ports.difference(&after.ports).copied().collect();
        }
        Ok(reservation)
    }

    /// A Service is gone.
    pub fn on_delete(&self, kind: &dyn Kind, service: &Value) {
        if is_service(kind) {
            let mut reservation = self.nothing();
            reservation.leaving = held(service);
            reservation.keep();
        }
    }

    fn fill(
        &self,
        kind: &dyn Kind,
        service: &mut Value,
        old: &Value,
        reservation: &mut Reservation,
    ) -> Result<(), ApiError> {
        let before = held(old);
        let mut errors = Errors::default();
        if needs_cluster_ip(service) {
            self.fill_cluster_ip(service, &before, reservation, &mut errors);
        }
        if errors.is_empty() && needs_node_ports(service) {
            self.fill_node_ports(service, &before, reservation, &mut errors);
        }
        if errors.is_empty()
            && needs_health_port(service)
            && service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
        {
            match self.take_port(reservation) {
                Some(port) => set(service, "healthCheckNodePort", port.into()),
                None => return Err(ApiError::internal("failed to allocate a nodePort: range is full")),
            }
        }
        let name = kmeta::text(service, "name");
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind.info(), name, &errors)) }
    }

    fn fill_cluster_ip(&self, service: &mut Value, before: &Used, reservation: &mut Reservation, errors: &mut Errors) {
        let given = service["spec"]["clusterIP"]
            .as_str()
            .or_else(|| service["spec"]["clusterIPs"][0].as_str())
            .unwrap_or_default()
            .to_owned();
        match given.as_str() {
            "None" => set_families(service, &json!(["None"])),
            "" => match self.take_ip(reservation) {
                Some(ip) => {
                    set(service, "clusterIP", ip.to_string().into());
                    set_families(service, &json!([ip.to_string()]));
                }
                None => errors.push(
                    Reason::Internal,
                    "spec.clusterIPs",
                    None,
                    format!("failed to allocate a serviceIP: range is full: {}", self.cidr),
                ),
            },
            text => {
                // What is no address, and a change of an address that the Service has, is for validation
                // to refuse.
                if let Ok(ip) = text.parse::<Ipv4Addr>()
                    && before.ips.is_empty()
                    && let Err(why) = self.take_this_ip(ip, reservation)
                {
                    let detail = format!("failed to allocate IP {ip}: {why}");
                    errors.push(Reason::Invalid, "spec.clusterIPs", Some(json!([text])), detail);
                    return;
                }
                set(service, "clusterIP", text.into());
                set_families(service, &json!([text]));
            }
        }
    }

    fn fill_node_ports(&self, service: &mut Value, before: &Used, reservation: &mut Reservation, errors: &mut Errors) {
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
        // One number may serve one port of each protocol.
        let mut own: HashSet<u16> = HashSet::new();
        for (i, port) in ports.iter_mut().enumerate() {
            let given = port["nodePort"].as_i64().unwrap_or(0);
            if given == 0 {
                match self.take_port(reservation) {
                    Some(number) => {
                        if let Some(fields) = port.as_object_mut() {
                            fields.insert("nodePort".into(), number.into());
                        }
                        own.insert(number);
                    }
                    None => errors.push(
                        Reason::Internal,
                        format!("spec.ports[{i}].nodePort"),
                        None,
                        "failed to allocate a nodePort: range is full",
                    ),
                }
                continue;
            }
            let number = u16::try_from(given).ok().filter(|n| self.ports.contains(n));
            let refusal = match number {
                None => Some(format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.ports.start(),
                    self.ports.end()
                )),
                Some(number) if before.ports.contains(&number) || own.contains(&number) => None,
                Some(number) => {
                    (!self.take_this_port(number, reservation)).then(|| "provided port is already allocated".to_owned())
                }
            };
            own.extend(number);
            if let Some(detail) = refusal {
                errors.push(Reason::Invalid, format!("spec.ports[{i}].nodePort"), Some(given.into()), detail);
            }
        }
    }

    fn take_ip(&self, reservation: &mut Reservation) -> Option<Ipv4Addr> {
        let (first, last) = self.ip_bounds()?;
        let mut used = lock(&self.used);
        let guess = (0..GUESSES).map(|_| rand::rng().random_range(first..=last)).map(Ipv4Addr::from);
        let free = guess.chain((first..=last).map(Ipv4Addr::from)).find(|ip| !used.ips.contains(ip))?;
        used.ips.insert(free);
        reservation.taken.ips.insert(free);
        Some(free)
    }

    /// The first and last address that a Service may have: neither the network's nor the broadcast's.
    fn ip_bounds(&self) -> Option<(u32, u32)> {
        let (first, last) = (u32::from(self.cidr.network()) + 1, u32::from(self.cidr.broadcast()).checked_sub(1)?);
        (first <= last).then_some((first, last))
    }

    fn take_this_ip(&self, ip: Ipv4Addr, reservation: &mut Reservation) -> Result<(), String> {
        let in_range = self.ip_bounds().is_some_and(|(first, last)| (first..=last).contains(&u32::from(ip)));
        if !in_range {
            let cidr = self.cidr;
            return Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"));
        }
        if !lock(&self.used).ips.insert(ip) {
            return Err("provided IP is already allocated".to_owned());
        }
        reservation.taken.ips.insert(ip);
        Ok(())
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

fn is_service(kind: &dyn Kind) -> bool {
    kind.info().plural == "services" && kind.info().group.is_empty()
}

fn type_of(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(type_of(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(service: &Value) -> bool {
    match type_of(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    type_of(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// The numbers that a Service has.
fn held(service: &Value) -> Used {
    let spec = &service["spec"];
    let mut used = Used::default();
    if needs_cluster_ip(service) {
        used.ips.extend(spec["clusterIP"].as_str().and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
    }
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    if matches!(type_of(service), "NodePort" | "LoadBalancer") {
        used.ports.extend(spec["ports"].as_array().into_iter().flatten().filter_map(|port| number(&port["nodePort"])));
    }
    if needs_health_port(service) {
        used.ports.extend(number(&spec["healthCheckNodePort"]));
    }
    used
}

fn set(service: &mut Value, field: &str, value: Value) {
    kmeta::object_mut(service, "spec").insert(field.into(), value);
}

/// This cluster has IPv4 only; headless Services without a selector are upstream's exception.
fn set_families(service: &mut Value, ips: &Value) {
    let headless = ips[0] == "None";
    let has_selector = service["spec"]["selector"].as_object().is_some_and(|map| !map.is_empty());
    set(service, "clusterIPs", ips.clone());
    let spec = kmeta::object_mut(service, "spec");
    let absent = |spec: &serde_json::Map<String, Value>, field: &str| spec.get(field).is_none_or(kmeta::is_empty);
    if headless && !has_selector && absent(spec, "ipFamilyPolicy") && absent(spec, "ipFamilies") {
        spec.insert("ipFamilyPolicy".into(), "RequireDualStack".into());
        spec.insert("ipFamilies".into(), json!(["IPv4", "IPv6"]));
        return;
    }
    if absent(spec, "ipFamilyPolicy") {
        spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
    }
    if absent(spec, "ipFamilies") {
        spec.insert("ipFamilies".into(), json!(["IPv4"]));
    }
}

/// What the server has allocated and the client left out stays, where the new type still has it.
fn keep_allocated(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let absent = |value: &Value| kmeta::is_empty(value) || value.as_i64() == Some(0);
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let ip_given = !absent(&new["spec"]["clusterIP"]);
        let changed = ip_given && new["spec"]["clusterIP"] != before["clusterIP"];
        if changed && new["spec"]["clusterIPs"] == before["clusterIPs"] {
            // The list follows the single address when only that was changed.
            set(new, "clusterIPs", json!([new["spec"]["clusterIP"]]));
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if absent(&new["spec"][field]) && !before[field].is_null() && !(changed && field == "clusterIPs") {
                set(new, field, before[field].clone());
            }
        }
    }
    if needs_node_ports(new) && matches!(type_of(old), "NodePort" | "LoadBalancer") {
        keep_node_ports(new, before);
    }
    if needs_health_port(new) && needs_health_port(old) && absent(&new["spec"]["healthCheckNodePort"]) {
        set(new, "healthCheckNodePort", before["healthCheckNodePort"].clone());
    }
}

/// A port keeps its number if its protocol and port are as they were.
fn keep_node_ports(new: &mut Value, before: &Value) {
    let number = |port: &Value| port["nodePort"].as_u64().unwrap_or(0);
    let old: Vec<Value> = before["ports"].as_array().cloned().unwrap_or_default();
    let Some(ports) = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
    let taken: HashSet<u64> = ports.iter().map(number).filter(|n| *n != 0).collect();
    for port in ports.iter_mut().filter(|port| number(port) == 0) {
        let same = |was: &&Value| was["port"] == port["port"] && was["protocol"] == port["protocol"];
        let kept = old.iter().find(same).map(number).filter(|n| *n != 0 && !taken.contains(n));
        if let (Some(kept), Some(fields)) = (kept, port.as_object_mut()) {
            fields.insert("nodePort".into(), kept.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::config_map::ConfigMap;
    use crate::kinds::service::Service;

    fn allocator() -> Allocator {
        Allocator::new("127.96.0.0/29".parse().expect("a CIDR"), 30000..=30001)
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
