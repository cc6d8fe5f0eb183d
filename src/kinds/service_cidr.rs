//! ServiceCIDR of `networking.k8s.io/v1`: a range that Services get their addresses from.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::common::{list, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, names, time};

pub struct ServiceCIDR;

/// The range that the cluster was made with.
pub const OWN: &str = "kubernetes";
/// Keeps a range while Services have addresses of it.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// The ranges that a server was started with.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    pub services: Ipv4Net,
    /// Where pods get theirs; `None` where nobody knows.
    pub pods: Option<Ipv4Net>,
}

impl Ranges {
    /// The part of a ServiceCIDR that Services may get addresses from, or why there is none. Nodes bind addresses
    /// of the loopback range without further ado; for any other they would need routes, which they only make for
    /// the range that they were told of when they joined.
    pub fn usable(&self, range: &Value) -> Result<Ipv4Net, &'static str> {
        let mut all = list(range, "/spec/cidrs").iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok());
        let cidr: Ipv4Net = all.next().ok_or("Services of this cluster have IPv4 addresses only")?;
        if text(range, "/metadata/name") == OWN && cidr == self.services {
            return Ok(cidr);
        }
        let overlaps = |other: &Ipv4Net| other.contains(&cidr) || cidr.contains(other);
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        // Where the machine's own servers listen.
        let machine = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 16);
        if !loopback.contains(&self.services) || !loopback.contains(&cidr) {
            return Err(
                "nodes have routes for the range that the server was started with, and for no other outside 127.0.0.0/8",
            );
        }
        if overlaps(&machine) || self.pods.as_ref().is_some_and(overlaps) {
            return Err("the range overlaps with that of the pods or of the machine itself");
        }
        Ok(cidr)
    }
}

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("ServiceCIDR")],
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    storage: "networking.k8s.io/servicecidrs",
    storage_version_hash: "gNLvruQhW2g=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("CIDRs", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for ServiceCIDR {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        object_mut(object, "status");
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = Value::Object(Default::default());
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let cidrs = Field::root(object).get("spec").get("cidrs");
        if cidrs.is_empty() {
            errors.required(&cidrs, "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            errors.invalid(&cidrs, "may only hold up to 2 values");
        }
        let parsed: Vec<_> = cidrs.items().filter_map(|cidr| names::parse_cidr(cidr.str())).collect();
        if let [(one, _), (other, _)] = parsed.as_slice()
            && one.is_ipv4() == other.is_ipv4()
        {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(&cidrs, detail);
        }
        for cidr in cidrs.items() {
            errors.invalid_each(&cidr, names::cidr(cidr.str()));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let cidrs = |object| Field::root(object).get("spec").get("cidrs");
        meta::immutable(&mut errors, &cidrs(new), &cidrs(old));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let cidrs: Vec<&str> = list(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
        vec![text(object, "/metadata/name").into(), cidrs.join(",").into(), time::object_age(object, now).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn at_most_one_range_of_each_family() {
        let errors = |cidrs: Value| {
            let errors = ServiceCIDR.validate(&json!({"spec": {"cidrs": cidrs}}));
            errors.0.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        assert!(errors(json!(["10.0.0.0/16", "2001:db8::/64"])).is_empty());
        assert_eq!(errors(json!([])), ["spec.cidrs"]);
        assert_eq!(errors(json!(["10.0.0.0/16", "10.1.0.0/16"])), ["spec.cidrs"]);
        assert_eq!(errors(json!(["10.0.0.1/16"])), ["spec.cidrs[0]"]);
        let object = |cidr: &str| json!({"spec": {"cidrs": [cidr]}});
        assert_eq!(ServiceCIDR.validate_update(&object("10.0.0.0/16"), &object("10.1.0.0/16")).0[0].path, "spec.cidrs");
    }

    #[test]
    fn a_range_is_used_where_nodes_can_bind_it() {
        let net = |text: &str| text.parse::<Ipv4Net>().expect("a range");
        let ranges = |services: &str| Ranges { services: net(services), pods: Some(net("127.64.0.0/11")) };
        let more = |cidrs: Value| json!({"metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
        let local = ranges("127.96.0.0/16");
        assert_eq!(local.usable(&more(json!(["2001:db8::/64", "127.97.0.0/24"]))), Ok(net("127.97.0.0/24")));
        for wrong in ["10.0.0.0/16", "127.0.0.0/24", "127.64.1.0/24", "127.0.0.0/8", "2001:db8::/64"] {
            assert!(local.usable(&more(json!([wrong]))).is_err(), "{wrong}");
        }
        let routed = ranges("100.64.0.0/16");
        assert!(routed.usable(&more(json!(["127.97.0.0/24"]))).is_err());
        let own = json!({"metadata": {"name": OWN}, "spec": {"cidrs": ["100.64.0.0/16"]}});
        assert_eq!(routed.usable(&own), Ok(net("100.64.0.0/16")));
    }
}
