//! What users of kube-proxy expect of Services: datagrams, node and host ports, clients that stay.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{Cluster, PATIENCE, eventually, free_address, http, kubectls};

/// What comes back of a datagram, and from where.
fn datagram(to: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.send_to(b"datagram", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn echoes(what: &str, to: SocketAddr) {
    eventually(what, PATIENCE, || {
        let heard = datagram(to).map_err(|error| error.to_string())?;
        if heard == ("datagram".to_owned(), to) { Ok(()) } else { Err(format!("{heard:?}")) }
    });
}

fn ip_of(cluster: &Cluster, what: &[&str], field: &str) -> String {
    let path = format!("jsonpath={{{field}}}");
    cluster.kubectl(&[&["get"], what, &["-o", &path]].concat())
}

#[test]
fn datagrams_go_through_services_node_ports_and_host_ports() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/echo.yaml"]);
    cluster.kubectl(&["patch", "service", "echo", "-p", r#"{"spec": {"type": "NodePort"}}"#]);
    let service = cluster.get(&["service", "echo"]);
    let ip = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let door: SocketAddr = format!("{ip}:7007").parse().expect("an address");
    echoes("the Service to relay a datagram", door);
    assert!(TcpStream::connect(door).is_ok(), "TCP has the same number");
    let node_port = service["spec"]["ports"][1]["nodePort"].as_u64().expect("a node port");
    let node = ip_of(&cluster, &["nodes"], ".items[0].status.addresses[?(@.type==\"InternalIP\")].address");
    echoes("the node port to relay a datagram", format!("{node}:{node_port}").parse().expect("an address"));

    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: asks}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {name: c, image: \"echo:1\", args: [udp, echo, \"7007\"]}\n",
    );
    eventually("a guest to be answered by the Service", PATIENCE, || {
        let log = String::from_utf8_lossy(&cluster.try_kubectl(&["logs", "asks"]).stdout).into_owned();
        if log.contains(&format!("{door} answered: hello over there")) { Ok(()) } else { Err(log) }
    });
    // The pod that had a client's session is replaced: the client is answered by the next.
    cluster.kubectl(&["rollout", "restart", "deploy", "echo"]);
    cluster.kubectl(&["rollout", "status", "deploy", "echo", "--timeout=60s"]);
    echoes("the next pod to answer", door);

    let (tcp, udp) = (free_address().port(), free_address().port());
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: published}}\nspec:\n  containers:\n  \
         - {{name: web, image: \"hello:1\", ports: [{{containerPort: 8080, hostPort: {tcp}}}]}}\n  \
         - {{name: echo, image: \"echo:1\", args: [\"7000\"], \
         ports: [{{containerPort: 7000, protocol: UDP, hostPort: {udp}}}]}}\n"
    ));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "published", "--timeout=60s"]);
    let host = |port: u16| format!("{node}:{port}").parse::<SocketAddr>().expect("an address");
    eventually("the host port to lead to the pod", PATIENCE, || {
        let answer = http(host(tcp), "published", "/").map_err(|error| error.to_string())?;
        if answer.body.contains("Hello") { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    echoes("the host port to relay a datagram", host(udp));
    cluster.kubectl(&["delete", "pod", "published"]);
    assert!(TcpStream::connect(host(tcp)).is_err(), "the host port has closed");
}

#[test]
fn a_client_stays_with_its_pod_until_it_has_been_away_too_long() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/relay.yaml"]);
    let affinity = r#"{"spec": {"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3600}}}}"#;
    cluster.kubectl(&["patch", "service", "relay", "-p", affinity]);
    cluster.kubectl(&["scale", "deploy", "relay", "--replicas=2"]);
    cluster.kubectl(&["rollout", "status", "deploy", "relay", "--timeout=60s"]);
    let service = ip_of(&cluster, &["service", "relay"], ".spec.clusterIP");
    let port = ip_of(&cluster, &["service", "relay"], ".spec.ports[0].port");
    let door: SocketAddr = format!("{service}:{port}").parse().expect("an address");
    let who = || http(door, "relay", "/").expect("an answer").body;
    let endpoints = |wanted: usize| {
        eventually("the endpoints", PATIENCE, || {
            let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=relay"]);
            let list = slices["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
            let ready = list.iter().filter(|one| one["conditions"]["ready"] == true).count();
            if ready == wanted { Ok(()) } else { Err(slices) }
        });
    };
    endpoints(2);
    // The table may be a moment behind the slices; from the first answer that comes twice on it holds.
    let first = eventually("an answer that comes twice", PATIENCE, || {
        let (one, two) = (who(), who());
        if one == two { Ok(one) } else { Err([one, two]) }
    });
    assert!((0..20).all(|_| who() == first), "the client stays");
    cluster.kubectl(&["scale", "deploy", "relay", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "deploy", "relay", "--timeout=60s"]);
    endpoints(3);
    assert!((0..20).all(|_| who() == first), "more pods move nobody");
    let pod = first.trim().rsplit(' ').next().expect("a name").to_owned();
    cluster.kubectl(&["delete", "pod", &pod, "--wait"]);
    let next = eventually("another pod to answer", PATIENCE, || {
        let answer = who();
        if answer != first && answer.starts_with("Hello") { Ok(answer) } else { Err(answer) }
    });
    assert!((0..20).all(|_| who() == next), "who had to move stays there");
}
