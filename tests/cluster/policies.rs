//! NetworkPolicy, between modules: who reaches whom by HTTP, by sockets and by name, before and after a
//! policy is applied.

use std::net::{SocketAddr, TcpStream};

use crate::harness::{Cluster, Options, PATIENCE, eventually, http, kubectls};

/// In two namespaces: clients that ask others for their callers (`relay`), a web server, and a server on
/// sockets.
const WORLD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: blue}}
";

fn pod(namespace: &str, name: &str, image: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{containers: [{{name: c, image: \"{image}:1\", ports: [{ports}]}}]}}\n"
    )
}

fn service(namespace: &str, name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{ports}]}}\n"
    )
}

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {spec}\n"
    )
}

struct World {
    cluster: Cluster,
    /// The Services of the relays, by namespace.
    relays: [(&'static str, SocketAddr); 2],
}

impl World {
    fn new(nodes: usize) -> Self {
        let cluster = Cluster::with(Options { nodes, ..Options::default() });
        let http = "{name: http, containerPort: 8080}";
        let web = "{port: 80, targetPort: 8080}";
        let sockets = "{name: line, containerPort: 7000}, {name: line, containerPort: 7000, protocol: UDP}";
        let both =
            "{name: tcp, port: 7007, targetPort: line}, {name: udp, port: 7007, targetPort: line, protocol: UDP}";
        let mut manifest = WORLD.to_owned();
        for namespace in ["shop", "other"] {
            manifest += &pod(namespace, "relay", "relay", http);
            manifest += &service(namespace, "relay", web);
        }
        manifest += &pod("shop", "web", "hello", http);
        manifest += &service("shop", "web", web);
        manifest += &pod("shop", "echo", "echo", sockets);
        manifest += &service("shop", "echo", both);
        cluster.apply(&manifest);
        for namespace in ["shop", "other"] {
            cluster.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
        }
        let relays = ["shop", "other"].map(|namespace| (namespace, address(&cluster, namespace, "relay", 80)));
        Self { cluster, relays }
    }

    /// What the relay of `namespace` answers to `path`; how it failed, as an error.
    fn ask(&self, namespace: &str, path: &str) -> Result<String, String> {
        let relay = self.relays.iter().find(|(name, _)| *name == namespace).expect("a relay").1;
        let answer = http(relay, "relay", path).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.body) } else { Err(answer.body) }
    }

    /// Waits until each relay reaches what is listed, and nothing else of what is asked for.
    fn reaches(&self, what: &str, path: &str, words: &str, who: &[&str]) {
        for (namespace, _) in self.relays {
            eventually(&format!("{what}: {path} from {namespace}"), PATIENCE, || {
                let answer = self.ask(namespace, path);
                let reached = answer.as_ref().is_ok_and(|body| body.contains(words));
                if reached == who.contains(&namespace) { Ok(()) } else { Err(answer) }
            });
        }
    }

    fn web(&self, what: &str, who: &[&str]) {
        self.reaches(what, "/both/web.shop/web.shop", "Hello", who);
    }

    /// By a datagram from a socket that was bound to nothing.
    fn short(&self, what: &str, who: &[&str]) {
        self.reaches(what, "/datagram/echo.shop/7007", "hello over there from", who);
    }

    fn line(&self, what: &str, who: &[&str]) {
        self.reaches(what, "/line/echo.shop/7007", "hello over there from", who);
    }

