//! What is there before the first client: namespaces, the Service of the API itself, the classes, the
//! roles.
//!
//! Made at each start if missing; what exists is left as it is, except the address of the API server,
//! which may have changed, and the rules of the first roles, which get back what they lack.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::admission::author::Author;
use super::auth::pki::FRONT_PROXY;
use super::auth::rbac::roles;
use super::fairness::first;
use super::registry::update::Lane;
use super::registry::{Place, Registry};
use super::status::ApiError;
use super::{ApiServer, hooks, local_services};
use crate::kinds::Kind;
use crate::kinds::api_service::APIService;
use crate::kinds::cluster_role::ClusterRole;
use crate::kinds::cluster_role_binding::ClusterRoleBinding;
use crate::kinds::config_map::ConfigMap;
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::endpoints::Endpoints;
use crate::kinds::flow_schema::FlowSchema;
use crate::kinds::ingress_class::{self, IngressClass};
use crate::kinds::meta as kmeta;
use crate::kinds::namespace::Namespace;
use crate::kinds::priority_class::{PriorityClass, SYSTEM_CLASSES};
use crate::kinds::priority_level_configuration::PriorityLevelConfiguration;
use crate::kinds::runtime_class::RuntimeClass;
use crate::kinds::service::Service;
use crate::kinds::service_cidr::{self, ServiceCIDR};
use crate::kinds::storage_class::{self, StorageClass};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Brings the registry's memory in line with the store, then makes what is missing.
pub async fn run(server: &ApiServer) -> Result<(), ApiError> {
    let registry = &server.registry;
    adopt_services(registry)?;
    for name in NAMESPACES {
        ensure(registry, &Namespace, "", json!({"metadata": {"name": name}})).await?;
        hooks::ensure_default_account(registry, name).await;
    }
    for handler in ["wasm", "docker"] {
        ensure(registry, &RuntimeClass, "", json!({"metadata": {"name": handler}, "handler": handler})).await?;
    }
    ensure(registry, &IngressClass, "", ingress_class()).await?;
    ensure(registry, &StorageClass, "", storage_class()).await?;
    for (name, value, description) in SYSTEM_CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(registry, &PriorityClass, "", class).await?;
    }
    let range = json!({
        "metadata": {"name": service_cidr::OWN}, "spec": {"cidrs": [server.config.service_cidr.to_string()]},
    });
    ensure(registry, &ServiceCIDR, "", range).await?;
    ensure(registry, &Service, "default", kubernetes_service(server)).await?;
    ensure(registry, &ConfigMap, "kube-system", extension_authentication(&server.accounts.ca_pem)).await?;
    ensure_roles(registry).await?;
    ensure_flows(registry).await?;
    let services = local_services::objects().into_iter().map(|service| ensure(registry, &APIService, "", service));
    futures::future::try_join_all(services).await?;
    let address = server.config.api_address;
    ensure_current(registry, &EndpointSlice, kubernetes_slice(address)).await?;
    ensure_current(registry, &Endpoints, kubernetes_endpoints(address)).await
}

/// The numbers of the Services that are stored are taken.
fn adopt_services(registry: &Registry) -> Result<(), ApiError> {
    let prefix = super::registry::encoding::prefix(Service.info(), "");
    let page = registry.store.list(&prefix, None, 0, None).map_err(super::registry::store_error)?;
    for entry in &page.entries {
        let place = Place { kind: &Service, namespace: "", name: "" };
        registry.allocator.adopt(&super::registry::decode(place, entry)?);
    }
    Ok(())
}

