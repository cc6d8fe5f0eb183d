//! Cluster IPs and node ports: who holds which, and the choice of new ones.
//!
//! [`Pool`] is what is taken; the API server keeps one beside its store, built from the stored
//! Services and kept in step with each committed write. [`allocate`] decides and reserves nothing:
//! after the write is committed the caller tells the pool with [`Pool::replace`]. So a dry run, or a
//! write that fails, leaves nothing to undo.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::super::common::{list, put, text};
use super::super::field::{Errors, Field};
use super::change::{node_port, pair_cluster_ips};
use super::{has_cluster_ip, is_headless, validate, wants_health_port, wants_node_ports};

/// Upstream's default range of node ports.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Which cluster IPs and node ports the stored Services hold, and the ranges they come from.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: ipnet::Ipv4Net,
    node_ports: RangeInclusive<u16>,
    held_ips: HashMap<Ipv4Addr, String>,
    held_ports: HashMap<u16, String>,
}

impl Pool {
    pub fn new(cidr: ipnet::Ipv4Net, node_ports: RangeInclusive<u16>) -> Self {
        Self { cidr, node_ports, held_ips: HashMap::new(), held_ports: HashMap::new() }
    }

    /// Takes note of one committed write: `old` is what was stored, `new` what is stored now.
    pub fn replace(&mut self, old: Option<&Value>, new: Option<&Value>) {
        if let Some(old) = old {
            let owner = owner(old);
            self.held_ips.retain(|_, holder| *holder != owner);
            self.held_ports.retain(|_, holder| *holder != owner);
        }
        if let Some(new) = new {
            let owner = owner(new);
            for ip in list(new, "/spec/clusterIPs").iter().filter_map(Value::as_str).filter_map(|ip| ip.parse().ok()) {
                self.held_ips.insert(ip, owner.clone());
            }
            for port in held_node_ports(&new["spec"]) {
                self.held_ports.insert(port, owner.clone());
            }
        }
    }

    fn port_range(&self) -> String {
        format!("{}-{}", self.node_ports.start(), self.node_ports.end())
    }

    /// A free address, starting the search at a place that `seed` picks. The network address and the
    /// broadcast address are nobody's.
    fn free_ip(&self, seed: u64) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(self.cidr.network()), u32::from(self.cidr.broadcast()));
        let (low, high) = (first.checked_add(1)?, last.checked_sub(1)?);
        let size = u64::from(high.checked_sub(low)?) + 1;
        // At most one step more than there are holders can be taken.
        let tries = size.min(self.held_ips.len() as u64 + 1);
        (0..tries)
            .map(|step| low + u32::try_from((seed % size + step) % size).unwrap_or(0))
            .map(Ipv4Addr::from)
            .find(|ip| !self.held_ips.contains_key(ip))
    }

    fn free_port(&self, seed: u64, taken: &HashSet<u16>) -> Option<u16> {
        let size = u64::from(self.node_ports.end().checked_sub(*self.node_ports.start())?) + 1;
        (0..size)
            .map(|step| self.node_ports.start() + u16::try_from((seed % size + step) % size).unwrap_or(0))
            .find(|port| !self.held_ports.contains_key(port) && !taken.contains(port))
    }
}

/// Who holds something: a Service by namespace and name.
fn owner(service: &Value) -> String {
    format!("{}/{}", text(service, "/metadata/namespace"), text(service, "/metadata/name"))
}

fn held_node_ports(spec: &Value) -> HashSet<u16> {
    let ports = list(spec, "/ports").iter().filter_map(node_port);
    ports
        .chain(spec["healthCheckNodePort"].as_i64())
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|p| *p != 0)
        .collect()
}

/// Fills in the cluster IP, IP families and node ports that `service` needs and does not name, and
/// checks those that it names. `seed` makes the choice random; `old` is the stored object on updates.
pub fn allocate(service: &mut Value, old: Option<&Value>, pool: &Pool, seed: u64) -> Errors {
    if !service["spec"].is_object() {
        return Errors::default();
    }
    if old.is_none() {
        pair_cluster_ips(&mut service["spec"], None);
    }
    let errors = validate::cluster_ips(&Field::root(service).get("spec"));
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        let errors = validate::change(service, old);
        if !errors.is_empty() {
            return errors;
        }
    }
    let owner = owner(service);
    let errors = allocate_ip(service, pool, &owner, seed);
    if !errors.is_empty() {
        return errors;
    }
    allocate_ports(service, pool, &owner, seed)
}

fn allocate_ip(service: &mut Value, pool: &Pool, owner: &str, seed: u64) -> Errors {
    let mut errors = Errors::default();
    let spec = &mut service["spec"];
    if !has_cluster_ip(spec) {
        return errors;
    }
    errors.extend(init_families(spec));
    if !errors.is_empty() || is_headless(spec) {
        return errors;
    }
    let wanted = text(spec, "/clusterIP").to_owned();
    let at = |service: &Value| Field::root(service).get("spec").get("clusterIPs").value.clone();
    let refusal = match wanted.parse::<IpAddr>() {
        Err(_) => match pool.free_ip(seed) {
            Some(ip) => {
                put(spec, "clusterIP", Some(ip.to_string().into()));
                put(spec, "clusterIPs", Some(json!([ip.to_string()])));
                None
            }
            None => Some("failed to allocate a serviceIP: range is full".to_owned()),
        },
        Ok(ip) => refuse_ip(pool, ip, owner),
    };
    if let Some(refusal) = refusal {
        let shown = at(service);
        let field = Field::new("spec.clusterIPs", &shown);
        errors.invalid(&field, refusal);
    }
    errors
}

