//! What a pod's annotations ask of its Wasm host.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/http: wagi                # programs without an HTTP handler answer calls by CGI
//!     coracle.dev/config: shop, seasons     # ConfigMaps that wasi:config/store tells of, the first first
//!     coracle.dev/keyvalue: /data/kv        # wasi:keyvalue: `memory`, a directory on a volume, or a server:
//!                                           # redis://cache.shop:6379/0
//!     coracle.dev/blobstore: /data/blobs    # wasi:blobstore: a directory on a volume
//!     coracle.dev/keyvalue-secret: cache    # the Secret with that server's `password` (and `username`)
//! ```

use k8s_openapi::api::core::v1::Pod;

use super::env::{Found, not_found};
use super::objects::{Kind, Name};
use crate::kinds::pod::{CONFIG_ANNOTATION, KEYVALUE_SECRET_ANNOTATION};
use crate::runtime::{Grants, KeyValue, Redis};

/// How containers without an HTTP handler answer HTTP: `wagi`, or not at all.
pub const HTTP: &str = "coracle.dev/http";
/// The ConfigMaps that `wasi:config/store` tells of beside the environment.
pub const CONFIG: &str = CONFIG_ANNOTATION;
/// Where `wasi:keyvalue` keeps its values.
pub const KEYVALUE: &str = "coracle.dev/keyvalue";
/// The Secret that opens the server which [`KEYVALUE`] names.
pub const KEYVALUE_SECRET: &str = KEYVALUE_SECRET_ANNOTATION;

/// Where `wasi:blobstore` keeps its objects.
pub const BLOBSTORE: &str = "coracle.dev/blobstore";

const REDIS_PORT: u16 = 6379;

fn says<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(|value| value.trim())
}

/// The ConfigMaps and Secrets that the pod names.
pub fn references(pod: &Pod) -> Vec<Name> {
    config_maps(pod).into_iter().chain(secret(pod)).collect()
}

fn secret(pod: &Pod) -> Option<Name> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = says(pod, KEYVALUE_SECRET).filter(|name| !name.is_empty())?;
    Some(Name { kind: Kind::Secret, namespace, name: name.to_owned() })
}

/// In the pod's order.
fn config_maps(pod: &Pod) -> Vec<Name> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let names = says(pod, CONFIG).unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    let named = |name: &str| Name { kind: Kind::ConfigMap, namespace: namespace.clone(), name: name.to_owned() };
    names.map(named).collect()
}

/// What the pod asks for, or what is wrong with how it asks.
pub fn of(pod: &Pod, found: &Found) -> Result<Grants, String> {
    let wagi = match says(pod, HTTP) {
        None => false,
        Some("wagi") => true,
        Some(other) => return Err(format!("annotation {HTTP} says {other:?}; it can say \"wagi\"")),
    };
    let keyvalue = match says(pod, KEYVALUE) {
        None => None,
        Some("memory") => Some(KeyValue::Memory),
        Some(directory) if directory.starts_with('/') => Some(KeyValue::Directory(directory.to_owned())),
        Some(address) if address.starts_with("redis://") => Some(KeyValue::Redis(redis(pod, address, found)?)),
        Some(other) => {
            return Err(format!(
                "annotation {KEYVALUE} says {other:?}; it can say \"memory\", an absolute path on a volume, or \
                 redis://HOST:PORT/DATABASE"
            ));
        }
    };
    let blobstore = match says(pod, BLOBSTORE) {
        None => None,
        Some(directory) if directory.starts_with('/') => Some(directory.to_owned()),
        Some(other) => {
            return Err(format!("annotation {BLOBSTORE} says {other:?}; it can say an absolute path on a volume"));
        }
    };
    let mut config = Vec::new();
    for name in config_maps(pod) {
        let data = found.get(&name).ok_or_else(|| not_found(Kind::ConfigMap, &name.name))?;
        // What is not text cannot be told.
        let text = data.iter().filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.to_vec()).ok()?)));
        config.extend(text);
    }
    Ok(Grants { wagi, config, keyvalue, blobstore })
}

