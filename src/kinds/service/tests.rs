use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::allocate::{Held, Numbers, allocate};
use super::*;

/// A cluster's numbers, handed out in order.
#[derive(Default)]
struct Pool {
    taken: Held,
    /// What the Service at hand has.
    own: Held,
}

fn pool() -> Pool {
    Pool::default()
}

impl Pool {
    fn replace(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let held = |service: Option<&Value>| service.map(Held::by).unwrap_or_default();
        let (before, after) = (held(old), held(new));
        self.taken.ips.retain(|ip| !before.ips.contains(ip));
        self.taken.ports.retain(|port| !before.ports.contains(port));
        self.taken.ips.extend(after.ips);
        self.taken.ports.extend(after.ports);
    }

    fn allocate(&mut self, service: &mut Value, old: Option<&Value>) -> Errors {
        self.own = old.map(Held::by).unwrap_or_default();
        allocate(service, old, self)
    }
}

impl Numbers for Pool {
    fn take_ip(&mut self) -> Option<Ipv4Addr> {
        let free = (1..=250).map(|i| Ipv4Addr::new(127, 96, 0, i)).find(|ip| !self.taken.ips.contains(ip))?;
        self.taken.ips.insert(free);
        Some(free)
    }

    fn take_this_ip(&mut self, ip: IpAddr) -> Result<(), String> {
        match ip {
            IpAddr::V4(v4) if self.own.ips.contains(&v4) => Ok(()),
            IpAddr::V4(v4) if v4.octets()[0] == 127 && self.taken.ips.insert(v4) => Ok(()),
            _ => Err("refused".to_owned()),
        }
    }

    fn take_port(&mut self) -> Option<u16> {
        let free = (30_000..=32_767).find(|port| !self.taken.ports.contains(port))?;
        self.taken.ports.insert(free);
        Some(free)
    }

    fn take_this_port(&mut self, port: i64) -> Result<(), String> {
        let port = u16::try_from(port).map_err(|error| error.to_string())?;
        let free = self.own.ports.contains(&port) || self.taken.ports.insert(port);
        if free { Ok(()) } else { Err("refused".to_owned()) }
    }
}

