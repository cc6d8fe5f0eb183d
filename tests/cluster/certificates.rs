//! Certificates are asked for, approved and signed through the API, as kubectl does it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::harness::{Cluster, PATIENCE, both, eventually, kubectls, run_with_input};

/// A request for a client certificate, and the key to it.
fn request(name: &str, user: &str, group: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let pem = STANDARD.encode(params.serialize_request(&key).expect("a request").pem().expect("PEM"));
    let object = format!(
        "apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: {name}}}
spec: {{request: {pem}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600}}
"
    );
    (object, key.serialize_pem())
}

#[test]
fn an_approved_request_becomes_a_certificate_that_the_server_knows() {
    let found = kubectls();
    if found.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    for (number, kubectl) in found.iter().enumerate() {
        let run = |args: &[&str]| both(&cluster.with_kubectl(kubectl, args, None));
        let name = format!("jo-{number}");
        let (object, key) = request(&name, "jo", "team");
        cluster.apply(&object);
        let line = run(&["get", "csr", &name, "--no-headers"]);
        assert!(line.contains("coracle-admin") && line.contains("60m") && line.contains("Pending"), "{line}");
        let approved = run(&["certificate", "approve", &name]);
        assert!(approved.contains("approved"), "{approved}");
        let certificate = eventually("the certificate", PATIENCE, || {
            let object = cluster.get(&["csr", &name]);
            object["status"]["certificate"].as_str().map(str::to_owned).ok_or(object)
        });
        assert!(run(&["get", "csr", &name]).contains("Approved,Issued"));
        // It is good for what it says and no more.
        let file = |suffix: &str, text: &[u8]| {
            let path = cluster.dir.path().join(format!("{name}.{suffix}"));
            std::fs::write(&path, text).expect("written");
            path.to_str().expect("a path").to_owned()
        };
        let (cert, key) = (file("crt", &STANDARD.decode(certificate).expect("base64")), file("key", key.as_bytes()));
        let mut command = std::process::Command::new(kubectl);
        command.args(["--server", &format!("https://{}", cluster.api), "--insecure-skip-tls-verify"]);
        command.args(["--client-certificate", &cert, "--client-key", &key, "auth", "whoami"]);
        command.env("HOME", cluster.dir.path()).env_remove("KUBECONFIG");
        let who = both(&run_with_input(command, None));
        assert!(who.contains("jo") && who.contains("team") && who.contains("system:authenticated"), "{who}");
    }
}

#[test]
fn who_asks_is_the_servers_word_and_who_may_say_yes_is_the_roles() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    let kubectl = kubectls().remove(0);
    let run = |args: &[&str], input: Option<&str>| both(&cluster.with_kubectl(&kubectl, args, input));
    let (masters, _) = request("greedy", "jo", "system:masters");
    let refused = run(&["create", "-f", "-"], Some(&masters));
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert!(refused.contains(why), "{refused}");
    cluster.kubectl(&[
        "create",
        "clusterrole",
        "asks",
        "--verb=create,get,list,update,patch",
        "--resource=certificatesigningrequests,certificatesigningrequests/approval",
    ]);
    cluster.kubectl(&["create", "clusterrolebinding", "asks", "--clusterrole=asks", "--user=jo"]);
    let (plain, _) = request("plain", "jo", "team");
    let forged = plain.replace("signerName:", "username: somebody-else, signerName:");
    let made = run(&["create", "-f", "-", "--as=jo", "--validate=ignore"], Some(&forged));
    assert!(made.contains("created"), "{made}");
    assert_eq!(cluster.get(&["csr", "plain"])["spec"]["username"], "jo");
    let refused = run(&["certificate", "approve", "plain", "--as=jo"], None);
    let why = "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"";
    assert!(refused.contains(why), "{refused}");
    let denied = run(&["certificate", "deny", "plain"], None);
    assert!(denied.contains("denied"), "{denied}");
    assert!(run(&["get", "csr", "plain"], None).contains("Denied"));
    let refused = run(&["certificate", "approve", "plain", "--force"], None);
    assert!(
        refused.contains("certificate request \"plain\" is already Denied")
            || refused.contains("mutually exclusive")
            || refused.contains("may not remove"),
        "{refused}"
    );
}
