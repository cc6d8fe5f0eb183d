use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value.clone()).expect("an object"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod(namespace: &str, name: &str, labels: Value, address: &str) -> PlacedPod {
    let ports = json!([
        {"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"containerPort": 81},
    ]);
    let pod = typed::<Pod>(&json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
    }));
    PlacedPod { pod, ips: vec![ip(address)] }
}

fn namespace(name: &str, team: &str) -> Arc<Namespace> {
    typed(&json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "team": team}}}))
}

fn policy(namespace: &str, spec: Value) -> Arc<NetworkPolicy> {
    typed(&json!({"metadata": {"namespace": namespace, "name": "p"}, "spec": spec}))
}

/// As the conformance tests of upstream have it: pods `a`, `b` in namespaces `x`, `y`.
fn world(policies: &[(&str, Value)]) -> PolicyObjects {
    PolicyObjects {
        policies: policies.iter().map(|(namespace, spec)| policy(namespace, spec.clone())).collect(),
        namespaces: vec![namespace("x", "red"), namespace("y", "blue"), namespace("kube-system", "none")],
        pods: vec![
            pod("x", "a", json!({"pod": "a"}), "10.0.0.1"),
            pod("x", "b", json!({"pod": "b"}), "10.0.0.2"),
            pod("y", "a", json!({"pod": "a"}), "10.0.0.3"),
            pod("y", "b", json!({"pod": "b"}), "10.0.0.4"),
        ],
        nodes: vec![ip("127.0.0.1").into(), ip("192.0.2.1").into()],
        services: Some("10.96.0.0/16".parse().expect("a range")),
        dns: Some(ip("10.96.0.10")),
    }
}

const PEERS: [(&str, &str); 6] = [
    ("x/a", "10.0.0.1"),
    ("x/b", "10.0.0.2"),
    ("y/a", "10.0.0.3"),
    ("y/b", "10.0.0.4"),
    ("node", "192.0.2.1"),
    ("outside", "203.0.113.7"),
];

/// Who of all may reach `to` (`address:port/tcp`).
fn reaches(policies: &Policies, to: &str) -> Vec<&'static str> {
    let (to, transport) = to.split_once('/').expect("a transport");
    let transport = if transport == "udp" { Transport::Udp } else { Transport::Tcp };
    let to: SocketAddr = to.parse().expect("an address");
    let who = PEERS.iter().filter(|(_, from)| policies.check(ip(from), to, transport).is_ok());
    who.map(|(name, _)| *name).collect()
}

const ALL: [&str; 6] = ["x/a", "x/b", "y/a", "y/b", "node", "outside"];

#[test]
fn ingress_is_open_to_whom_some_rule_names() {
    let a = json!({"matchLabels": {"pod": "a"}});
    for (what, spec, to, who) in [
        ("nothing selects y/b", json!({"podSelector": a}), "10.0.0.2:80/tcp", &ALL[..]),
        ("deny all", json!({"podSelector": {}}), "10.0.0.1:80/tcp", &["x/a", "node"]),
        (
            "deny all, by a type",
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}),
            "10.0.0.1:80/udp",
            &["x/a", "node"],
        ),
        (
            "an egress policy shuts no ingress",
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            "10.0.0.1:80/tcp",
            &["x/a", "y/a", "y/b", "node", "outside"],
        ),
        ("allow all", json!({"podSelector": {}, "ingress": [{}]}), "10.0.0.1:80/tcp", &ALL),
        (
            "allow all, by empty lists",
            json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}]}),
            "10.0.0.1:80/tcp",
            &ALL,
        ),
        (
            "pods are of the policy's namespace",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": a}]}]}),
            "10.0.0.2:80/tcp",
            &["x/a", "x/b", "node"],
        ),
        (
            "all pods of the namespace",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "x/b", "node"],
        ),
        (
            "all pods of all namespaces",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "x/b", "y/a", "y/b", "node"],
        ),
        (
            "namespaces by label",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "y/a", "y/b", "node"],
        ),
        (
            "namespaces by expression",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector":
            {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x"]}]}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "y/a", "y/b", "node"],
        ),
        (
            "both selectors together",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}},
            "podSelector": a}]}]}),
            "10.0.0.2:80/tcp",
            &["x/b", "y/a", "node"],
        ),
        (
            "either peer",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}},
            {"podSelector": a}]}]}),
            "10.0.0.2:80/tcp",
            &["x/a", "x/b", "y/a", "y/b", "node"],
        ),
        (
            "a block and what it leaves out",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock":
            {"cidr": "10.0.0.0/24", "except": ["10.0.0.4/32"]}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "x/b", "y/a", "node"],
        ),
        (
            "what one block leaves out another may let in",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock":
            {"cidr": "10.0.0.0/24", "except": ["10.0.0.4/32"]}}, {"ipBlock": {"cidr": "10.0.0.4/32"}}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "x/b", "y/a", "y/b", "node"],
        ),
        (
            "a port",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}]}),
            "10.0.0.1:80/tcp",
            &ALL,
        ),
        (
            "another port",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
            "10.0.0.1:81/tcp",
            &["x/a", "node"],
        ),
        (
            "another protocol",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
            "10.0.0.1:80/udp",
            &["x/a", "node"],
        ),
        (
            "a protocol's every port",
            json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}]}]}),
            "10.0.0.1:7/udp",
            &ALL,
        ),
        (
            "SCTP allows nothing here",
            json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "SCTP"}]}]}),
            "10.0.0.1:7/tcp",
            &["x/a", "node"],
        ),
        (
            "a range",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]}),
            "10.0.0.1:90/tcp",
            &ALL,
        ),
        (
            "behind a range",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]}),
            "10.0.0.1:91/tcp",
            &["x/a", "node"],
        ),
        (
            "a port by name",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}),
            "10.0.0.1:8080/tcp",
            &ALL,
        ),
        (
            "not the number of that name",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}),
            "10.0.0.1:80/tcp",
            &["x/a", "node"],
        ),
        (
            "a name of another protocol",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "dns"}]}]}),
            "10.0.0.1:53/tcp",
            &["x/a", "node"],
        ),
        (
            "peers and ports of one rule go together",
            json!({"podSelector": {}, "ingress": [
            {"from": [{"podSelector": a}], "ports": [{"port": 80}]}, {"from": [{"namespaceSelector": {"matchLabels":
            {"team": "blue"}}}], "ports": [{"port": 81}]}]}),
            "10.0.0.2:80/tcp",
            &["x/a", "x/b", "node"],
        ),
    ] {
        let policies = Policies::build(&world(&[("x", spec.clone())]));
        assert_eq!(reaches(&policies, to), who, "{what}: {spec}");
    }
}

