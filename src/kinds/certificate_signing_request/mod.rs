//! CertificateSigningRequest of `certificates.k8s.io/v1`: somebody asks for a certificate, somebody else
//! approves it, a signer makes it.
//!
//! Who asks is written by the server. The spec never changes. Approval has an endpoint of its own, so
//! that it takes a right of its own; the certificate comes through the status.

pub mod request;
pub mod signers;
mod validate;

use serde_json::Value;

use super::common::{list, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule, Subresource, column, time};

pub use validate::approval as validate_approval;

pub struct CertificateSigningRequest;

static INFO: KindInfo = KindInfo {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "approval",
            group: "",
            version: "",
            kind: "CertificateSigningRequest",
            verbs: &["get", "patch", "update"],
        },
        Subresource::status("CertificateSigningRequest"),
    ],
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    storage: "certificates.k8s.io/certificatesigningrequests",
    storage_version_hash: "95fRKMXA+00=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Age", "string", "", 0),
    column("SignerName", "string", "", 0),
    column("Requestor", "string", "", 0),
    column("RequestedDuration", "string", "", 0),
    column("Condition", "string", "", 0),
];

static SELECTABLE: &[&str] = &["spec.signerName"];

/// What the server writes of who asks.
pub const REQUESTER: &[&str] = &["username", "uid", "groups", "extra"];

impl Kind for CertificateSigningRequest {
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
        meta::take_from(new, old, "spec");
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn date_status(&self, new: &mut Value, old: &Value, now: jiff::Timestamp) {
        date_conditions(new, old, now);
    }

    fn validate(&self, object: &Value) -> Errors {
        validate::create(&Field::root(object))
    }

    fn validate_update(&self, _new: &Value, _old: &Value) -> Errors {
        Errors::default()
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        validate::status(new, old)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let duration = object["spec"]["expirationSeconds"].as_i64();
        vec![
            text(object, "/metadata/name").into(),
            time::object_age(object, now).into(),
            text(object, "/spec/signerName").into(),
            text(object, "/spec/username").into(),
            duration.map_or_else(|| "<none>".to_owned(), time::human_duration).into(),
            condition(object).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(object, "/spec/signerName").to_owned())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        SELECTABLE
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"]],
            _ => &[&["spec"], &["status", "certificate"]],
        }
    }
}

/// Whether a condition of this type is there and true.
pub fn holds(object: &Value, kind: &str) -> bool {
    let conditions = list(object, "/status/conditions");
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// `Approved,Issued`.
fn condition(object: &Value) -> String {
    let has = |kind: &str| list(object, "/status/conditions").iter().any(|condition| condition["type"] == kind);
    let mut words = vec![match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }];
    if has("Failed") {
        words.push("Failed");
    }
    if !text(object, "/status/certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}

/// Writes the times of conditions that come without: now, or where nothing has changed, those of before.
pub fn date_conditions(new: &mut Value, old: &Value, now: jiff::Timestamp) {
    let now = Value::from(time::write(now));
    let before = list(old, "/status/conditions");
    let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let known = before.iter().find(|known| known["type"] == condition["type"]);
        let same_status = known.filter(|known| known["status"] == condition["status"]);
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let kept = same_status.map(|known| known["lastTransitionTime"].clone()).filter(|time| !time.is_null());
            condition["lastTransitionTime"] = kept.unwrap_or_else(|| now.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_tells_how_far_it_is() {
        let states = [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}]}), "Approved"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="}), "Approved,Issued"),
            (json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]}), "Approved,Failed"),
            (json!({"conditions": [{"type": "Denied"}]}), "Denied"),
        ];
        for (status, wanted) in states {
            let object = json!({"metadata": {"name": "a"}, "spec": {"expirationSeconds": 3600}, "status": status});
            let row = CertificateSigningRequest.row(&object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!((&row[4], &row[5]), (&json!("60m"), &json!(wanted)));
        }
    }

    #[test]
    fn times_are_the_servers() {
        let old = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}});
        date_conditions(&mut new, &old, "2026-02-01T00:00:00Z".parse().expect("a time"));
        let conditions = list(&new, "/status/conditions");
        assert_eq!(conditions[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(conditions[0]["lastUpdateTime"], "2026-02-01T00:00:00Z");
        assert_eq!(conditions[1]["lastTransitionTime"], "2026-02-01T00:00:00Z");
    }
}