fn texts(errors: Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

/// What the API server does with a create.
fn create(pool: &mut Pool, name: &str, spec: Value) -> Result<Value, Vec<String>> {
    let mut object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    Service.default(&mut object);
    let mut errors = pool.allocate(&mut object, None);
    Service.prepare_create(&mut object);
    if errors.is_empty() {
        errors = Service.validate(&object);
    }
    if !errors.is_empty() {
        return Err(texts(errors));
    }
    pool.replace(None, Some(&object));
    Ok(object)
}

/// What it does with a merge patch of the spec.
fn update(pool: &mut Pool, old: &Value, spec: Value) -> Result<Value, Vec<String>> {
    let mut new = old.clone();
    json_patch::merge(&mut new["spec"], &spec);
    Service.default(&mut new);
    let mut errors = pool.allocate(&mut new, Some(old));
    Service.prepare_update(&mut new, old);
    if errors.is_empty() {
        errors = Service.validate_update(&new, old);
    }
    if !errors.is_empty() {
        return Err(texts(errors));
    }
    pool.replace(Some(old), Some(&new));
    Ok(new)
}

#[test]
fn a_plain_service_gets_an_address_and_its_defaults() {
    let made = create(&mut pool(), "one", json!({"ports": [{"port": 80}]})).expect("it is valid");
    let ip = made["spec"]["clusterIP"].clone();
    assert!(ip.as_str().is_some_and(|ip| ip.starts_with("127.96.")), "{ip}");
    assert_eq!(
        made["spec"],
        json!({"clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None", "type": "ClusterIP"})
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
}

#[test]
fn a_headless_service_without_selector_is_open_to_both_families() {
    let foreign = create(&mut pool(), "h", json!({"clusterIP": "None", "ports": [{"port": 80}]})).expect("valid");
    assert_eq!(foreign["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(foreign["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(foreign["spec"]["ipFamilyPolicy"], "RequireDualStack");
    let own = create(&mut pool(), "h", json!({"clusterIP": "None", "selector": {"a": "b"}})).expect("valid");
    assert_eq!(own["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn a_node_port_belongs_to_one_service() {
    let mut pool = pool();
    let spec = |port: Value| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    create(&mut pool, "a", spec(json!(30_080))).expect("the port is free");
    let refused = "spec.ports[0].nodePort: Invalid value: 30080: refused".to_owned();
    assert_eq!(create(&mut pool, "b", spec(json!(30_080))), Err(vec![refused]));
    let chosen = create(&mut pool, "b", spec(Value::Null)).expect("one is free");
    assert!(chosen["spec"]["ports"][0]["nodePort"].as_i64().is_some_and(|port| (30_000..=32_767).contains(&port)));
}

#[test]
fn a_named_address_must_be_free_and_ours() {
    let mut pool = pool();
    let spec = |ip: &str| json!({"clusterIP": ip, "ports": [{"port": 80}]});
    create(&mut pool, "a", spec("127.96.0.10")).expect("it is free");
    for ip in ["127.96.0.10", "10.0.0.1"] {
        let refused = format!("spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: refused");
        assert_eq!(create(&mut pool, "b", spec(ip)), Err(vec![refused]));
    }
    assert_eq!(
        create(&mut pool, "b", spec("300.1.1.1")),
        Err(vec![
            "spec.clusterIPs[0]: Invalid value: \"300.1.1.1\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
                .to_owned()
        ])
    );
}

#[test]
fn the_type_goes_round_and_takes_its_fields_along() {
    let mut pool = pool();
    let made = create(&mut pool, "a", json!({"ports": [{"port": 80}]})).expect("valid");
    let opened = update(&mut pool, &made, json!({"type": "NodePort"})).expect("valid");
    assert_eq!(opened["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(opened["spec"]["externalTrafficPolicy"], "Cluster");
    assert!(opened["spec"]["ports"][0]["nodePort"].is_i64());
    let closed = update(&mut pool, &opened, json!({"type": "ClusterIP"})).expect("valid");
    assert_eq!(closed["spec"], made["spec"]);
    let named =
        update(&mut pool, &closed, json!({"type": "ExternalName", "externalName": "b.example.com"})).expect("valid");
    assert_eq!(
        named["spec"],
        json!({"externalName": "b.example.com", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None", "type": "ExternalName"})
    );
    let back = update(&mut pool, &named, json!({"type": "ClusterIP", "externalName": null})).expect("valid");
    assert!(back["spec"]["clusterIP"].is_string());
}

#[test]
fn an_address_stays_and_a_replacement_may_leave_it_out() {
    let mut pool = pool();
    let made = create(&mut pool, "a", json!({"type": "NodePort", "ports": [{"port": 80}]})).expect("valid");
    assert_eq!(
        update(&mut pool, &made, json!({"clusterIP": "10.0.3.4"})),
        Err(vec!["spec.clusterIPs[0]: Invalid value: [\"10.0.3.4\"]: may not change once set".to_owned()])
    );
    let mut new = json!({"metadata": made["metadata"], "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    Service.default(&mut new);
    assert!(pool.allocate(&mut new, Some(&made)).is_empty());
    Service.prepare_update(&mut new, &made);
    assert_eq!(new["spec"], made["spec"]);
}

#[test]
fn upstream_s_words_for_what_is_wrong() {
    let port = json!([{"port": 80}]);
    for (spec, expected) in [
        (json!({"ports": []}), vec!["spec.ports: Required value"]),
        (
            json!({"ports": [{"port": 0}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            vec!["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            vec!["spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            json!({"ports": port, "type": "Magic"}),
            vec![
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (json!({"ports": port, "type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (
            json!({"ports": port, "sessionAffinity": "Cookie"}),
            vec!["spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\""],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"ports": port, "externalTrafficPolicy": "Local"}),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({"ports": port, "ipFamilies": ["IPv5"]}),
            vec!["spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\""],
        ),
    ] {
        let errors = create(&mut pool(), "one", spec.clone()).expect_err("it is invalid");
        assert_eq!(errors, expected, "{spec}");
    }
}

#[test]
fn a_row_says_how_to_reach_it() {
    let object = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "clusterIP": "127.96.0.9",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "selector": {"b": "2", "a": "1"}}});
    let row = Service.row(&object, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(
        row[1..5],
        [json!("LoadBalancer"), json!("127.96.0.9"), json!("<pending>"), json!("80:30080/TCP,53/UDP")]
    );
    assert_eq!(row[6], "a=1,b=2");
}

#[test]
fn ports_of_one_number_share_their_node_port() {
    let ports =
        json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "h", "port": 80}]);
    let made = create(&mut pool(), "dns", json!({"type": "NodePort", "ports": ports})).expect("valid");
    let numbers: Vec<_> =
        made["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]).collect();
    assert_eq!(numbers, [30_000, 30_000, 30_001]);
    assert_eq!(Held::by(&made).ports, HashSet::from([30_000, 30_001]));
}
