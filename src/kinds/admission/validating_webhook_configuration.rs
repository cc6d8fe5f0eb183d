//! ValidatingWebhookConfiguration of `admissionregistration.k8s.io/v1`: programs that may refuse what is written.

use serde_json::Value;

use super::webhooks;
use crate::kinds::field::Errors;
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, meta};

pub struct ValidatingWebhookConfiguration;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    storage: "admissionregistration.k8s.io/validatingwebhookconfigurations",
    storage_version_hash: "B0wHjQmsGNk=",
};

impl Kind for ValidatingWebhookConfiguration {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        webhooks::default(object, false);
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