/// The server of an address, with what the pod's Secret says for it.
fn redis(pod: &Pod, address: &str, found: &Found) -> Result<Redis, String> {
    let refused = |why: &str| format!("annotation {KEYVALUE} says {address:?}: {why}");
    let uri: http::Uri = address.parse().map_err(|_| refused("that is no address"))?;
    let authority = uri.authority().ok_or_else(|| refused("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(format!("annotation {KEYVALUE} has a password in it: {KEYVALUE_SECRET} names the Secret for that"));
    }
    let database = match uri.path().trim_start_matches('/') {
        "" => 0,
        number => number.parse().map_err(|_| refused("after the host comes the number of a database"))?,
    };
    let (mut username, mut password) = (None, None);
    if let Some(name) = secret(pod) {
        let data = found.get(&name).ok_or_else(|| not_found(Kind::Secret, &name.name))?;
        let text = |key: &str| data.get(key).and_then(|value| String::from_utf8(value.to_vec()).ok());
        (username, password) = (text("username"), text("password"));
        if password.is_none() {
            return Err(format!("annotation {KEYVALUE_SECRET}: the secret {:?} has no key \"password\"", name.name));
        }
    }
    let port = authority.port_u16().unwrap_or(REDIS_PORT);
    Ok(Redis { host: authority.host().to_owned(), port, database, username, password })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::node::objects::Data;

    fn asked(annotations: serde_json::Value) -> Result<Grants, String> {
        let pod = json!({ "metadata": { "namespace": "ns", "name": "p", "annotations": annotations } });
        let data = |pairs: &[(&str, &str)]| -> Arc<Data> {
            Arc::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), Bytes::from((*v).to_owned()))).collect())
        };
        let name = |kind, name: &str| Name { kind, namespace: "ns".into(), name: name.into() };
        let found = [
            (name(Kind::ConfigMap, "m"), data(&[("a", "1"), ("b", "2")])),
            (name(Kind::Secret, "s"), data(&[("password", "sesame")])),
            (name(Kind::Secret, "empty"), data(&[])),
        ];
        of(&serde_json::from_value(pod).expect("a pod"), &found.into())
    }

    #[test]
    fn annotations_ask_and_nothing_is_asked_without() {
        let config = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let directory = Some(KeyValue::Directory("/data/kv".to_owned()));
        let redis = |port, database, password: Option<&str>| {
            let (host, password) = ("cache.shop".to_owned(), password.map(str::to_owned));
            let server = Redis { host, port, database, username: None, password };
            Grants { keyvalue: Some(KeyValue::Redis(server)), ..Grants::default() }
        };
        for (annotations, grants) in [
            (json!({}), Grants::default()),
            (json!({ HTTP: "wagi" }), Grants { wagi: true, ..Grants::default() }),
            (json!({ KEYVALUE: "memory" }), Grants { keyvalue: Some(KeyValue::Memory), ..Grants::default() }),
            (json!({ KEYVALUE: "/data/kv" }), Grants { keyvalue: directory, ..Grants::default() }),
            (json!({ KEYVALUE: "redis://cache.shop" }), redis(6379, 0, None)),
            (json!({ KEYVALUE: "redis://cache.shop:7000/3", KEYVALUE_SECRET: "s" }), redis(7000, 3, Some("sesame"))),
            (json!({ BLOBSTORE: "/data" }), Grants { blobstore: Some("/data".to_owned()), ..Grants::default() }),
            (json!({ CONFIG: " m ," }), Grants { config, ..Grants::default() }),
        ] {
            assert_eq!(asked(annotations.clone()), Ok(grants), "{annotations}");
        }
        for (annotations, why) in [
            (json!({ HTTP: "cgi" }), "annotation coracle.dev/http says \"cgi\""),
            (json!({ KEYVALUE: "redis" }), "annotation coracle.dev/keyvalue says \"redis\""),
            (json!({ KEYVALUE: "redis://" }), "annotation coracle.dev/keyvalue says \"redis://\": that is no address"),
            (
                json!({ KEYVALUE: "redis://h/x" }),
                "annotation coracle.dev/keyvalue says \"redis://h/x\": after the host",
            ),
            (json!({ KEYVALUE: "redis://:p@h" }), "annotation coracle.dev/keyvalue has a password in it"),
            (json!({ KEYVALUE: "redis://h", KEYVALUE_SECRET: "none" }), "secret \"none\" not found"),
            (json!({ KEYVALUE: "redis://h", KEYVALUE_SECRET: "empty" }), "annotation coracle.dev/keyvalue-secret: the"),
            (json!({ BLOBSTORE: "data" }), "annotation coracle.dev/blobstore says \"data\""),
            (json!({ CONFIG: "none" }), "configmap \"none\" not found"),
        ] {
            let error = asked(annotations.clone()).expect_err("refused");
            assert!(error.starts_with(why), "{annotations}: {error}");
        }
    }
}
