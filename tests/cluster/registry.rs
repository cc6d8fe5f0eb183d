//! Images from a real registry: Debian's `docker-registry` on a loopback port.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha2::Digest;

use crate::harness::{
    Cluster, Options, PATIENCE, both, coracle, eventually, free_address, kubectls, missing, run_with_input,
};

const HELLO: &str = "workloads/prebuilt/hello/1.wasm";
/// The account `puller` with the password `secret`, as htpasswd writes it.
const HTPASSWD: &str = "puller:$2y$05$qrT4bHJjiz9UvkTtCRwVSu5ALdiiez9AifnrtKGhLRvkWQ9MBwG/C\n";

/// A running registry. Dropping it ends it.
pub struct Registry {
    process: Child,
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Registry {
    /// `None`, said aloud, where there is none to be run.
    pub fn start() -> Option<Self> {
        Self::with(|_| String::new())
    }

    /// One that asks for an account: `puller`, with the password `secret`.
    pub fn private() -> Option<Self> {
        Self::with(|dir| {
            std::fs::write(dir.join("htpasswd"), HTPASSWD).expect("written");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", dir.join("htpasswd").display())
        })
    }

    /// `more` is put into the configuration, indented below `http`, or as sections of its own.
    fn with(more: impl FnOnce(&Path) -> String) -> Option<Self> {
        if kubectls().is_empty() {
            return None;
        }
        if Command::new("docker-registry").arg("--version").output().is_err() {
            missing("docker-registry");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{}",
            dir.path().join("blobs").display(),
            more(dir.path())
        );
        std::fs::write(&config, text).expect("written");
        let log = File::create(dir.path().join("log")).expect("a log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let registry = Self { process, dir, address };
        eventually("the registry to listen", PATIENCE, || TcpStream::connect(address).map_err(|_| registry.log()));
        Some(registry)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `coracle push`, which must succeed; the manifest's digest.
    fn push(&self, file: &str, name: &str) -> String {
        let output = coracle().args(["push", file, &self.image(name)]).output().expect("coracle runs");
        digest_of(&output)
    }

    /// Puts something under a digest or a tag by hand.
    fn put(&self, path: &str, media_type: &str, content: &[u8]) {
        let mut stream = TcpStream::connect(self.address).expect("the registry");
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            content.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content)).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "PUT {path}: {answer}");
    }

