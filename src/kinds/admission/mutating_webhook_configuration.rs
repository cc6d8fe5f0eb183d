//! MutatingWebhookConfiguration of `admissionregistration.k8s.io/v1`: programs that may change what is written.

use serde_json::Value;

use super::webhooks;
use crate::kinds::field::Errors;
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, meta};

pub struct MutatingWebhookConfiguration;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    storage: "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    storage_version_hash: "Sqi0GUgDaX0=",
};

impl Kind for MutatingWebhookConfiguration {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        webhooks::default(object, true);
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        webhooks::prepare_update(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        webhooks::validate(object)
    }

    fn columns(&self) -> &'static [Column] {
        webhooks::COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        webhooks::row(object, now)
    }
}