#[test]
fn policies_add_up_and_never_subtract() {
    let deny = json!({"podSelector": {}});
    let some = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
    let policies = Policies::build(&world(&[("x", deny.clone()), ("x", some.clone())]));
    assert_eq!(reaches(&policies, "10.0.0.1:80/tcp"), ["x/a", "x/b", "node"]);
    assert_eq!(reaches(&policies, "10.0.0.2:80/tcp"), ["x/b", "node"]);
    assert_eq!(reaches(&policies, "10.0.0.3:80/tcp"), ALL, "another namespace's policies do not select it");
    // What comes from a Service's address comes from the node's machine.
    assert!(policies.check(ip("10.96.0.9"), "10.0.0.2:80".parse().expect("an address"), Transport::Tcp).is_ok());
    assert!(Policies::build(&world(&[])).is_empty());
}

#[test]
fn egress_is_the_callers_and_ends_are_both_asked() {
    let to_blue = json!([{"to": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}],
        "ports": [{"port": "web"}]}, {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]);
    let spec = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": to_blue});
    let policies =
        Policies::build(&world(&[("x", spec.clone()), ("y", json!({"podSelector": {"matchLabels": {"pod": "b"}}}))]));
    for (to, transport, goes) in [
        ("10.0.0.3:8080", Transport::Tcp, true),
        ("10.0.0.3:8081", Transport::Tcp, false),
        ("10.0.0.3:8080", Transport::Udp, false),
        ("10.0.0.4:8080", Transport::Tcp, false),
        ("10.0.0.2:8080", Transport::Tcp, false),
        ("10.0.0.1:9", Transport::Tcp, true),
        ("203.0.113.7:443", Transport::Tcp, true),
        ("198.51.100.7:443", Transport::Tcp, false),
        ("192.0.2.1:10250", Transport::Tcp, true),
        ("10.96.0.10:53", Transport::Udp, false),
    ] {
        let checked = policies.check(ip("10.0.0.1"), to.parse().expect("an address"), transport);
        assert_eq!(checked.is_ok(), goes, "{to} {transport:?}: {checked:?}");
    }
    let refused = policies.check(ip("10.0.0.1"), "10.0.0.4:8080".parse().expect("an address"), Transport::Tcp);
    let words = refused.expect_err("y/b is shut").to_string();
    assert_eq!(words, "no NetworkPolicy of pod y/b allows ingress from 10.0.0.1 to 10.0.0.4:8080 by TCP");
    assert!(policies.confines(ip("10.0.0.1")) && !policies.confines(ip("10.0.0.4")));
}

