//! What follows from a write at once, without waiting for a controller.
//!
//! Only what a client may rely on in its very next request belongs here: a pod posted right after its
//! namespace finds the `default` ServiceAccount. The controller that upstream leaves this to restores it
//! later on, should it be deleted.

use serde_json::json;

use super::registry::Registry;
use super::registry::encoding::{self, Stored};
use crate::kinds::Kind;
use crate::kinds::meta as kmeta;
use crate::kinds::service_account::ServiceAccount;

pub async fn created(registry: &Registry, kind: &dyn Kind, stored: &Stored) {
    if kind.info().plural != "namespaces" {
        return;
    }
    let Ok(namespace) = encoding::decode(kind, &stored.bytes, stored.revision) else { return };
    ensure_default_account(registry, kmeta::text(&namespace, "name")).await;
}

/// Makes the namespace's `default` ServiceAccount. Failing is no failure of the namespace's creation:
/// the controller will see to it.
pub async fn ensure_default_account(registry: &Registry, namespace: &str) {
    let account = json!({"metadata": {"name": "default"}});
    if let Err(error) = registry.create(&ServiceAccount, namespace, account, false).await
        && error.reason() != "AlreadyExists"
    {
        tracing::warn!(namespace, %error, "cannot make the default ServiceAccount");
    }
}
