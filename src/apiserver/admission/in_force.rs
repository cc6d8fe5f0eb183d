//! The webhooks and policies that are in force, compiled from the stored objects: what is written holds
//! for the next request.

use std::sync::Arc;

use super::policies::Policy;
use super::policies::mutate::MutatingPolicy;
use super::webhooks::Webhook;
use crate::apiserver::derived::{Derived, objects};
use crate::kinds::admission::GROUP;
use crate::kinds::admission::mutating_admission_policy::MutatingAdmissionPolicy;
use crate::kinds::admission::mutating_admission_policy_binding::MutatingAdmissionPolicyBinding;
use crate::kinds::admission::mutating_webhook_configuration::MutatingWebhookConfiguration;
use crate::kinds::admission::validating_admission_policy::ValidatingAdmissionPolicy;
use crate::kinds::admission::validating_admission_policy_binding::ValidatingAdmissionPolicyBinding;
use crate::kinds::admission::validating_webhook_configuration::ValidatingWebhookConfiguration;
use crate::store::Store;

/// Who has a say beside the server's own plugins; in the order of their names.
#[derive(Debug, Default)]
pub struct InForce {
    pub mutating: Vec<Webhook>,
    pub validating: Vec<Webhook>,
    pub policies: Vec<Policy>,
    pub mutating_policies: Vec<MutatingPolicy>,
}

/// [`InForce`] as of the last write of a configuration.
pub type Registered = Derived<InForce>;

pub fn registered(store: Arc<dyn Store>) -> Registered {
    Derived::new(store, GROUP, |store| InForce {
        mutating: objects(store, &MutatingWebhookConfiguration).iter().flat_map(Webhook::all).collect(),
        validating: objects(store, &ValidatingWebhookConfiguration).iter().flat_map(Webhook::all).collect(),
        policies: Policy::all(
            &objects(store, &ValidatingAdmissionPolicy),
            &objects(store, &ValidatingAdmissionPolicyBinding),
        ),
        mutating_policies: MutatingPolicy::all(
            &objects(store, &MutatingAdmissionPolicy),
            &objects(store, &MutatingAdmissionPolicyBinding),
        ),
    })
}