#[test]
fn names_are_asked_of_kube_system() {
    let asks = |egress: Value| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
        Policies::build(&world(&[("x", spec)])).check_names(ip("10.0.0.1")).is_ok()
    };
    let kube_system = json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}});
    let dns = json!({"matchLabels": {"k8s-app": "kube-dns"}});
    assert!(!asks(json!([])));
    assert!(!asks(json!([{"to": [{"podSelector": {}}]}])));
    assert!(asks(json!([{}])));
    assert!(asks(json!([{"ports": [{"port": 53, "protocol": "UDP"}]}])));
    assert!(asks(json!([{"ports": [{"port": 53, "protocol": "TCP"}]}])));
    assert!(!asks(json!([{"ports": [{"port": 80}]}])));
    assert!(asks(json!([{"to": [{"namespaceSelector": kube_system, "podSelector": dns}],
        "ports": [{"port": "dns", "protocol": "UDP"}]}])));
    assert!(!asks(json!([{"to": [{"podSelector": dns}]}])));
    assert!(asks(json!([{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}]}])));
}

/// What the documentation says, read out loud: no index, nothing worked out beforehand.
fn naive(objects: &PolicyObjects, from: IpAddr, to: SocketAddr, transport: Transport) -> bool {
    let pod_at = |ip: IpAddr| objects.pods.iter().find(|pod| pod.ips.contains(&ip)).map(|pod| &pod.pod);
    let is_node = |ip: IpAddr| objects.nodes.iter().any(|node| node.contains(&ip));
    let one_way = |own: IpAddr, peer: IpAddr, direction: &str| {
        let Some(pod) = pod_at(own) else { return true };
        let none = Default::default();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let matches = |selector: &_, labels: &_| crate::kinds::placement::matches(Some(selector), labels);
        let selecting: Vec<_> = objects
            .policies
            .iter()
            .filter(|policy| {
                let spec = policy.spec.as_ref().expect("a spec");
                policy.metadata.namespace == pod.metadata.namespace
                    && spec.policy_types.iter().flatten().any(|one| one == direction)
                    && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
            })
            .collect();
        let peer_matches = |policy: &NetworkPolicy, one: &k8s_openapi::api::networking::v1::NetworkPolicyPeer| {
            if let Some(block) = &one.ip_block {
                let within = |cidr: &String| cidr.parse::<IpNet>().expect("a range").contains(&peer);
                return within(&block.cidr) && !block.except.iter().flatten().any(within);
            }
            let Some(other) = pod_at(peer) else { return false };
            let namespace = other.metadata.namespace.clone();
            let in_namespace = match &one.namespace_selector {
                None => namespace == policy.metadata.namespace,
                Some(selector) => objects.namespaces.iter().any(|known| {
                    known.metadata.name == namespace
                        && matches(selector, known.metadata.labels.as_ref().unwrap_or(&none))
                }),
            };
            in_namespace
                && one
                    .pod_selector
                    .as_ref()
                    .is_none_or(|selector| matches(selector, other.metadata.labels.as_ref().unwrap_or(&none)))
        };
        let port_matches = |port: &k8s_openapi::api::networking::v1::NetworkPolicyPort| {
            use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let same = protocol == if transport == Transport::Tcp { "TCP" } else { "UDP" };
            same && match &port.port {
                None => true,
                Some(IntOrString::Int(first)) => {
                    let number = i32::from(to.port());
                    *first <= number && number <= port.end_port.unwrap_or(*first)
                }
                Some(IntOrString::String(name)) => pod_at(to.ip()).is_some_and(|callee| {
                    let containers = &callee.spec.as_ref().expect("a spec").containers;
                    containers.iter().flat_map(|one| one.ports.iter().flatten()).any(|known| {
                        known.name.as_ref() == Some(name)
                            && known.container_port == i32::from(to.port())
                            && known.protocol.as_deref().unwrap_or("TCP") == protocol
                    })
                }),
            }
        };
        selecting.is_empty()
            || selecting.iter().any(|policy| {
                let spec = policy.spec.as_ref().expect("a spec");
                let rules: Vec<_> = match direction {
                    "Ingress" => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
                    _ => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
                };
                rules.into_iter().any(|(peers, ports)| {
                    let peers = peers.as_ref().filter(|peers| !peers.is_empty());
                    let ports = ports.as_ref().filter(|ports| !ports.is_empty());
                    peers.is_none_or(|peers| peers.iter().any(|one| peer_matches(policy, one)))
                        && ports.is_none_or(|ports| ports.iter().any(port_matches))
                })
            })
    };
    from == to.ip()
        || (is_node(to.ip()) || one_way(from, to.ip(), "Egress"))
            && (is_node(from) || one_way(to.ip(), from, "Ingress"))
}

