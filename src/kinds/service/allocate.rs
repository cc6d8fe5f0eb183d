//! Which numbers a Service needs, and which it may not have.
//!
//! What is free is somebody else's knowledge ([`Numbers`]): the API server's allocator, which takes a
//! number before the Service is written. The rules are here: which types have a cluster IP, which
//! ports get node ports, what an update keeps, and upstream's words for a refusal.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::super::common::{list, put, text};
use super::super::field::{Errors, Field};
use super::change::{keep_allocated, node_port, pair_cluster_ips};
use super::{has_cluster_ip, is_headless, may_have_node_ports, validate, wants_health_port, wants_node_ports};

/// The numbers of a cluster. What is taken stays taken if an error follows: the implementation gives
/// it back when the write does not happen.
pub trait Numbers {
    /// Any free cluster IP.
    fn take_ip(&mut self) -> Option<Ipv4Addr>;
    /// This cluster IP, or why not; its own counts as free.
    fn take_this_ip(&mut self, ip: IpAddr) -> Result<(), String>;
    /// Any free node port.
    fn take_port(&mut self) -> Option<u16>;
    /// This node port, or why not; its own counts as free.
    fn take_this_port(&mut self, port: i64) -> Result<(), String>;
}

/// The numbers that a Service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub ips: HashSet<Ipv4Addr>,
    pub ports: HashSet<u16>,
}

impl Held {
    pub fn by(service: &Value) -> Self {
        let spec = &service["spec"];
        let mut held = Self::default();
        if has_cluster_ip(spec) {
            held.ips.extend(text(spec, "/clusterIP").parse::<Ipv4Addr>());
        }
        if may_have_node_ports(spec) {
            held.ports.extend(list(spec, "/ports").iter().filter_map(node_port).flat_map(u16::try_from));
        }
        if wants_health_port(spec) {
            held.ports.extend(health_port(spec).map(u16::try_from).into_iter().flatten());
        }
        held
    }
}

fn health_port(spec: &Value) -> Option<i64> {
    spec["healthCheckNodePort"].as_i64().filter(|port| *port != 0)
}

/// Fills in the cluster IP, IP families and node ports that `service` needs and does not name, and
/// takes those that it names. `old` is the stored object on updates: what it has and the client left
/// out stays. For after the defaults and before `prepare_create` or `prepare_update`.
pub fn allocate(service: &mut Value, old: Option<&Value>, numbers: &mut dyn Numbers) -> Errors {
    if !service["spec"].is_object() {
        return Errors::default();
    }
    if let Some(old) = old {
        keep_allocated(&mut service["spec"], &old["spec"]);
    }
    pair_cluster_ips(&mut service["spec"], old.map(|old| &old["spec"]));
    let mut errors = validate::cluster_ips(&Field::root(service).get("spec"));
    if let Some(old) = old.filter(|_| errors.is_empty()) {
        errors = validate::change(service, old);
    }
    if errors.is_empty() {
        errors = allocate_ip(&mut service["spec"], numbers);
    }
    if errors.is_empty() {
        errors = allocate_ports(&mut service["spec"], numbers);
    }
    errors
}

fn allocate_ip(spec: &mut Value, numbers: &mut dyn Numbers) -> Errors {
    let mut errors = Errors::default();
    if !has_cluster_ip(spec) {
        return errors;
    }
    errors.extend(init_families(spec));
    if !errors.is_empty() || is_headless(spec) {
        return errors;
    }
    let refusal = match text(spec, "/clusterIP").parse::<IpAddr>() {
        Ok(ip) => numbers.take_this_ip(ip).err().map(|why| format!("failed to allocate IP {ip}: {why}")),
        Err(_) => match numbers.take_ip() {
            Some(ip) => {
                put(spec, "clusterIP", Some(ip.to_string().into()));
                put(spec, "clusterIPs", Some(json!([ip.to_string()])));
                None
            }
            None => Some("failed to allocate a serviceIP: range is full".to_owned()),
        },
    };
    if let Some(refusal) = refusal {
        errors.invalid(&Field::new("spec", spec).get("clusterIPs"), refusal);
    }
    errors
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

fn allocate_ports(spec: &mut Value, numbers: &mut dyn Numbers) -> Errors {
    let mut errors = Errors::default();
    let mut own = HashSet::new();
    if may_have_node_ports(spec) {
        for port in Field::new("spec", spec).get("ports").items() {
            // Ports of several protocols may share a number within one Service.
            if let Some(number) = node_port(port.value).filter(|number| own.insert(*number))
                && let Err(why) = numbers.take_this_port(number)
            {
                errors.invalid(&port.get("nodePort"), why);
            }
        }
    }
    if wants_health_port(spec) {
        errors.extend(give_health_port(spec, numbers));
    }
    if errors.is_empty() && wants_node_ports(spec) {
        errors.extend(give_ports(spec, numbers));
    }
    errors
}

const FULL: &str = "failed to allocate a nodePort: range is full";

fn give_health_port(spec: &mut Value, numbers: &mut dyn Numbers) -> Errors {
    let mut errors = Errors::default();
    let given = health_port(spec);
    let result = match given {
        Some(number) => numbers.take_this_port(number),
        None => match numbers.take_port() {
            Some(port) => {
                put(spec, "healthCheckNodePort", Some(port.into()));
                Ok(())
            }
            None => Err(FULL.to_owned()),
        },
    };
    if let Err(why) = result {
        let at = Field::new("spec.healthCheckNodePort", &Value::Null);
        errors.invalid_value(&at, given.unwrap_or(0), why);
    }
    errors
}

/// Ports of one number but of different protocols share a node port.
fn give_ports(spec: &mut Value, numbers: &mut dyn Numbers) -> Errors {
    let mut errors = Errors::default();
    let mut shared: HashMap<i64, i64> =
        list(spec, "/ports").iter().filter_map(|port| Some((port["port"].as_i64()?, node_port(port)?))).collect();
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for (i, port) in ports.enumerate().filter(|(_, port)| node_port(port).is_none()) {
        let number = port["port"].as_i64().unwrap_or(0);
        match shared.get(&number).copied().or_else(|| numbers.take_port().map(i64::from)) {
            Some(chosen) => {
                put(port, "nodePort", Some(chosen.into()));
                shared.insert(number, chosen);
            }
            None => errors.invalid_value(&Field::new(format!("spec.ports[{i}].nodePort"), &Value::Null), 0, FULL),
        }
    }
    errors
}
