//! IPAddress of `networking.k8s.io/v1`: that an address is taken, and by whom. Its name is the address.

use serde_json::Value;

use super::common::text;
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule, column, names};

pub struct IPAddress;

/// The label that says who keeps an entry.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Its value where the cluster itself does.
pub const MANAGER: &str = "ipallocator.k8s.io";

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.networking.v1.IPAddress",
    storage: "networking.k8s.io/ipaddresses",
    storage_version_hash: "3f/plJFChNE=",
};

static COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("ParentRef", "string", "", 0)];

impl Kind for IPAddress {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let parent = Field::root(object).get("spec").get("parentRef");
        if !parent.exists() {
            errors.required(&parent, "");
            return errors;
        }
        let group = parent.get("group");
        if !group.is_empty() {
            errors.invalid_each(&group, names::dns1123_subdomain(group.str()));
        }
        for name in ["resource", "name", "namespace"] {
            let part = parent.get(name);
            if part.is_empty() && name != "namespace" {
                errors.required(&part, "");
            }
            errors.invalid_each(&part, names::path_segment(part.str(), false));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let parent = |object| Field::root(object).get("spec").get("parentRef");
        meta::immutable(&mut errors, &parent(new), &parent(old));
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::IpAddress
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        let parent = &object["spec"]["parentRef"];
        let group = text(parent, "/group");
        let resource = match group {
            "" => text(parent, "/resource").to_owned(),
            group => format!("{}.{group}", text(parent, "/resource")),
        };
        let place = [text(parent, "/namespace"), text(parent, "/name")];
        let parts = std::iter::once(resource.as_str()).chain(place.into_iter().filter(|part| !part.is_empty()));
        let shown = if parent.is_null() { "<none>".to_owned() } else { parts.collect::<Vec<_>>().join("/") };
        vec![text(object, "/metadata/name").into(), shown.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_belongs_to_somebody() {
        let parent = json!({"resource": "services", "namespace": "shop", "name": "web"});
        let object = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}});
        assert!(IPAddress.validate(&object).is_empty());
        let row = IPAddress.row(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(row, [json!("10.0.0.1"), json!("services/shop/web")]);
        let errors = IPAddress.validate(&json!({"spec": {"parentRef": {"namespace": "a/b"}}}));
        let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.parentRef.resource", "spec.parentRef.name", "spec.parentRef.namespace"]);
        let mut moved = object.clone();
        moved["spec"]["parentRef"]["name"] = "other".into();
        assert_eq!(IPAddress.validate_update(&moved, &object).0[0].path, "spec.parentRef");
    }

    #[test]
    fn its_name_is_an_address_in_one_spelling() {
        for good in ["10.0.0.1", "2001:db8::1"] {
            assert!(names::object_name(NameRule::IpAddress, good, false).is_empty(), "{good}");
        }
        for bad in ["", "a", "010.0.0.1", "2001:DB8::1", "2001:db8:0::1", "::ffff:1.2.3.4"] {
            assert!(!names::object_name(NameRule::IpAddress, bad, false).is_empty(), "{bad}");
        }
    }
}
