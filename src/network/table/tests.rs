use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::kinds::ingress_class;

/// Objects as the API gives them, from their JSON.
#[derive(Default)]
struct World {
    services: Vec<Value>,
    slices: Vec<Value>,
    ingresses: Vec<Value>,
    classes: Vec<Value>,
}

fn typed<T: DeserializeOwned>(values: &[Value]) -> Vec<Arc<T>> {
    let typed = |value: &Value| Arc::new(serde_json::from_value(value.clone()).expect("a well-formed object"));
    values.iter().map(typed).collect()
}

impl World {
    fn build_from(&self, previous: Option<&RouteTable>) -> RouteTable {
        let objects = Objects {
            services: &typed(&self.services),
            slices: &typed(&self.slices),
            ingresses: &typed(&self.ingresses),
            classes: &typed(&self.classes),
            node: "node-0",
        };
        RouteTable::build(&objects, previous)
    }

    fn build(&self) -> RouteTable {
        self.build_from(None)
    }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

fn ready(ip: &str) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

fn addresses(port: &ServicePort) -> Vec<String> {
    port.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

/// The cart of the shop: ports by name, two pods, a node port.
fn cart() -> World {
    World {
        services: vec![service(
            "cart",
            json!({
                "type": "NodePort", "clusterIP": "127.96.0.9", "clusterIPs": ["127.96.0.9"],
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP"},
                    {"name": "admin", "port": 9000, "targetPort": 9001},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                ],
            }),
        )],
        slices: vec![slice(
            "cart",
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "admin", "port": 9001}]),
            json!([ready("127.64.0.2"), ready("127.64.0.1")]),
        )],
        ..World::default()
    }
}

#[test]
fn a_service_is_found_by_cluster_ip_node_port_and_name() {
    let table = cart().build();
    let by_ip = table.at("127.96.0.9:80".parse().expect("an address"), Transport::Tcp).expect("the port is known");
    assert_eq!(addresses(by_ip), ["127.64.0.1:8080", "127.64.0.2:8080"]);
    assert_eq!(by_ip.protocol, Protocol::Http);
    let by_node_port = table.at_node_port(30080, Transport::Tcp).expect("the node port is known");
    assert!(Arc::ptr_eq(by_ip, by_node_port));
    let admin = table.service("shop", "cart").and_then(|service| service.port_named("admin")).expect("a named port");
    assert_eq!(addresses(admin), ["127.64.0.1:9001", "127.64.0.2:9001"]);
    let dns = table.at("127.96.0.9:53".parse().expect("an address"), Transport::Udp).expect("the port is known");
    assert_eq!((&*dns.name, dns.endpoints.len()), ("dns", 0), "the slice has no such port");
    assert!(table.at("127.96.0.9:53".parse().expect("an address"), Transport::Tcp).is_none());
    assert!(table.is_pod("127.64.0.1".parse().expect("an address")));
}

#[test]
fn tcp_and_udp_may_have_the_same_number() {
    let mut world = cart();
    world.services[0]["spec"]["ports"] = json!([
        {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP", "nodePort": 30053},
        {"name": "dns-tcp", "port": 53, "targetPort": 5354, "nodePort": 30053},
    ]);
    world.slices[0]["ports"] =
        json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5354, "protocol": "TCP"}]);
    let table = world.build();
    for (transport, port) in [(Transport::Udp, 5353), (Transport::Tcp, 5354)] {
        let at = table.at("127.96.0.9:53".parse().expect("an address"), transport).expect("the port is known");
        assert_eq!(addresses(at), [format!("127.64.0.1:{port}"), format!("127.64.0.2:{port}")]);
        assert!(Arc::ptr_eq(at, table.at_node_port(30053, transport).expect("the node port is known")));
        assert!(Arc::ptr_eq(at, &table.renew(at).expect("it is there")));
    }
    assert_eq!(table.cluster_addresses().count(), 2);
}

#[test]
fn names_follow_the_search_path_of_the_callers_namespace() {
    let mut world = cart();
    world.slices[0]["endpoints"][0]["hostname"] = json!("web-0");
    let table = world.build();
    for (namespace, name, found) in [
        ("shop", "cart", true),
        ("shop", "CART", true),
        ("other", "cart", false),
        ("other", "cart.shop", true),
        ("other", "cart.shop.svc", true),
        ("other", "cart.shop.svc.cluster.local", true),
        ("other", "cart.shop.svc.cluster.local.", true),
        ("shop", "cart.", false),
        ("shop", "cart.shop.", false),
        ("shop", "cart.other", false),
        ("shop", "cart.shop.pod.cluster.local", false),
        ("shop", "nothing", false),
        ("shop", "", false),
        ("shop", "web-0.cart", true),
        ("other", "web-0.cart", false),
        ("other", "web-0.cart.shop.svc.cluster.local", true),
        ("shop", "web-1.cart", false),
        ("shop", "example.com", false),
    ] {
        assert_eq!(table.resolve(namespace, name).is_some(), found, "{name:?} from {namespace}");
    }
    match table.resolve("shop", "web-0.cart") {
        Some(Resolved::Pods(ips)) => assert_eq!(ips, ["127.64.0.2".parse::<IpAddr>().expect("an address")]),
        other => panic!("one pod, not {other:?}"),
    }
}

