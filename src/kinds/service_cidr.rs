//! ServiceCIDR of `networking.k8s.io/v1`: a range that Services get their addresses from.

use serde_json::Value;

use super::common::{list, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, names, time};

pub struct ServiceCIDR;

/// The range that the cluster was made with.
pub const OWN: &str = "kubernetes";

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
}
