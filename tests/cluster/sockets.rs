//! Servers on `wasi:sockets`: found by Service, confined to their pod's address, gone when deleted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{Cluster, PATIENCE, eventually, kubectls};

/// What comes back of a line sent to `address`.
fn echoed(address: SocketAddr, line: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(line)?;
    let mut answer = vec![0; line.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn address(ip: &serde_json::Value, port: u16) -> SocketAddr {
    SocketAddr::new(ip.as_str().and_then(|ip| ip.parse().ok()).expect("an address"), port)
}

#[test]
fn a_server_on_sockets_is_reached_through_its_service_and_nowhere_else() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/echo.yaml"]);
    let service = address(&cluster.get(&["service", "echo"])["spec"]["clusterIP"], 7007);
    let line = b"a line that is not HTTP\n";
    let answer =
        eventually("the Service to answer", PATIENCE, || echoed(service, line).map_err(|error| error.to_string()));
    assert_eq!(answer, line);

    let pod = address(&cluster.get(&["pods", "-l", "app=echo"])["items"][0]["status"]["podIP"], 7000);
    assert_eq!(echoed(pod, line).expect("the pod's own address"), line);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    socket.send_to(b"datagram", pod).expect("sent");
    let mut buffer = [0; 64];
    let (count, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!((&buffer[..count], from), (&b"datagram"[..], pod));
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 7000));
    assert!(TcpStream::connect(elsewhere).is_err(), "0.0.0.0 in the pod is not the machine's");

    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: asks}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {name: c, image: \"echo:1\", args: [echo.default.svc.cluster.local, \"7007\"]}\n",
    );
    eventually("a guest to reach the Service by name", PATIENCE, || {
        let log = cluster.try_kubectl(&["logs", "asks"]);
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        log.contains("answered: hello over there").then_some(()).ok_or(log)
    });
    let asker = cluster.get(&["pod", "asks"])["status"]["podIP"].as_str().expect("an address").to_owned();
    let log = cluster.kubectl(&["logs", "asks"]);
    assert!(log.contains(&format!("connected from {asker}:")), "the caller's address is its pod's: {log}");
    assert!(cluster.kubectl(&["logs", "deploy/echo"]).contains(&format!("connected: {asker}:")));

    cluster.kubectl(&["delete", "deploy", "echo", "--cascade=foreground", "--wait"]);
    eventually("the server to be gone", PATIENCE, || match TcpStream::connect(pod) {
        Err(_) => Ok(()),
        Ok(_) => Err("it still listens"),
    });
}
