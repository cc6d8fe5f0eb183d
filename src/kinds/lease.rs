//! Lease of `coordination.k8s.io/v1`.

use serde_json::Value;

use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column};
use super::{names, time, workload};

pub struct Lease;

static INFO: KindInfo = KindInfo {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    storage: "coordination.k8s.io/leases",
    storage_version_hash: "gqkMMb/YqFM=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Holder", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Lease {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        let duration = spec.get("leaseDurationSeconds");
        if duration.int().is_some_and(|seconds| seconds <= 0) {
            errors.invalid(&duration, "must be greater than 0");
        }
        workload::non_negative(&mut errors, &spec.get("leaseTransitions"));
        let strategy = spec.get("strategy");
        if strategy.exists() {
            match strategy.str() {
                "OldestEmulationVersion" => {}
                name if name.contains('/') => errors.invalid_each(&strategy, names::qualified_name(name)),
                _ => errors.not_supported(&strategy, &["OldestEmulationVersion"]),
            }
        }
        let preferred = spec.get("preferredHolder");
        if !preferred.is_empty() && strategy.is_empty() {
            errors.forbidden(&preferred, "may only be specified if `strategy` is defined");
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let holder = object["spec"]["holderIdentity"].as_str().unwrap_or("");
        vec![object["metadata"]["name"].clone(), holder.into(), time::object_age(object, now).into()]
    }
}
