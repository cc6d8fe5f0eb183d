use std::net::IpAddr;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::node::fields::Allocatable;

fn container(value: Value) -> core::Container {
    serde_json::from_value(value).expect("a container")
}

fn resolve(
    container: &core::Container,
    found: &Found,
    services: &[Arc<core::Service>],
) -> Result<BTreeMap<String, String>, String> {
    let pod: core::Pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "shop" }, "spec": { "nodeName": "n1", "containers": [] },
    }))
    .expect("a pod");
    let allocatable = Allocatable { cpu_millis: 2000, memory_bytes: 1 << 30, storage_bytes: 0 };
    let ip = IpAddr::from([127, 64, 0, 2]);
    environment(&Fields { pod: &pod, pod_ip: ip, host_ip: ip, allocatable }, container, services, found)
}

fn found(kind: Kind, name: &str, pairs: &[(&str, &str)]) -> Found {
    let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from((*value).to_owned()))).collect();
    [(Name { kind, namespace: "shop".into(), name: name.into() }, Arc::new(data))].into()
}

#[test]
fn references_to_variables_are_expanded() {
    let env: BTreeMap<String, String> = [("A".to_owned(), "1".to_owned())].into();
    let cases = [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$$$(A)", "$1"),
        ("", ""),
    ];
    for (text, expanded) in cases {
        assert_eq!(expand(text, &env), expanded, "{text}");
    }
}

proptest! {
    #[test]
    fn expansion_takes_any_text(text in ".*") {
        expand(&text, &BTreeMap::new());
    }

    #[test]
    fn text_without_a_dollar_stays(text in "[^$]*") {
        prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
    }
}

#[test]
fn values_come_from_literals_fields_and_maps_in_order() {
    let container = container(json!({
        "name": "c",
        "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "settings" } }],
        "env": [
            { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            { "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "greeting" } } },
            { "name": "BOTH", "value": "$(GREETING) from $(NODE)" },
            { "name": "P_greeting", "value": "own" },
            { "name": "MAYBE", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k", "optional": true } } },
        ],
    }));
    assert_eq!(references("shop", &container).len(), 3);
    let env = resolve(&container, &found(Kind::ConfigMap, "settings", &[("greeting", "hi")]), &[]).expect("complete");
    let pairs: Vec<(&str, &str)> = env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        pairs,
        [("BOTH", "hi from n1"), ("GREETING", "hi"), ("HOSTNAME", "p"), ("NODE", "n1"), ("P_greeting", "own"),]
    );
}

#[test]
fn what_is_missing_is_named() {
    let key = |kind: &str| json!([{ "name": "X", "valueFrom": { kind: { "name": "m", "key": "k" } } }]);
    let cases = [
        (json!({ "name": "c", "env": key("configMapKeyRef") }), Found::new(), "configmap \"m\" not found"),
        (json!({ "name": "c", "env": key("secretKeyRef") }), Found::new(), "secret \"m\" not found"),
        (
            json!({ "name": "c", "env": key("configMapKeyRef") }),
            found(Kind::ConfigMap, "m", &[]),
            "couldn't find key k in ConfigMap shop/m",
        ),
        (json!({ "name": "c", "envFrom": [{ "secretRef": { "name": "m" } }] }), Found::new(), "secret \"m\" not found"),
    ];
    for (spec, found, message) in cases {
        assert_eq!(resolve(&container(spec), &found, &[]), Err(message.to_owned()));
    }
}

#[test]
fn services_of_the_namespace_and_the_api_are_announced() {
    let service = |namespace: &str, name: &str, ip: &str| -> Arc<core::Service> {
        let value = json!({
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "clusterIP": ip, "ports": [{ "name": "http-web", "port": 80, "protocol": "TCP" }] },
        });
        Arc::new(serde_json::from_value(value).expect("a service"))
    };
    let services = [
        service("default", "kubernetes", "127.96.0.1"),
        service("shop", "my-cart", "127.96.0.2"),
        service("shop", "headless", "None"),
        service("other", "far", "127.96.0.3"),
    ];
    let env = resolve(&container(json!({ "name": "c" })), &Found::new(), &services).expect("complete");
    let cart: Vec<String> =
        env.iter().filter(|(key, _)| key.starts_with("MY_CART")).map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        cart,
        [
            "MY_CART_PORT=tcp://127.96.0.2:80",
            "MY_CART_PORT_80_TCP=tcp://127.96.0.2:80",
            "MY_CART_PORT_80_TCP_ADDR=127.96.0.2",
            "MY_CART_PORT_80_TCP_PORT=80",
            "MY_CART_PORT_80_TCP_PROTO=tcp",
            "MY_CART_SERVICE_HOST=127.96.0.2",
            "MY_CART_SERVICE_PORT=80",
            "MY_CART_SERVICE_PORT_HTTP_WEB=80",
        ]
    );
    assert!(env.contains_key("KUBERNETES_SERVICE_HOST"));
    assert!(!env.keys().any(|key| key.starts_with("FAR") || key.starts_with("HEADLESS")));
}

#[test]
fn argv_begins_with_a_name() {
    let env: BTreeMap<String, String> = [("A".to_owned(), "1".to_owned())].into();
    // Without an image that says anything, and with one that does.
    let cases = [
        (json!({ "name": "c" }), vec!["c"], vec!["app.wasm", "-v", "serve", "$(A)"]),
        (json!({ "name": "c", "args": ["--x=$(A)"] }), vec!["c", "--x=1"], vec!["app.wasm", "-v", "--x=1"]),
        (json!({ "name": "c", "command": ["run"] }), vec!["run"], vec!["run"]),
        (json!({ "name": "c", "command": ["run"], "args": ["$(B)"] }), vec!["run", "$(B)"], vec!["run", "$(B)"]),
    ];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let image = Startup {
        entrypoint: words(&["app.wasm", "-v"]),
        cmd: words(&["serve", "$(A)"]),
        env: vec![("A".into(), "2".into()), ("B".into(), "3".into())],
    };
    for (spec, bare, by_image) in cases {
        let container = container(spec);
        assert_eq!(arguments(&container, &env, &Startup::default(), Some(&container.name)), bare);
        assert_eq!(arguments(&container, &env, &image, Some(&container.name)), by_image);
    }
    let mut merged = env;
    add_of_image(&mut merged, &image);
    assert_eq!(merged, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "3".to_owned())].into());
}
