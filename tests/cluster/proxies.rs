//! The proxy subresources of pods and services, through stock kubectl.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, both, eventually, kubectls};
use crate::hooks::Hook;
use crate::kubectl::with_each;
use crate::streams::Running;

const NAMESPACE: &str = "/api/v1/namespaces/default";

#[test]
fn pods_and_services_are_asked_through_the_api_server() {
    with_each(&["manifests/relay.yaml"], |k| {
        k.ok("rollout status deploy relay --timeout=60s");
        k.ok("run idle --image=worker:1");
        k.ok("wait --for=condition=Ready pod/idle --timeout=60s");
        let pod = k.ok("get pods -l app=relay -o jsonpath={.items[0].metadata.name}");
        let hello = format!("Hello from WASI 0.3 at {pod}\n");
        let get = |path: &str| format!("get --raw {NAMESPACE}/{path}");
        // The first port of the pod, or another; a client is sent on to where relative links lead.
        for name in [pod.clone(), format!("{pod}:8080"), format!("http:{pod}:8080")] {
            for slash in ["/", ""] {
                k.says(&get(&format!("pods/{name}/proxy{slash}")), &[&hello]);
            }
        }
        k.eventually_says(&get("services/relay:http/proxy/"), &["Hello from WASI 0.3 at relay-"]);
        k.says(&get("services/relay:80/proxy/ticks/2"), &["tick 1\ntick 2\n"]);
        // A body goes in and comes out.
        let line = format!("create --raw {NAMESPACE}/pods/{pod}/proxy/upper -f -");
        assert_eq!(both(&k.output(&line, Some("loud"))), "LOUD");
        for (path, words) in [
            ("pods/none/proxy/".to_owned(), "pods \"none\" not found"),
            ("services/none:80/proxy/".to_owned(), "services \"none\" not found"),
            ("pods/idle:9/proxy/".to_owned(), "error trying to reach service: "),
            (format!("pods/{pod}:web/proxy/"), "invalid pod request"),
            ("services/relay:81/proxy/".to_owned(), "no service port 81 found for service \"relay\""),
            ("services/relay/proxy/".to_owned(), "no endpoints available for service \"relay\""),
        ] {
            k.refused(&get(&path), &[words]);
        }
        let nobody = format!("get --as=nobody --raw {NAMESPACE}/pods/{pod}/proxy/");
        k.refused(&nobody, &["cannot get resource \"pods/proxy\" in API group \"\""]);
    });
}

/// A pod with the machine's own network: what listens there is its.
fn of_the_machine(cluster: &Cluster) {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "machine" },
        "spec": { "hostNetwork": true, "containers": [{ "name": "c", "image": "worker:1" }] } });
    cluster.apply(&pod.to_string());
    eventually("an address", PATIENCE, || match cluster.get(&["pod", "machine"])["status"].clone() {
        status if status["podIP"] == "127.0.0.1" && status["phase"] == "Running" => Ok(()),
        status => Err(status),
    });
}

/// What a server over TLS is asked for, told.
fn told(path: &str, _: Value) -> Value {
    json!({ "path": path })
}

#[test]
fn pods_that_speak_tls_and_other_protocols_than_http_are_reached() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&[]);
    of_the_machine(&cluster);
    let hook = Hook::start(told);
    let secure = format!("{NAMESPACE}/pods/https:machine:{}/proxy/a/b", hook.port());
    for kubectl in kubectls() {
        let output = cluster.with_kubectl(&kubectl, &["get", "--raw", &secure], None);
        assert_eq!(both(&output), r#"{"path":"a/b"}"#);
    }
    // `kubectl proxy` passes an upgrade on to the API server, and that to the pod.
    let port = echo_behind_an_upgrade();
    for kubectl in kubectls() {
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["proxy", "--port=0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let _running = Running(child, output);
        let address: SocketAddr = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok()).expect(&line);
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let head = format!(
            "GET {NAMESPACE}/pods/machine:{port}/proxy/chat HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: shout\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut reader = BufReader::new(stream);
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut answer).expect("a header") > 0, "{answer}");
        }
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        for word in ["one", "two"] {
            reader.get_mut().write_all(format!("{word}\n").as_bytes()).expect("sent");
            let mut line = String::new();
            reader.read_line(&mut line).expect("a line");
            assert_eq!(line, format!("{}\n", word.to_uppercase()));
        }
    }
}

/// A server that takes an upgrade of whatever is asked, and shouts the lines back that come then.
fn echo_behind_an_upgrade() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || shout(stream));
        }
    });
    port
}

fn shout(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    let asks = String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: shout");
    let answer =
        if asks { "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout" } else { "400 Bad Request" };
    let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let _ = stream.write_all(&buffer[..count].to_ascii_uppercase());
    }
}
