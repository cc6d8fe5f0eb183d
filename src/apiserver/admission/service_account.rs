//! ServiceAccount: every pod has one, and a volume with its token.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Operation, Request, list_mut};
use crate::apiserver::registry::{Place, Registry, meta};
use crate::apiserver::status::ApiError;
use crate::kinds::service_account::ServiceAccount;

const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and a little, as upstream: kubelets ask for a new token when 80 % of it is over.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod's creation waits for its account: a namespace's first pods race the controller that
/// makes `default`. Upstream retries as long.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !request.is(Operation::Create, "pods") {
        return Ok(());
    }
    let namespace = request.place.namespace;
    let name = account_name(object).to_owned();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.as_str().into());
    let place = Place { kind: &ServiceAccount, namespace, name: &name };
    let Some(account) = request.registry.known(place) else {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(request.forbidden(why));
    };
    add_pull_secrets(object, &account);
    let wanted = object["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if wanted {
        mount_token(object);
    }
    Ok(())
}

fn account_name(pod: &Value) -> &str {
    let spec = &pod["spec"];
    let name = |field: &str| spec[field].as_str().filter(|name| !name.is_empty());
    name("serviceAccountName").or_else(|| name("serviceAccount")).unwrap_or("default")
}

fn add_pull_secrets(pod: &mut Value, account: &Value) {
    let Some(secrets) = account["imagePullSecrets"].as_array().filter(|list| !list.is_empty()) else { return };
    if let Some(own) = list_mut(pod, &["spec", "imagePullSecrets"])
        && own.is_empty()
    {
        own.extend(secrets.iter().cloned());
    }
}

/// Mounts the token into each container that has nothing at that path; the volume only if one needs it.
fn mount_token(pod: &mut Value) {
    // A second pass, after webhooks have added containers, uses the volume of the first.
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let known = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME_PREFIX));
    let known = known.map(str::to_owned);
    let volume = known.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", meta::random_suffix()));
    let mut needed = false;
    for group in ["initContainers", "containers"] {
        let Some(containers) = pod.pointer_mut(&format!("/spec/{group}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let mounts = container["volumeMounts"].as_array();
            if mounts.is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH)) {
                continue;
            }
            let Some(mounts) = list_mut(container, &["volumeMounts"]) else { continue };
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if !needed || known.is_some() {
        return;
    }
    if let Some(volumes) = list_mut(pod, &["spec", "volumes"]) {
        volumes.push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

/// Waits a little for a pod's `default` ServiceAccount to appear in a namespace that is there.
pub async fn wait_for_prerequisites(registry: &Registry, place: Place<'_>, object: &Value) {
    if place.info().plural != "pods" || account_name(object) != "default" {
        return;
    }
    let account = Place { kind: &ServiceAccount, namespace: place.namespace, name: "default" };
    let namespace = Place { kind: &crate::kinds::namespace::Namespace, namespace: "", name: place.namespace };
    let key = account.key();
    if registry.store.get(&key).is_some() || registry.store.get(&namespace.key()).is_none() {
        return;
    }
    let Ok(mut watch) = registry.store.watch(&key, registry.store.revision()) else { return };
    if registry.store.get(&key).is_none() {
        let _ = tokio::time::timeout(PATIENCE, watch.next()).await;
    }
}
