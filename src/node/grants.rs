//! What a pod's annotations ask of its Wasm host.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/http: wagi                # programs without an HTTP handler answer calls by CGI
//!     coracle.dev/config: shop, seasons     # ConfigMaps that wasi:config/store tells of, the first first
//!     coracle.dev/keyvalue: /data/kv        # wasi:keyvalue: `memory`, or a directory on a volume
//! ```

use k8s_openapi::api::core::v1::Pod;

use super::env::{Found, not_found};
use super::objects::{Kind, Name};
use crate::runtime::{Grants, KeyValue};

/// How containers without an HTTP handler answer HTTP: `wagi`, or not at all.
pub const HTTP: &str = "coracle.dev/http";
/// The ConfigMaps that `wasi:config/store` tells of beside the environment.
pub const CONFIG: &str = "coracle.dev/config";
/// Where `wasi:keyvalue` keeps its values.
pub const KEYVALUE: &str = "coracle.dev/keyvalue";

fn says<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(|value| value.trim())
}

/// The ConfigMaps that the pod names, in its order.
pub fn references(pod: &Pod) -> Vec<Name> {
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
        Some(other) => {
            return Err(format!(
                "annotation {KEYVALUE} says {other:?}; it can say \"memory\" or an absolute path on a volume"
            ));
        }
    };
    let mut config = Vec::new();
    for name in references(pod) {
        let data = found.get(&name).ok_or_else(|| not_found(Kind::ConfigMap, &name.name))?;
        // What is not text cannot be told.
        let text = data.iter().filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.to_vec()).ok()?)));
        config.extend(text);
    }
    Ok(Grants { wagi, config, keyvalue })
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
        let data: Data = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), Bytes::from(v))).into();
        let name = Name { kind: Kind::ConfigMap, namespace: "ns".into(), name: "m".into() };
        of(&serde_json::from_value(pod).expect("a pod"), &[(name, Arc::new(data))].into())
    }

    #[test]
    fn annotations_ask_and_nothing_is_asked_without() {
        let config = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let directory = Some(KeyValue::Directory("/data/kv".to_owned()));
        for (annotations, grants) in [
            (json!({}), Grants::default()),
            (json!({ HTTP: "wagi" }), Grants { wagi: true, ..Grants::default() }),
            (json!({ KEYVALUE: "memory" }), Grants { keyvalue: Some(KeyValue::Memory), ..Grants::default() }),
            (json!({ KEYVALUE: "/data/kv" }), Grants { keyvalue: directory, ..Grants::default() }),
            (json!({ CONFIG: " m ," }), Grants { config, ..Grants::default() }),
        ] {
            assert_eq!(asked(annotations.clone()), Ok(grants), "{annotations}");
        }
        for (annotations, why) in [
            (json!({ HTTP: "cgi" }), "annotation coracle.dev/http says \"cgi\""),
            (json!({ KEYVALUE: "redis" }), "annotation coracle.dev/keyvalue says \"redis\""),
            (json!({ CONFIG: "none" }), "configmap \"none\" not found"),
        ] {
            let error = asked(annotations.clone()).expect_err("refused");
            assert!(error.starts_with(why), "{annotations}: {error}");
        }
    }
}