fn some_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"pod": "a"}})),
        Just(json!({"matchLabels": {"pod": "none"}})),
        Just(json!({"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["a"]}]})),
        Just(json!({"matchLabels": {"team": "blue"}})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]})),
    ]
}

fn some_peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        some_selector().prop_map(|pods| json!({"podSelector": pods})),
        some_selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (some_selector(), some_selector())
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        (0..=32u8).prop_map(|bits| {
            let net = ipnet::Ipv4Net::new([10, 0, 0, 3].into(), bits).expect("a range").trunc();
            json!({"ipBlock": {"cidr": net.to_string(), "except": ["10.0.0.2/31"]}})
        }),
    ]
}

fn some_port() -> impl Strategy<Value = Value> {
    let protocol = prop_oneof![Just(json!(null)), Just(json!("TCP")), Just(json!("UDP")), Just(json!("SCTP"))];
    let port = prop_oneof![
        Just(json!({})),
        (50..90u16).prop_map(|port| json!({"port": port})),
        (50..70u16, 70..90u16).prop_map(|(first, last)| json!({"port": first, "endPort": last})),
        Just(json!({"port": "web"})),
        Just(json!({"port": "dns"})),
    ];
    (port, protocol).prop_map(|(mut port, protocol)| {
        port["protocol"] = protocol;
        port
    })
}

fn some_policy() -> impl Strategy<Value = (&'static str, Value)> {
    let lists = || (prop::collection::vec(some_peer(), 0..3), prop::collection::vec(some_port(), 0..3));
    let ingress = prop::collection::vec(lists(), 0..3);
    let egress = prop::collection::vec(lists(), 0..3);
    let types = prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    (prop_oneof![Just("x"), Just("y")], some_selector(), types, ingress, egress).prop_map(
        |(namespace, selector, types, ingress, egress)| {
            let ingress: Vec<Value> =
                ingress.into_iter().map(|(from, ports)| json!({"from": from, "ports": ports})).collect();
            let egress: Vec<Value> = egress.into_iter().map(|(to, ports)| json!({"to": to, "ports": ports})).collect();
            let spec = json!({"podSelector": selector, "policyTypes": types, "ingress": ingress, "egress": egress});
            (namespace, spec)
        },
    )
}

/// Whether a list of rules, as a filter of packets has it, lets a flow in (of `from`) or out (to `to`).
fn listed(openings: &[Opening], peer: IpAddr, port: u16, transport: Transport) -> bool {
    openings.iter().any(|opening| {
        opening.peers.iter().any(|net| net.contains(&peer))
            && !opening.except.iter().any(|net| net.contains(&peer))
            && opening.ports.as_ref().is_none_or(|ports| {
                ports.iter().any(|one| one.transport == transport && (one.first..=one.last).contains(&port))
            })
    })
}

proptest! {
    /// The decision is that of the documentation, whatever the policies.
    #[test]
    fn the_decision_is_the_documentations(policies in prop::collection::vec(some_policy(), 0..5)) {
        let objects = world(&policies);
        let built = Policies::build(&objects);
        for (_, from) in PEERS {
            for (_, to) in PEERS {
                for port in [53, 55, 72, 80, 8080] {
                    for transport in [Transport::Tcp, Transport::Udp] {
                        let (from, to) = (ip(from), SocketAddr::new(ip(to), port));
                        let decided = built.check(from, to, transport);
                        prop_assert_eq!(decided.is_ok(), naive(&objects, from, to, transport), "{} {} {:?} {:?}", from, to, transport, decided);
                    }
                }
            }
        }
    }

    /// The list for a filter of packets says the same of each end as the decision does.
    #[test]
    fn the_list_says_what_the_decision_says(policies in prop::collection::vec(some_policy(), 1..5)) {
        let built = Policies::build(&world(&policies));
        let anybody = Confinement::default();
        for (_, from) in PEERS.map(|(name, at)| (name, ip(at))) {
            for (_, to) in PEERS.map(|(name, at)| (name, ip(at))) {
                for (port, transport) in [(53, Transport::Udp), (55, Transport::Tcp), (80, Transport::Tcp), (8080, Transport::Tcp)] {
                    if from == to { continue }
                    let (out, into) = (built.confinement(from), built.confinement(to));
                    let out = out.as_ref().unwrap_or(&anybody).egress.as_ref();
                    let into = into.as_ref().unwrap_or(&anybody).ingress.as_ref();
                    let passes = out.is_none_or(|rules| listed(rules, to, port, transport))
                        && into.is_none_or(|rules| listed(rules, from, port, transport));
                    let decided = built.check(from, SocketAddr::new(to, port), transport);
                    prop_assert_eq!(passes, decided.is_ok(), "{} {}:{} {:?}", from, to, port, decided);
                }
            }
        }
    }
}
