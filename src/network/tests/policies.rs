//! Policies at each way to a pod, and datagrams through Services.

use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::net::UdpSocket;

use super::*;
use crate::wire::Transport;

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value.clone()).expect("a well-formed object"))
}

/// `shop/cart` at one address, which only `shop/web` at another may call; the machine is a node.
fn guarded(cart: IpAddr, web: IpAddr) -> Policies {
    let placed = |name: &str, ip: IpAddr| PlacedPod {
        pod: typed::<KubePod>(&json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}}, "spec": {"containers": []},
        })),
        ips: vec![ip],
    };
    let from = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let policy = json!({
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Ingress", "Egress"],
                 "ingress": [{"from": from}]},
    });
    Policies::build(&PolicyObjects {
        policies: vec![typed::<NetworkPolicy>(&policy)],
        pods: vec![placed("cart", cart), placed("web", web)],
        nodes: vec![IpAddr::from([127, 0, 0, 1]).into()],
        dns: Some(fresh_ip()),
        ..PolicyObjects::default()
    })
}

fn caller(pod: &str, ip: IpAddr) -> Caller {
    Caller { namespace: "shop".into(), pod: pod.into(), ip }
}

fn timeouts() -> CallTimeouts {
    CallTimeouts { connect: DEADLINE, first_byte: DEADLINE, between_bytes: DEADLINE }
}

fn get_request(host: &str) -> Request<HttpBody> {
    Request::get(format!("http://{host}/")).body(http::empty()).expect("a request")
}

/// One GET by a connection from `from`.
async fn get_from(from: IpAddr, address: SocketAddr) -> StatusCode {
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some(from));
    let client: TestClient = Client::builder(TokioExecutor::new()).build(connector);
    send(&client, request(Method::GET, address, "/", "")).await.0
}

#[tokio::test]
async fn a_policy_holds_on_every_way_to_a_pod() {
    let network = network(true).await;
    let (cluster, endpoint) = (SocketAddr::new(fresh_ip(), SERVICE_PORT), SocketAddr::new(fresh_ip(), 18_082));
    let (web, other) = (fresh_ip(), fresh_ip());
    let _registration = network.local().register(endpoint.ip(), None, Arc::new(pod("cart")));
    let _listener = network.listen(endpoint).await.expect("the address is free");
    network.update(Arc::new(table(cluster.ip(), &[endpoint])));
    let outbound = network.outbound();
    let calls = async |pod: &str, ip| {
        let (by_name, by_address) = (get_request("cart:18080"), get_request(&endpoint.to_string()));
        let named = outbound.send(&caller(pod, ip), by_name, timeouts()).await;
        let direct = outbound.send(&caller(pod, ip), by_address, timeouts()).await;
        assert_eq!(named.is_ok(), direct.is_ok());
        let routed = outbound.route(&caller(pod, ip), cluster, Transport::Tcp).await;
        let connects = outbound.route(&caller(pod, ip), endpoint, Transport::Tcp).await;
        assert_eq!(routed.is_ok(), connects.is_ok());
        match (named, routed) {
            (Ok(_), Ok(to)) => assert_eq!(to, endpoint),
            (Err(OutboundError::Refused(why)), Err(OutboundError::Refused(_))) => {
                assert!(why.contains("no NetworkPolicy of pod shop/cart allows ingress"), "{why}");
                return false;
            }
            (named, routed) => panic!("{:?} {routed:?}", named.map(|answer| answer.status())),
        }
        true
    };
    assert!(calls("other", other).await, "there is no policy");
    network.enforce(guarded(endpoint.ip(), web));
    assert!(calls("web", web).await && calls("cart", endpoint.ip()).await && !calls("other", other).await);
    for (from, status) in
        [(web, StatusCode::OK), (other, StatusCode::FORBIDDEN), ([127, 0, 0, 1].into(), StatusCode::OK)]
    {
        assert_eq!(get_from(from, cluster).await, status, "{from} by the Service's address");
        assert_eq!(get_from(from, endpoint).await, status, "{from} by the pod's own address");
        let ingress = network.ingress_address().expect("there is an ingress");
        assert_eq!(get_from(from, ingress).await, status, "{from} by the ingress");
    }
    assert!(network.refused() >= 7, "{}", network.refused());
    // The pod itself may call nobody, and ask for no name.
    let named = outbound.send(&caller("cart", endpoint.ip()), get_request("out:80"), timeouts()).await;
    assert!(matches!(&named, Err(OutboundError::Denied(why)) if why.contains("cannot be looked up")), "{named:?}");
    let outside = outbound.send(&caller("cart", endpoint.ip()), get_request("127.0.0.2:9"), timeouts()).await;
    assert!(matches!(&outside, Err(OutboundError::Refused(why)) if why.contains("egress")), "{outside:?}");
    network.enforce(Policies::default());
    assert!(calls("other", other).await, "the policy is gone");
    assert_eq!(get_from(other, endpoint).await, StatusCode::OK);
}

