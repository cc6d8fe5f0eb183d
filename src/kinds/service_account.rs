//! ServiceAccount of `v1`: a name that pods run under. Its tokens are made on demand, so the object
//! holds hardly anything.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, common::text, time};

pub struct ServiceAccount;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    storage_version_hash: "pbx9ZvyFpBE=",
};

static COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("Age", "string", "", 0)];

impl Kind for ServiceAccount {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![text(object, "/metadata/name").into(), time::object_age(object, now).into()]
    }
}