    fn put_blob(&self, name: &str, content: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the registry");
        let head = format!(
            "POST /v2/{name}/blobs/uploads/ HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let location =
            answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_else(|| panic!("{answer}"));
        let path = location.split_once(&self.address.to_string()).expect("its own address").1.trim();
        let digest = sha256(content);
        self.put(&format!("{path}&digest={digest}"), "application/octet-stream", content);
        digest
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the registry's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn sha256(content: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What `coracle push` printed as the digest.
fn digest_of(output: &Output) -> String {
    let text = both(output);
    assert!(output.status.success(), "{text}");
    text.lines().find_map(|line| line.strip_prefix("digest ")).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn pod(name: &str, image: &str, more: &Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        if key == "imagePullPolicy" {
            pod["spec"]["containers"][0][key] = value.clone();
        } else {
            pod["spec"][key] = value.clone();
        }
    }
    pod.to_string()
}

/// Waits until the pod's container runs; its status.
fn running(cluster: &Cluster, name: &str) -> Value {
    eventually(&format!("{name} to run"), PATIENCE, || {
        let status = cluster.get(&["pod", name])["status"]["containerStatuses"][0].clone();
        if status["state"]["running"].is_object() { Ok(status) } else { Err(status) }
    })
}

/// Waits until the container waits for this reason; what it says. `ErrImagePull` is soon
/// `ImagePullBackOff`, which tells the same.
fn waiting(cluster: &Cluster, name: &str, reason: &str) -> String {
    eventually(&format!("{name} to wait with {reason}"), PATIENCE, || {
        let waiting = cluster.get(&["pod", name])["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let said = waiting["message"].as_str().unwrap_or_default().to_owned();
        let backing_off = reason == "ErrImagePull" && waiting["reason"] == "ImagePullBackOff";
        if waiting["reason"] == reason || backing_off { Ok(said) } else { Err(waiting) }
    })
}

/// Waits for an event of the pod that says all of `words`.
fn told(cluster: &Cluster, name: &str, words: &[&str]) {
    eventually(&format!("an event of {name} that says {words:?}"), PATIENCE, || {
        let text = cluster.kubectl(&["describe", "pod", name]);
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        said.then_some(()).ok_or(text)
    });
}

#[test]
fn a_pushed_module_is_pulled_once_and_runs() {
    let Some(mut registry) = Registry::start() else { return };
    let cluster = Cluster::start();
    let digest = registry.push(HELLO, "team/greet:v9");
    let image = registry.image("team/greet:v9");
    for name in ["one", "two", "three", "four"] {
        cluster.apply(&pod(name, &image, &json!({})));
    }
    for name in ["one", "two", "three", "four"] {
        let status = running(&cluster, name);
        let id = status["imageID"].as_str().unwrap_or_default();
        assert_eq!(id, format!("{}@{digest}", registry.image("team/greet")));
    }
    let pulling = format!("Pulling image \"{image}\"");
    let pulled = format!("Successfully pulled image \"{image}\" in ");
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains(&pulling), "{events}");
    eventually("the event of the pull", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events"]);
        (events.contains(&pulled) && events.contains("Image size: ")).then_some(()).ok_or(events)
    });
    let module = sha256(&std::fs::read(HELLO).expect("the module"));
    let asked =
        registry.log().lines().filter(|line| line.contains(&format!("\"GET /v2/team/greet/blobs/{module}"))).count();
    assert_eq!(asked, 1, "four pods, one download:\n{}", registry.log());

    let by_digest = format!("{}@{digest}", registry.image("team/greet"));
    cluster.apply(&pod("by-digest", &by_digest, &json!({})));
    running(&cluster, "by-digest");
    cluster.apply(&pod("wrong-digest", &format!("{}@{}", registry.image("team/greet"), sha256(b"")), &json!({})));
    assert!(waiting(&cluster, "wrong-digest", "ErrImagePull").contains("404"));

    let absent = registry.image("team/greet:absent");
    cluster.apply(&pod("absent", &absent, &json!({})));
    let said = waiting(&cluster, "absent", "ImagePullBackOff");
    for word in [registry.address.to_string().as_str(), "404", "coracle push", "Back-off pulling image"] {
        assert!(said.contains(word), "{said}");
    }
    told(&cluster, "absent", &["Failed to pull image", "404"]);
    cluster.apply(&pod("never", &absent, &json!({"imagePullPolicy": "Never"})));
    assert!(waiting(&cluster, "never", "ErrImageNeverPull").contains("Never"));
    // The state comes right once the registry has it.
    registry.push(HELLO, "team/greet:absent");
    running(&cluster, "absent");

    let _ = registry.process.kill();
    let _ = registry.process.wait();
    cluster.apply(&pod("present", &image, &json!({})));
    running(&cluster, "present");
    told(&cluster, "present", &["already present on machine"]);
    cluster.kill("node-1");
    running(&cluster, "one");
    cluster.apply(&pod("always", &image, &json!({"imagePullPolicy": "Always"})));
    let said = waiting(&cluster, "always", "ErrImagePull");
    assert!(said.contains("cannot be reached") && said.contains(&registry.address.to_string()), "{said}");
}

/// A layer of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).expect("added");
    }
    archive.into_inner().expect("an archive")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("packed");
    packed.finish().expect("packed")
}

