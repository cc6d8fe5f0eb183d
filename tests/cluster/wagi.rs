//! Programs that know no HTTP answer it by CGI.

use crate::harness::{Cluster, kubectls};

#[test]
fn a_program_in_c_serves_through_service_and_ingress() {
    let cluster = Cluster::with_manifests(&["manifests/greet.yaml"]);
    let answer = cluster.request_host("greet.example", "/?lang=c");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("Hello from C on greet-"), "{answer:?}");
    assert!(answer.body.contains("GET /?lang=c for greet.example"), "{answer:?}");
    assert_eq!(cluster.request_host("greet.example", "/none").status, 404);
    if !kubectls().is_empty() {
        let log = cluster.kubectl(&["logs", "deploy/greet"]);
        assert!(log.contains("nothing at /none"), "{log}");
    }
}