    /// What a pod of `namespace` says that asks by datagram.
    fn datagram(&self, namespace: &str, name: &str, words: &str) {
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  restartPolicy: Never\n  \
             containers:\n  - {{name: c, image: \"echo:1\", args: [udp, echo.shop, \"7007\"]}}\n"
        ));
        eventually(&format!("{name} of {namespace} to hear {words:?}"), PATIENCE, || {
            let log = self.cluster.try_kubectl(&["logs", "-n", namespace, name]);
            let log = String::from_utf8_lossy(&log.stdout).into_owned();
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }
}

fn address(cluster: &Cluster, namespace: &str, service: &str, port: u16) -> SocketAddr {
    let ip = cluster.get(&["service", "-n", namespace, service])["spec"]["clusterIP"].clone();
    SocketAddr::new(ip.as_str().and_then(|ip| ip.parse().ok()).expect("an address"), port)
}

const BOTH: [&str; 2] = ["shop", "other"];

#[test]
fn ingress_is_open_to_whom_policies_name_and_to_the_node() {
    if kubectls().is_empty() {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    world.web("no policy", &BOTH);
    world.line("no policy", &BOTH);
    world.datagram("other", "before", "answered: hello over there");

    cluster.apply(&policy("shop", "deny", "{podSelector: {}, policyTypes: [Ingress]}"));
    world.web("deny all", &[]);
    world.line("deny all", &[]);
    world.datagram("other", "denied", "no answer from");
    let refused = world.ask("other", "/line/echo.shop/7007").expect("the relay tells");
    assert!(refused.contains("ConnectionRefused"), "{refused}");
    // The node and its probes pass, and so does what the API server carries.
    let web = address(cluster, "shop", "web", 80);
    assert!(http(web, "web", "/").expect("an answer").body.contains("Hello"));
    let proxied = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/shop/pods/web:8080/proxy/"]);
    assert!(proxied.contains("Hello"), "{proxied}");
    let echo = cluster.get(&["pod", "-n", "shop", "echo"])["status"]["podIP"].clone();
    let echo = SocketAddr::new(echo.as_str().and_then(|ip| ip.parse().ok()).expect("an address"), 7000);
    assert!(TcpStream::connect(echo).is_ok(), "the machine itself");

    let from_shop = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: \
                     {app: relay}}}], ports: [{port: http}]}]}";
    cluster.apply(&policy("shop", "web", from_shop));
    world.web("pods of its namespace, by a port's name", &["shop"]);
    let from_blue = "{podSelector: {matchLabels: {app: echo}}, ingress: [{from: [{namespaceSelector: {matchLabels: \
                     {team: blue}}}], ports: [{port: 6990, endPort: 7010}]}]}";
    cluster.apply(&policy("shop", "echo", from_blue));
    world.line("namespaces by label, TCP", &["other"]);
    world.datagram("other", "only-tcp", "no answer from");
    cluster.apply(&policy("shop", "echo-udp", &from_blue.replace("port: 6990,", "protocol: UDP, port: 6990,")));
    world.short("namespaces by label, UDP", &["other"]);
    world.datagram("other", "udp-too", "answered: hello over there");
    world.datagram("shop", "not-shop", "no answer from");

    // What selectors select changes with labels, at once.
    cluster.kubectl(&["label", "namespace", "other", "team=green", "--overwrite"]);
    world.line("the label is another", &[]);
    cluster.kubectl(&["label", "pod", "-n", "shop", "relay", "app-", "--overwrite"]);
    let direct = format!("/both/{0}:8080/{0}:8080", cluster.get(&["pod", "-n", "shop", "web"])["status"]["podIP"]);
    let direct = direct.replace('"', "");
    cluster.kubectl(&["label", "pod", "-n", "shop", "relay", "app=relay"]);
    world.reaches("by the pod's own address", &direct, "Hello", &["shop"]);
    let metrics = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/metrics"]);
    let refused = metrics.lines().find_map(|line| line.strip_prefix("coracle_network_policy_refused_total "));
    assert!(refused.is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count > 0.0)), "{metrics}");

    cluster.kubectl(&["delete", "networkpolicy", "-n", "shop", "--all"]);
    world.web("all policies are gone", &BOTH);
    world.line("all policies are gone", &BOTH);
}

#[test]
fn egress_is_open_to_what_policies_name_names_among_it() {
    if kubectls().is_empty() {
        return;
    }
    let world = World::new(2);
    let cluster = &world.cluster;
    let web = cluster.get(&["pod", "-n", "shop", "web"])["status"]["podIP"].as_str().expect("an address").to_owned();
    let by_address = format!("/both/{web}:8080/{web}:8080");
    let egress = |rules: &str| {
        let spec = format!("{{podSelector: {{matchLabels: {{app: relay}}}}, policyTypes: [Egress], egress: {rules}}}");
        cluster.apply(&policy("other", "out", &spec));
    };
    egress("[]");
    world.web("deny all", &["shop"]);
    world.reaches("deny all", &by_address, "Hello", &["shop"]);
    // It answers whoever calls.
    assert!(world.ask("other", "/").is_ok());

    egress(&format!("[{{to: [{{ipBlock: {{cidr: {web}/32}}}}], ports: [{{port: 8080}}]}}]"));
    world.reaches("a block", &by_address, "Hello", &BOTH);
    world.web("a block opens no names", &["shop"]);
    egress(&format!("[{{to: [{{ipBlock: {{cidr: 127.0.0.0/8, except: [{web}/32]}}}}]}}]"));
    world.reaches("all of a block but it", &by_address, "Hello", &["shop"]);
    world.line("all of a block, names among it", &BOTH);

    let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: \
               {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}";
    let red = "{to: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: web}}}], \
               ports: [{port: http}]}";
    egress(&format!("[{dns}, {red}]"));
    world.web("names, and pods by label and a port's name", &BOTH);
    world.line("names, and other pods", &["shop"]);
    egress(&format!("[{dns}, {}]", red.replace("port: http", "port: 8081")));
    world.web("another port", &["shop"]);
    egress("[{}]");
    world.web("allow all", &BOTH);

    // A node that begins anew knows before it serves, and a pod that begins is held from the first.
    egress("[]");
    world.web("deny all", &["shop"]);
    cluster.kill("node-1");
    cluster.kill("node-2");
    world.web("the nodes are back", &["shop"]);
    assert!(world.ask("other", &by_address).is_err());
    cluster.apply(&policy("other", "new", "{podSelector: {matchLabels: {app: new}}, policyTypes: [Egress]}"));
    for name in ["first", "second", "third"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: other, labels: {{app: new}}}}\nspec:\n  \
             restartPolicy: Never\n  containers:\n  - {{name: c, image: \"echo:1\", args: [\"{}\", \"7000\"]}}\n",
            cluster.get(&["pod", "-n", "shop", "echo"])["status"]["podIP"].as_str().expect("an address"),
        ));
        eventually("the pod to fail", PATIENCE, || {
            let phase = cluster.get(&["pod", "-n", "other", name])["status"]["phase"].clone();
            if phase == "Failed" { Ok(()) } else { Err(phase) }
        });
        let log = cluster.kubectl(&["logs", "-n", "other", name]);
        assert!(log.contains("connection-refused") || log.contains("connection refused"), "{log}");
    }
}