impl Registry {
    /// Makes an image `NAME:1` that there is for one sort of machine alone.
    pub fn put_image_for(&self, name: &str, architecture: &str) {
        let (digest, size) = self.put_image(name, "only", &json!({}), &[("gzip", gzip(&archive(&[])))]);
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            }],
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        self.put(&format!("/v2/{name}/manifests/1"), media_type, index.to_string().as_bytes());
    }

    /// Makes an ordinary image of layers, each packed as its suffix says; its manifest's digest and size.
    fn put_image(&self, name: &str, tag: &str, process: &Value, layers: &[(&str, Vec<u8>)]) -> (String, usize) {
        let config = json!({
            "architecture": "wasm", "os": "wasip1", "rootfs": {"type": "layers", "diff_ids": []}, "config": process,
        });
        let config = config.to_string();
        let layer = |(packing, content): &(&str, Vec<u8>)| {
            let digest = self.put_blob(name, content);
            let media_type = format!("application/vnd.oci.image.layer.v1.tar+{packing}");
            json!({"mediaType": media_type, "digest": digest, "size": content.len()})
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.put_blob(name, config.as_bytes()), "size": config.len(),
            },
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = manifest.to_string();
        self.put(&format!("/v2/{name}/manifests/{tag}"), media_type, manifest.as_bytes());
        (sha256(manifest.as_bytes()), manifest.len())
    }
}

#[test]
fn a_module_inside_an_ordinary_image_runs() {
    let Some(registry) = Registry::start() else { return };
    let cluster = Cluster::start();
    let module = std::fs::read(HELLO).expect("the module");
    let layers = [
        ("gzip", gzip(&archive(&[("srv/app.wasm", &module), ("srv/other.wasm", b"rubbish")]))),
        ("gzip", gzip(&archive(&[("etc/motd", b"hello")]))),
    ];
    let process = json!({"Entrypoint": ["/srv/app.wasm"], "Env": ["FROM=the image", "HOSTNAME=nobody"]});
    registry.put_image("team/boxed", "1", &process, &layers);
    cluster.apply(&pod("boxed", &registry.image("team/boxed:1"), &json!({})));
    running(&cluster, "boxed");
    let output = coracle().args(["inspect", &registry.image("team/boxed:1")]).output().expect("coracle runs");
    assert!(both(&output).contains(&sha256(&module)), "{}", both(&output));
    let env = cluster.kubectl(&["exec", "boxed", "--", "env"]);
    assert!(env.contains("FROM=the image\n") && env.contains("HOSTNAME=boxed\n"), "{env}");
}

#[test]
fn an_image_says_with_what_arguments_it_starts() {
    let Some(registry) = Registry::start() else { return };
    let cluster = Cluster::start();
    let module = std::fs::read("workloads/prebuilt/job/1.wasm").expect("the module");
    let packed = ruzstd::encoding::compress_to_vec(
        &*archive(&[("primes.wasm", &module)]),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    let process = json!({"Entrypoint": ["wasmtime", "/primes.wasm"], "Cmd": ["100", "1"]});
    registry.put_image("team/primes", "1", &process, &[("zstd", packed)]);
    let image = registry.image("team/primes:1");
    let ended = |name: &str, code: i64, said: &str| {
        let status = eventually(&format!("{name} to end"), PATIENCE, || {
            let status = cluster.get(&["pod", name])["status"]["containerStatuses"][0].clone();
            if status["state"]["terminated"].is_object() { Ok(status) } else { Err(status) }
        });
        assert_eq!(status["state"]["terminated"]["exitCode"], code, "{status}");
        assert_eq!(cluster.kubectl(&["logs", name]).lines().next(), Some(said));
    };
    cluster.apply(&pod("as-it-says", &image, &json!({"restartPolicy": "Never"})));
    ended("as-it-says", 1, "25 primes below 100");
    cluster.kubectl(&["run", "other", "--image", &image, "--restart", "Never", "--", "10"]);
    ended("other", 0, "4 primes below 10");
}

#[test]
fn a_private_image_is_for_pods_with_its_secret() {
    let Some(registry) = Registry::private() else { return };
    let image = registry.image("team/greet:v9");
    let push = |password| {
        let mut command = coracle();
        command.args(["push", HELLO, &image, "--username", "puller", "--password-stdin"]);
        run_with_input(command, Some(password))
    };
    let refused = push("wrong\n");
    assert!(!refused.status.success() && both(&refused).contains("401"), "{}", both(&refused));
    digest_of(&push("secret\n"));

    let cluster = Cluster::start();
    cluster.apply(&pod("without", &image, &json!({})));
    let said = waiting(&cluster, "without", "ErrImagePull");
    assert!(said.contains("401") && said.contains("imagePullSecrets"), "{said}");
    let server = format!("--docker-server={}", registry.address);
    let account = ["--docker-username=puller", "--docker-password=secret"];
    cluster.kubectl(&["create", "secret", "docker-registry", "regcred", &server, account[0], account[1]]);
    cluster.apply(&pod("with", &image, &json!({"imagePullSecrets": [{"name": "regcred"}]})));
    running(&cluster, "with");
    cluster.apply(&pod("unknown", &image, &json!({"imagePullSecrets": [{"name": "nosuch"}]})));
    // It is on the machine by now; yet this pod has no right to it.
    waiting(&cluster, "unknown", "ErrImagePull");
    told(&cluster, "unknown", &["FailedToRetrieveImagePullSecret", "nosuch"]);
    let secrets = r#"{"imagePullSecrets":[{"name":"regcred"}]}"#;
    cluster.kubectl(&["patch", "serviceaccount", "default", "-p", secrets]);
    eventually("the account's secret to reach new pods", PATIENCE, || {
        cluster.kubectl(&["delete", "pod", "by-account", "--ignore-not-found", "--now"]);
        cluster.apply(&pod("by-account", &image, &json!({})));
        let pod = cluster.get(&["pod", "by-account"]);
        (pod["spec"]["imagePullSecrets"][0]["name"] == "regcred").then_some(()).ok_or(pod)
    });
    running(&cluster, "by-account");
}

/// An authority and a certificate of it for 127.0.0.1, as files.
fn certificate(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a private authority");
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("an authority");
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let file = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).expect("written");
        dir.join(name)
    };
    (file("ca.pem", ca.pem()), file("cert.pem", certificate.pem()), file("key.pem", key.serialize_pem()))
}

