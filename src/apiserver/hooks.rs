//! What follows from a write at once, without waiting for a controller.
//!
//! Only what a client may rely on in its very next request belongs here: a pod posted right after its
//! namespace finds the `default` ServiceAccount. The controller that upstream leaves this to restores it
//! later on, should it be deleted. And what only the server can make: a Secret's token, which takes the
//! key that signs it.

use base64::Engine as _;
use serde_json::{Value, json};

use super::ApiServer;
use super::admission::author::Author;
use super::auth::accounts::legacy_claims;
use super::registry::encoding::{self, Stored};
use super::registry::update::Lane;
use super::registry::{Place, Registry};
use crate::kinds::Kind;
use crate::kinds::meta as kmeta;
use crate::kinds::secret::Secret;
use crate::kinds::service_account::ServiceAccount;

pub async fn created(server: &ApiServer, kind: &dyn Kind, stored: &Stored) {
    let plural = kind.info().own_plural();
    if plural != "namespaces" && plural != "secrets" {
        return;
    }
    let Ok(object) = encoding::decode(kind, &stored.bytes, stored.revision) else { return };
    match plural {
        "namespaces" => ensure_default_account(&server.registry, kmeta::text(&object, "name")).await,
        _ => fill_token(server, &object).await,
    }
}

/// Writes an account's token into a Secret that asks for it. Such tokens never end, and upstream warns
/// of them; but some programs outside of the cluster can use no other.
async fn fill_token(server: &ApiServer, secret: &Value) {
    if secret["type"] != "kubernetes.io/service-account-token" || !secret["data"]["token"].is_null() {
        return;
    }
    let (namespace, name) = (kmeta::text(secret, "namespace"), kmeta::text(secret, "name"));
    let account = secret["metadata"]["annotations"][ACCOUNT_NAME].as_str().unwrap_or_default();
    let place = Place { kind: &ServiceAccount, namespace, name: account };
    let Some(account) = server.registry.find(place) else { return };
    let token = match server.accounts.key.sign(&legacy_claims(&account, name)) {
        Ok(token) => token,
        Err(error) => return tracing::warn!(namespace, name, %error, "cannot sign the token of a secret"),
    };
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let change = |old: &Value| {
        let mut new = old.clone();
        let annotations = kmeta::metadata_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
        annotations[ACCOUNT_UID] = account["metadata"]["uid"].clone();
        let data = kmeta::object_mut(&mut new, "data");
        data.insert("token".into(), encode(&token).into());
        data.insert("namespace".into(), encode(namespace).into());
        data.insert("ca.crt".into(), encode(&server.accounts.ca_pem).into());
        Ok(new)
    };
    let place = Place { kind: &Secret, namespace, name };
    if let Err(error) = server.registry.update(place, Lane::Main, &Author::own(), &change).await {
        tracing::warn!(namespace, name, %error, "cannot fill the token of a secret");
    }
}

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Makes the namespace's `default` ServiceAccount. Failing is no failure of the namespace's creation:
/// the controller will see to it.
pub async fn ensure_default_account(registry: &Registry, namespace: &str) {
    let account = json!({"metadata": {"name": "default"}});
    if let Err(error) = registry.create(&ServiceAccount, namespace, account, &Author::own()).await
        && error.reason() != "AlreadyExists"
    {
        tracing::warn!(namespace, %error, "cannot make the default ServiceAccount");
    }
}