#[test]
fn only_ready_endpoints_are_used_or_else_those_that_end_but_still_answer() {
    let unready = json!({"addresses": ["127.64.0.3"], "conditions": {"ready": false, "serving": false}});
    let ending =
        json!({"addresses": ["127.64.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let unstated = json!({"addresses": ["127.64.0.5"], "conditions": {}});
    for (endpoints, publish_unready, expected) in [
        (json!([ready("127.64.0.1"), unready, ending]), false, vec!["127.64.0.1:8080"]),
        (json!([unready, ending]), false, vec!["127.64.0.4:8080"]),
        (json!([unready]), false, vec![]),
        (json!([unstated, unready]), false, vec!["127.64.0.5:8080"]),
        (json!([unready, ending]), true, vec!["127.64.0.3:8080", "127.64.0.4:8080"]),
        (json!(null), false, vec![]),
        (json!([{"addresses": ["not an address"]}, {"addresses": []}]), false, vec![]),
    ] {
        let mut world = cart();
        world.slices[0]["endpoints"] = endpoints.clone();
        world.services[0]["spec"]["publishNotReadyAddresses"] = json!(publish_unready);
        let table = world.build();
        let port = table.at_node_port(30080, Transport::Tcp).expect("the node port is known");
        assert_eq!(addresses(port), expected, "{endpoints}");
    }
}

#[test]
fn a_pod_in_two_slices_is_one_endpoint_and_the_better_word_counts() {
    let mut world = cart();
    let stale =
        json!({"addresses": ["127.64.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    world.slices.insert(0, slice("cart", json!([{"name": "http", "port": 8080}]), json!([stale])));
    let table = world.build();
    let port = table.at_node_port(30080, Transport::Tcp).expect("the node port is known");
    assert_eq!(addresses(port), ["127.64.0.1:8080", "127.64.0.2:8080"]);
}

#[test]
fn traffic_stays_on_the_node_where_the_service_says_so() {
    let here = json!({"addresses": ["127.64.0.1"], "nodeName": "node-0", "conditions": {"ready": true}});
    let there = json!({"addresses": ["127.64.64.1"], "nodeName": "node-1", "conditions": {"ready": true}});
    for (field, value, endpoints, inside, outside) in [
        ("internalTrafficPolicy", "Cluster", json!([here, there]), 2, 2),
        ("internalTrafficPolicy", "Local", json!([here, there]), 1, 2),
        ("internalTrafficPolicy", "Local", json!([there]), 0, 1),
        ("externalTrafficPolicy", "Cluster", json!([here, there]), 2, 2),
        ("externalTrafficPolicy", "Local", json!([here, there]), 2, 1),
        ("externalTrafficPolicy", "Local", json!([there]), 1, 0),
        ("trafficDistribution", "PreferSameNode", json!([here, there]), 1, 1),
        ("trafficDistribution", "PreferSameNode", json!([there]), 1, 1),
    ] {
        let mut world = cart();
        world.slices[0]["endpoints"] = endpoints;
        world.services[0]["spec"][field] = json!(value);
        let table = world.build();
        let door = ("127.96.0.9:80".parse().expect("an address"), Transport::Tcp);
        let by_ip = table.at(door.0, door.1).expect("the port is known");
        let by_node_port = table.at_node_port(30080, Transport::Tcp).expect("the node port is known");
        assert_eq!((by_ip.endpoints.len(), by_node_port.endpoints.len()), (inside, outside), "{field}: {value}");
        assert!(Arc::ptr_eq(by_node_port, &table.renew(by_node_port).expect("it is there")));
        // Nobody listens for clients whom nobody here may serve.
        assert_eq!(table.cluster_addresses().any(|one| one == door), inside > 0, "{field}: {value}");
        assert_eq!(table.node_ports().count(), usize::from(outside > 0), "{field}: {value}");
    }
}

#[test]
fn where_clients_have_been_goes_on_until_its_time_changes() {
    let mut world = cart();
    world.services[0]["spec"]["sessionAffinity"] = json!("ClientIP");
    let of = |table: &RouteTable| {
        let port = table.at_node_port(30080, Transport::Tcp).expect("the node port is known");
        port.affinity.clone().expect("clients stay")
    };
    let first = world.build();
    assert_eq!(of(&first).timeout().as_secs(), 10_800);
    assert!(Arc::ptr_eq(&of(&first), &of(&world.build_from(Some(&first)))));
    world.services[0]["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 5}});
    assert_eq!(of(&world.build_from(Some(&first))).timeout().as_secs(), 5);
}

#[test]
fn headless_and_external_services_are_known_by_name_only() {
    let world = World {
        services: vec![
            service("web", json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": 8080}]})),
            service("bare", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
        ],
        slices: vec![
            slice("web", json!([{"name": "", "port": 8080}]), json!([ready("127.64.0.1")])),
            slice("bare", json!(null), json!([ready("127.64.0.2")])),
        ],
        ..World::default()
    };
    let table = world.build();
    assert_eq!(table.cluster_addresses().count(), 0);
    let web = table.service("shop", "web").expect("it is known");
    assert_eq!((&web.kind, web.addresses.len()), (&ServiceKind::Headless, 1));
    assert_eq!(web.port(80, Transport::Tcp).map(|port| addresses(port)), Some(vec!["127.64.0.1:8080".to_owned()]));
    assert_eq!(table.service("shop", "bare").map(|service| service.addresses.len()), Some(1));
    let out = table.service("shop", "out").expect("it is known");
    assert_eq!(out.kind, ServiceKind::External("example.com".into()));
}

#[test]
fn app_protocol_and_port_names_say_what_is_spoken() {
    for (port, protocol) in [
        (json!({"port": 80}), Protocol::Unstated),
        (json!({"port": 80, "name": "http"}), Protocol::Http),
        (json!({"port": 80, "name": "http-admin"}), Protocol::Http),
        (json!({"port": 80, "name": "https"}), Protocol::Opaque),
        (json!({"port": 80, "name": "http", "appProtocol": "tcp"}), Protocol::Opaque),
        (json!({"port": 80, "name": "tcp-x", "appProtocol": "http"}), Protocol::Http),
        (json!({"port": 80, "name": "x"}), Protocol::Unstated),
    ] {
        let world = World { services: vec![service("a", json!({"ports": [port]}))], ..World::default() };
        let table = world.build();
        let made =
            table.service("shop", "a").and_then(|service| service.port(80, Transport::Tcp)).expect("the port is known");
        assert_eq!(made.protocol, protocol, "{port}");
    }
}

#[test]
fn what_is_known_of_an_endpoint_goes_on_in_the_next_table() {
    let world = cart();
    let first = world.build();
    let second = world.build_from(Some(&first));
    let health = |table: &RouteTable| {
        table.at_node_port(30080, Transport::Tcp).map(|port| Arc::as_ptr(&port.endpoints[0].health))
    };
    assert!(health(&first).is_some());
    assert_eq!(health(&first), health(&second));
    let port = first.at_node_port(30080, Transport::Tcp).expect("the node port is known");
    let renewed = second.renew(port).expect("the Service is still there");
    assert!(!Arc::ptr_eq(port, &renewed));
    assert!(RouteTable::default().renew(port).is_none());
}

fn path(kind: &str, path: &str, service: &str) -> Value {
    json!({"pathType": kind, "path": path, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

/// Services `a` to `f`, and these Ingresses.
fn with_ingresses(ingresses: Vec<Value>) -> World {
    let named = |name: &str| service(name, json!({"ports": [{"name": "web", "port": 80}]}));
    World { services: ["a", "b", "c", "d", "e", "f"].map(named).into(), ingresses, ..World::default() }
}

fn routed(table: &RouteTable, host: &str, path: &str) -> String {
    match table.ingress(host, path) {
        IngressMatch::Backend(port) => port.service.to_string(),
        IngressMatch::NoService => "no service".into(),
        IngressMatch::NoRule => "no rule".into(),
    }
}

#[test]
fn the_most_specific_host_and_path_win() {
    let table = with_ingresses(vec![ingress(
        "main",
        json!({"rules": [
            {"host": "shop.example", "http": {"paths": [
                path("Prefix", "/", "a"), path("Prefix", "/cart", "b"),
                path("Exact", "/cart", "c"), path("ImplementationSpecific", "/cart/items", "d"),
            ]}},
            {"host": "*.example", "http": {"paths": [path("Prefix", "/", "e")]}},
            {"http": {"paths": [path("Prefix", "/any", "f"), path("Prefix", "/lost", "missing")]}},
        ]}),
    )])
    .build();
    for (host, path, to) in [
        ("shop.example", "/", "a"),
        ("SHOP.example", "/", "a"),
        ("shop.example", "/cart", "c"),
        ("shop.example", "/cart/", "b"),
        ("shop.example", "/cart/x", "b"),
        ("shop.example", "/cart/items/1", "d"),
        ("shop.example", "/cartoon", "a"),
        ("blog.example", "/", "e"),
        ("deep.blog.example", "/", "no rule"),
        ("example", "/", "no rule"),
        ("else", "/any", "f"),
        ("else", "/any/thing", "f"),
        ("else", "/", "no rule"),
        ("else", "/lost", "no service"),
        ("", "/any", "f"),
    ] {
        assert_eq!(routed(&table, host, path), to, "{host}{path}");
    }
}

#[test]
fn ports_by_name_default_backends_and_the_older_ingress() {
    let by_name = json!({"service": {"name": "b", "port": {"name": "web"}}});
    let wrong = json!({"service": {"name": "b", "port": {"number": 81}}});
    let mut young = ingress(
        "a-young",
        json!({"defaultBackend": by_name, "rules": [{"http": {"paths": [
            path("Prefix", "/x", "c"), {"pathType": "Prefix", "path": "/wrong", "backend": wrong},
        ]}}]}),
    );
    young["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    let mut old = ingress("b-old", json!({"rules": [{"http": {"paths": [path("Prefix", "/x/", "d")]}}]}));
    old["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let table = with_ingresses(vec![young, old]).build();
    assert_eq!(routed(&table, "any", "/nowhere"), "b");
    assert_eq!(routed(&table, "any", "/x"), "d");
    assert_eq!(routed(&table, "any", "/wrong"), "no service");
}

#[test]
fn ingresses_of_other_classes_are_left_alone() {
    let class = |name: &str, controller: &str, default: bool| {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default.to_string()});
        json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}})
    };
    let ours = class("mine", ingress_class::CONTROLLER, false);
    let ours_default = class("coracle", ingress_class::CONTROLLER, true);
    let other_default = class("nginx", "k8s.io/ingress-nginx", true);
    for (named, classes, taken) in [
        (json!(null), vec![], true),
        (json!(null), vec![&ours_default], true),
        (json!(null), vec![&ours, &other_default], false),
        (json!("mine"), vec![&ours, &other_default], true),
        (json!("coracle"), vec![], true),
        (json!("nginx"), vec![&ours_default, &other_default], false),
        (json!("unknown"), vec![&ours_default], false),
    ] {
        let spec = json!({"ingressClassName": named, "rules": [{"http": {"paths": [path("Prefix", "/", "a")]}}]});
        let mut world = with_ingresses(vec![ingress("main", spec)]);
        world.classes = classes.into_iter().cloned().collect();
        assert_eq!(routed(&world.build(), "any", "/") == "a", taken, "class {named}, {:?}", world.classes);
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("svc".to_owned()), Just("cluster".to_owned())]
}

proptest! {
    /// Whatever the name, an answer of the search path is the answer for the name in full.
    #[test]
    fn short_names_mean_what_their_full_names_mean(labels in prop::collection::vec(label(), 1..5), namespace in label()) {
        let named = |namespace: &str, name: &str| {
            json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"ports": [{"port": 80}]}})
        };
        let world = World {
            services: vec![named("a", "b"), named("b", "a"), named("svc", "a"), named("a", "svc"), named("cluster", "a")],
            ..World::default()
        };
        let table = world.build();
        if let Some(Resolved::Service(found)) = table.resolve(&namespace, &labels.join(".")) {
            let full = format!("{}.{}.svc.cluster.local.", found.name, found.namespace);
            match table.resolve("elsewhere", &full) {
                Some(Resolved::Service(again)) => prop_assert!(Arc::ptr_eq(found, again)),
                other => prop_assert!(false, "{full} is {other:?}"),
            }
        }
    }

    /// The longest matching prefix wins, however the rules are ordered.
    #[test]
    fn the_longest_prefix_wins(prefixes in prop::collection::vec(prop::collection::vec(label(), 0..4), 1..6),
                               request in prop::collection::vec(label(), 0..5)) {
        let text = |elements: &[String]| format!("/{}", elements.join("/"));
        let services: Vec<Value> = (0..prefixes.len())
            .map(|n| service(&format!("s{n}"), json!({"ports": [{"port": 80}]}))).collect();
        let paths: Vec<Value> =
            prefixes.iter().enumerate().map(|(n, prefix)| path("Prefix", &text(prefix), &format!("s{n}"))).collect();
        let world = World {
            services, ingresses: vec![ingress("main", json!({"rules": [{"http": {"paths": paths}}]}))],
            ..World::default()
        };
        let best = prefixes.iter().filter(|prefix| request.starts_with(prefix)).map(Vec::len).max();
        let expected = best.and_then(|best| prefixes.iter().position(|p| p.len() == best && request.starts_with(p)));
        let expected = expected.map_or("no rule".to_owned(), |n| format!("s{n}"));
        prop_assert_eq!(routed(&world.build(), "any", &text(&request)), expected);
    }
}