#[test]
fn a_registry_of_a_private_authority_is_trusted_when_told() {
    let tls = |dir: &Path| {
        let (_, certificate, key) = certificate(dir);
        format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
    };
    let Some(registry) = Registry::with(tls) else { return };
    let image = registry.image("team/greet:v9");
    let ca = registry.dir.path().join("ca.pem").to_string_lossy().into_owned();
    let push = |more: &[&str]| coracle().args(["push", HELLO, &image]).args(more).output().expect("coracle runs");
    let refused = push(&[]);
    assert!(!refused.status.success() && both(&refused).contains("--registry-ca"), "{}", both(&refused));
    digest_of(&push(&["--registry-ca", &ca]));
    digest_of(&push(&["--insecure-registry", &registry.address.to_string()]));
    let args = vec!["--registry-ca".to_owned(), ca];
    let cluster = Cluster::with(Options { args, ..Options::default() });
    cluster.apply(&pod("secure", &image, &json!({})));
    running(&cluster, "secure");
}

/// Passes bytes on to the registry, keeps the heads of requests, and breaks off the first large answer.
fn breaking_proxy(registry: SocketAddr, after: usize) -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let heads = Arc::new(Mutex::new(String::new()));
    let (seen, broken) = (heads.clone(), Arc::new(Mutex::new(false)));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(registry).expect("the registry");
            let (mut from, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            let seen = seen.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    seen.lock().expect("heads").push_str(&String::from_utf8_lossy(&buffer[..count]));
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            let broken = broken.clone();
            thread::spawn(move || {
                let (mut from, mut to, mut passed) = (server, client, 0);
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    passed += count;
                    let mut broken = broken.lock().expect("a flag");
                    if to.write_all(&buffer[..count]).is_err() || (passed > after && !*broken) {
                        *broken |= passed > after;
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Both);
                let _ = from.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (address, heads)
}

#[test]
fn a_pull_that_breaks_off_is_continued() {
    let Some(registry) = Registry::start() else { return };
    registry.push(HELLO, "team/greet:v9");
    let module = std::fs::read(HELLO).expect("the module");
    let (proxy, heads) = breaking_proxy(registry.address, module.len() / 2);
    let output = coracle().args(["inspect", &format!("{proxy}/team/greet:v9")]).output().expect("coracle runs");
    let text = both(&output);
    assert!(output.status.success() && text.contains(&sha256(&module)), "{text}");
    let heads = heads.lock().expect("heads").to_lowercase();
    assert!(heads.contains("range: bytes="), "{heads}");
}

#[test]
fn a_module_is_inspected_and_checked_before_it_is_deployed() {
    let Some(registry) = Registry::start() else { return };
    let digest = registry.push(HELLO, "team/greet:v9");
    let image = registry.image("team/greet:v9");
    let run = |args: &[&str]| coracle().args(args).output().expect("coracle runs");
    let ok = |args: &[&str], words: &[&str]| {
        let output = run(args);
        let text = both(&output);
        assert!(output.status.success(), "{args:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{args:?} does not say {word:?}:\n{text}");
        }
    };
    let module = sha256(&std::fs::read(HELLO).expect("the module"));
    ok(
        &["inspect", HELLO],
        &["component (WASI 0.2)", "wasi:http/proxy@0.2", "wasi:http/incoming-handler@0.2", &module],
    );
    ok(&["inspect", &image], &[&module, &digest]);
    ok(&["inspect", &image, "--json"], &["\"manifestDigest\"", "\"memoryBytes\""]);
    ok(&["check", HELLO], &["will run as an HTTP server", "at start"]);
    ok(&["check", &image], &["will run as an HTTP server"]);

    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let wanting =
        r#"(module (import "wasi_snapshot_preview1" "proc_exot" (func (param i32))) (func (export "_start")))"#;
    let library = r#"(module (func (export "add")))"#;
    let command = r#"(module (memory 2) (func (export "_start")))"#;
    ok(
        &["check", &file("command.wat", command)],
        &["will run as a command, by its export _start", "128.0 KiB at start"],
    );
    let refused = |args: &[&str], words: &[&str]| {
        let output = run(args);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{args:?} does not say {word:?}:\n{text}");
        }
    };
    refused(
        &["check", &file("wanting.wat", wanting)],
        &["will not run", "proc_exot", "the nearest offered is", "proc_exit"],
    );
    refused(&["check", &file("library.wat", library)], &["will not run", "_start"]);
    refused(&["check", &file("text.wasm", "hello")], &["will not run", "it is not WebAssembly"]);
    refused(&["inspect", "no/such.wasm"], &["there is no file no/such.wasm"]);
    refused(&["inspect", &registry.image("team/greet:none")], &["404", "coracle push"]);
    refused(&["push", &file("broken.wasm", "oops"), &image], &["is not pushed", "not WebAssembly"]);
    refused(&["push", HELLO, "Not A Reference"], &["HOST:PORT/NAME:TAG"]);
}