/// A server of datagrams that answers with its name and what it was sent.
async fn datagrams(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(SocketAddr::new(fresh_ip(), 0)).await.expect("the address is free");
    let address = socket.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

/// A Service of datagrams and a node port that lead to these.
fn datagram_table(ip: IpAddr, endpoints: &[SocketAddr]) -> Arc<RouteTable> {
    let slices = endpoints.iter().map(|endpoint| {
        typed(&json!({
            "metadata": {"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": endpoint.port(), "protocol": "UDP"}],
            "endpoints": [{"addresses": [endpoint.ip()]}],
        }))
    });
    let service = json!({
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"clusterIP": ip, "ports": [{"port": SERVICE_PORT, "nodePort": 30_053, "protocol": "UDP"}]},
    });
    let objects = Objects { services: &[typed(&service)], slices: &slices.collect::<Vec<_>>(), ..Objects::default() };
    Arc::new(RouteTable::build(&objects, None))
}

/// What comes back of a datagram, and from where; `None`: nothing, although it was asked again and again.
async fn asked(socket: &UdpSocket, to: SocketAddr) -> Option<(String, SocketAddr)> {
    let mut buffer = [0; 512];
    for _ in 0..10 {
        socket.send_to(b"?", to).await.expect("sent");
        let heard = tokio::time::timeout(Duration::from_millis(100), socket.recv_from(&mut buffer)).await;
        if let Ok(Ok((length, from))) = heard {
            return Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from));
        }
    }
    None
}

#[tokio::test]
async fn datagrams_go_to_one_endpoint_and_answers_come_from_the_service() {
    let network = network(false).await;
    let (first, second) = (datagrams("first").await, datagrams("second").await);
    let cluster = SocketAddr::new(fresh_ip(), SERVICE_PORT);
    let node_port_ip = network.doors.as_ref().expect("Services have listeners").node_port_ip();
    network.update(datagram_table(cluster.ip(), &[first]));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    for door in [cluster, SocketAddr::new(node_port_ip, 30_053)] {
        assert_eq!(asked(&socket, door).await, Some(("first?".into(), door)));
    }
    network.update(datagram_table(cluster.ip(), &[first, second]));
    for _ in 0..20 {
        assert_eq!(asked(&socket, cluster).await.map(|(text, _)| text).as_deref(), Some("first?"), "it has a session");
    }
    network.update(datagram_table(cluster.ip(), &[second]));
    assert_eq!(asked(&socket, cluster).await, Some(("second?".into(), cluster)), "its endpoint has gone");
    // Another client may go to either.
    network.update(datagram_table(cluster.ip(), &[first, second]));
    let mut heard = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        heard.extend(asked(&socket, cluster).await.map(|(text, _)| text));
    }
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), ["first?", "second?"]);
    network.update(datagram_table(cluster.ip(), &[]));
    assert_eq!(asked(&socket, cluster).await, None);
    network.update(Arc::new(RouteTable::default()));
    // The relay has closed, so that the address is free.
    until(|| std::net::UdpSocket::bind(cluster).is_ok()).await;
}

#[tokio::test]
async fn policies_hold_for_datagrams_through_services() {
    let network = network(false).await;
    let endpoint = datagrams("cart").await;
    let cluster = SocketAddr::new(fresh_ip(), SERVICE_PORT);
    let (web, other) = (fresh_ip(), fresh_ip());
    network.update(datagram_table(cluster.ip(), &[endpoint]));
    network.enforce(guarded(endpoint.ip(), web));
    let routed = network.outbound().route(&caller("web", web), cluster, Transport::Udp).await;
    assert_eq!(routed.expect("a Service may be sent to"), cluster);
    for (from, answered) in [(web, true), (other, false), (IpAddr::from([127, 0, 0, 1]), true)] {
        let socket = UdpSocket::bind((from, 0)).await.expect("the address is free");
        assert_eq!(asked(&socket, cluster).await.is_some(), answered, "{from}");
    }
}