/// Why a Service may not have the address it names.
fn refuse_ip(pool: &Pool, ip: IpAddr, owner: &str) -> Option<String> {
    let inside = match ip {
        IpAddr::V4(v4) => pool.cidr.contains(&v4),
        IpAddr::V6(_) => false,
    };
    if !inside {
        return Some(format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
            pool.cidr
        ));
    }
    let IpAddr::V4(v4) = ip else { return None };
    match pool.held_ips.get(&v4) {
        Some(holder) if holder != owner => {
            Some(format!("failed to allocate IP {ip}: provided IP is already allocated"))
        }
        _ => None,
    }
}

/// The cluster has IPv4 only. A headless Service without a selector names addresses that somebody
/// else manages, so it is open to both families.
fn init_families(spec: &mut Value) -> Errors {
    let mut errors = Errors::default();
    let foreign = is_headless(spec) && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = text(spec, "/ipFamilyPolicy").to_owned();
    if foreign {
        if policy.is_empty() {
            let default = if list(spec, "/ipFamilies").len() == 1 { "SingleStack" } else { "RequireDualStack" };
            put(spec, "ipFamilyPolicy", Some(default.into()));
        }
        if list(spec, "/ipFamilies").is_empty() {
            let both = text(spec, "/ipFamilyPolicy") != "SingleStack";
            put(spec, "ipFamilies", Some(if both { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) }));
        }
        return errors;
    }
    let at = Field::new("spec", spec);
    if policy == "RequireDualStack" {
        errors.invalid(&at.get("ipFamilyPolicy"), "this cluster is not configured for dual-stack services");
    }
    for family in at.get("ipFamilies").items().filter(|family| family.str() == "IPv6") {
        errors.invalid(&family, "not configured on this cluster");
    }
    if errors.is_empty() {
        if policy.is_empty() {
            put(spec, "ipFamilyPolicy", Some("SingleStack".into()));
        }
        put(spec, "ipFamilies", Some(json!(["IPv4"])));
    }
    errors
}

fn allocate_ports(service: &mut Value, pool: &Pool, owner: &str, seed: u64) -> Errors {
    let mut errors = Errors::default();
    let named = Field::root(service);
    for port in named.get("spec").get("ports").items() {
        if let Some(number) = node_port(port.value).filter(|_| super::may_have_node_ports(&service["spec"])) {
            refuse_port(&mut errors, pool, &port.get("nodePort"), number, owner);
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    let mut taken = held_node_ports(&service["spec"]);
    let spec = &mut service["spec"];
    if wants_health_port(spec) && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        match pool.free_port(seed, &taken) {
            Some(port) => {
                taken.insert(port);
                put(spec, "healthCheckNodePort", Some(port.into()));
            }
            None => errors.invalid_value(&Field::new("spec.healthCheckNodePort", &Value::Null), 0, FULL),
        }
    }
    if wants_node_ports(spec) {
        errors.extend(give_ports(spec, pool, &mut taken, seed));
    }
    errors
}

const FULL: &str = "failed to allocate a nodePort: range is full";

fn refuse_port(errors: &mut Errors, pool: &Pool, at: &Field<'_>, number: i64, owner: &str) {
    let Some(port) = u16::try_from(number).ok().filter(|port| pool.node_ports.contains(port)) else {
        let detail =
            format!("provided port is not in the valid range. The range of valid ports is {}", pool.port_range());
        errors.invalid(at, detail);
        return;
    };
    if pool.held_ports.get(&port).is_some_and(|holder| holder != owner) {
        errors.invalid(at, "provided port is already allocated");
    }
}

/// Ports of one number but of different protocols share a node port.
fn give_ports(spec: &mut Value, pool: &Pool, taken: &mut HashSet<u16>, seed: u64) -> Errors {
    let mut errors = Errors::default();
    let mut shared: HashMap<i64, i64> =
        list(spec, "/ports").iter().filter_map(|port| Some((port["port"].as_i64()?, node_port(port)?))).collect();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for (i, port) in ports.enumerate().filter(|(_, port)| node_port(port).is_none()) {
        let number = port["port"].as_i64().unwrap_or(0);
        let free = || pool.free_port(seed.wrapping_add(i as u64), taken).map(i64::from);
        let Some(chosen) = shared.get(&number).copied().or_else(free) else {
            errors.invalid_value(&Field::new(format!("spec.ports[{i}].nodePort"), &Value::Null), 0, FULL);
            continue;
        };
        put(port, "nodePort", Some(chosen.into()));
        shared.insert(number, chosen);
        taken.extend(u16::try_from(chosen));
    }
    errors
}