#[test]
fn an_image_that_nobody_uses_makes_room() {
    let Some(registry) = Registry::start() else { return };
    registry.push(HELLO, "team/greet:v9");
    registry.push("workloads/prebuilt/hello/2.wasm", "team/other:v9");
    let flags = ["--max-image-bytes=1", "--minimum-image-ttl=0"].map(str::to_owned);
    let cluster = Cluster::with(Options { args: flags.to_vec(), ..Options::default() });
    let kept = || {
        let dir = cluster.dir.path().join("data/nodes/node-1/pulled/blobs");
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
        names.map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy())).collect::<Vec<_>>()
    };
    let [greet, other] =
        [1, 2].map(|n| sha256(&std::fs::read(format!("workloads/prebuilt/hello/{n}.wasm")).expect("read")));
    cluster.apply(&pod("greet", &registry.image("team/greet:v9"), &json!({})));
    running(&cluster, "greet");
    cluster.kubectl(&["delete", "pod", "greet"]);
    // The next pull is when it is looked; what its pod uses stays, however far it is over the bound.
    cluster.apply(&pod("other", &registry.image("team/other:v9"), &json!({})));
    running(&cluster, "other");
    eventually("the unused image to go", PATIENCE, || {
        let kept = kept();
        (!kept.contains(&greet)).then_some(()).ok_or(kept)
    });
    assert!(kept().contains(&other));
    told_of_node(&cluster, "FreeDiskSpaceFailed");
    cluster.apply(&pod("greet", &registry.image("team/greet:v9"), &json!({})));
    running(&cluster, "greet");
}

fn told_of_node(cluster: &Cluster, reason: &str) {
    eventually("the node's event", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "-A"]);
        events.contains(reason).then_some(()).ok_or(events)
    });
}