async fn ensure(registry: &Registry, kind: &'static dyn Kind, namespace: &str, object: Value) -> Result<(), ApiError> {
    let name = kmeta::text(&object, "name").to_owned();
    if registry.store.get(&Place { kind, namespace, name: &name }.key()).is_some() {
        return Ok(());
    }
    match registry.create(kind, namespace, object, &Author::own()).await {
        Err(error) if error.reason() != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

/// Makes the first roles and bindings, or gives them back what they lack. All at a time, so that they
/// share a sync of the disk.
async fn ensure_roles(registry: &Registry) -> Result<(), ApiError> {
    let (roles, bindings) = roles::first();
    let roles = roles.into_iter().map(|role| ensure_complete(registry, &ClusterRole, role));
    futures::future::try_join_all(roles).await?;
    let bindings = bindings.into_iter().map(|binding| ensure_complete(registry, &ClusterRoleBinding, binding));
    futures::future::try_join_all(bindings).await.map(|_| ())
}

/// Makes the first priority levels and schemas, all at a time as well.
async fn ensure_flows(registry: &Registry) -> Result<(), ApiError> {
    let (schemas, levels) = first::objects();
    let levels = levels.into_iter().map(|level| ensure(registry, &PriorityLevelConfiguration, "", level));
    futures::future::try_join_all(levels).await?;
    let schemas = schemas.into_iter().map(|schema| ensure(registry, &FlowSchema, "", schema));
    futures::future::try_join_all(schemas).await.map(|_| ())
}

async fn ensure_complete(registry: &Registry, kind: &'static dyn Kind, wanted: Value) -> Result<(), ApiError> {
    let name = kmeta::text(&wanted, "name").to_owned();
    let place = Place { kind, namespace: "", name: &name };
    match registry.find(place) {
        None => ensure(registry, kind, "", wanted).await,
        Some(present) if roles::completed(&present, &wanted).is_none() => Ok(()),
        Some(_) => {
            let change = |old: &Value| Ok(roles::completed(old, &wanted).unwrap_or_else(|| old.clone()));
            registry.update(place, Lane::Main, &Author::own(), &change).await.map(|_| ())
        }
    }
}

/// Makes the object in `default`, or brings everything but its metadata up to date.
async fn ensure_current(registry: &Registry, kind: &'static dyn Kind, object: Value) -> Result<(), ApiError> {
    ensure(registry, kind, "default", object.clone()).await?;
    let place = Place { kind, namespace: "default", name: "kubernetes" };
    let change = |old: &Value| {
        let mut new = object.clone();
        new["metadata"] = old["metadata"].clone();
        Ok(new)
    };
    registry.update(place, Lane::Main, &Author::own(), &change).await.map(|_| ())
}

fn ingress_class() -> Value {
    json!({
        "metadata": {
            "name": ingress_class::OWN_CLASS, "annotations": {ingress_class::DEFAULT_ANNOTATION: "true"},
        },
        "spec": {"controller": ingress_class::CONTROLLER},
    })
}

fn storage_class() -> Value {
    json!({
        "metadata": {
            "name": storage_class::OWN_CLASS, "annotations": {storage_class::DEFAULT_ANNOTATION: "true"},
        },
        "provisioner": storage_class::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// How other API servers know this one, and the users that it speaks for. Anybody's certificate is of
/// the same authority, so that only one name is believed.
fn extension_authentication(ca_pem: &str) -> Value {
    json!({
        "metadata": {"name": "extension-apiserver-authentication"},
        "data": {
            "client-ca-file": ca_pem,
            "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
            "requestheader-client-ca-file": ca_pem,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-uid-headers": r#"["X-Remote-Uid"]"#,
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
        },
    })
}

fn kubernetes_service(server: &ApiServer) -> Value {
    let first = server.config.service_cidr.hosts().next().map(|ip| ip.to_string()).unwrap_or_default();
    json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "sessionAffinity": "None",
            "ports": [{
                "name": "https", "protocol": "TCP", "port": 443, "targetPort": server.config.api_address.port(),
            }],
        },
    })
}

fn kubernetes_slice(address: SocketAddr) -> Value {
    json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}],
    })
}

fn kubernetes_endpoints(address: SocketAddr) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": address.ip().to_string()}],
            "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}],
        }],
    })
}
