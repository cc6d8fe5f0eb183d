//! Starts clusters, runs kubectl, makes requests, waits for conditions.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a loaded machine; a healthy one needs a hundredth of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn coracle() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.current_dir(repository()).env_remove("RUST_BACKTRACE").env_remove("KUBECONFIG");
    command
}

/// The kubectls to test with: those of `CORACLE_KUBECTL` (separated by colons), or the one on the PATH.
/// None at all is a skip, said aloud, and a failure where `CORACLE_REQUIRE_TOOLS` is set.
pub fn kubectls() -> Vec<PathBuf> {
    let named = std::env::var("CORACLE_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let works =
        |path: &&str| Command::new(path).args(["version", "--client"]).output().is_ok_and(|o| o.status.success());
    let found: Vec<PathBuf> = named.split(':').filter(works).map(PathBuf::from).collect();
    if found.is_empty() {
        missing("kubectl");
    }
    found
}

/// Says that a test is skipped for want of a tool; fails where tools are required.
pub fn missing(tool: &str) {
    assert!(std::env::var_os("CORACLE_REQUIRE_TOOLS").is_none(), "this test needs {tool}, which is not installed");
    eprintln!("SKIPPED: this test needs {tool}, which is not installed");
}

/// How to start a cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub nodes: usize,
    /// Below the repository.
    pub manifests: Vec<&'static str>,
    pub images: Option<PathBuf>,
    /// More flags of `coracle up`.
    pub args: Vec<String>,
}

/// A running `coracle up`. Dropping it stops it.
pub struct Cluster {
    process: Child,
    pub dir: tempfile::TempDir,
    pub api: SocketAddr,
    pub ingress: SocketAddr,
    output: Arc<Mutex<String>>,
    options: Options,
}

impl Cluster {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with_manifests(manifests: &[&'static str]) -> Self {
        Self::with(Options { manifests: manifests.to_vec(), ..Options::default() })
    }

    /// Returns when the cluster is ready and, where manifests are given, what they deploy is available.
    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (api, ingress) = (free_address(), free_address());
        let (process, output) = launch(dir.path(), api, ingress, &options);
        let cluster = Self { process, dir, api, ingress, output, options };
        cluster.wait_until_up();
        cluster
    }

    fn wait_until_up(&self) {
        let ready = || {
            let text = self.output();
            let applied = self.options.manifests.is_empty()
                || text.contains("all that was applied is available")
                || text.contains("not available");
            (text.contains("coracle is ready") && applied).then_some(())
        };
        eventually("coracle up to be ready", PATIENCE, || ready().ok_or_else(|| self.output()));
    }

    /// What `coracle up` has printed.
    pub fn output(&self) -> String {
        self.output.lock().expect("the output").clone()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// kubectl's answer, right or wrong.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        let kubectl = kubectls().into_iter().next().expect("a kubectl");
        self.with_kubectl(&kubectl, args, None)
    }

    pub fn with_kubectl(&self, kubectl: &Path, args: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args).current_dir(repository());
        command.env("HOME", self.dir.path()).env_remove("KUBECONFIG");
        run_with_input(command, input)
    }

    /// kubectl's standard output; a failure of kubectl fails the test.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "kubectl {args:?} failed:\n{}", both(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl apply -f -` of a text.
    pub fn apply(&self, manifest: &str) -> String {
        let kubectl = kubectls().into_iter().next().expect("a kubectl");
        let output = self.with_kubectl(&kubectl, &["apply", "-f", "-"], Some(manifest));
        assert!(output.status.success(), "kubectl apply failed:\n{}", both(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// An object or a list as JSON; `args` as for `kubectl get`.
    pub fn get(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["get"].iter().chain(args).copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.kubectl(&args)).expect("JSON from kubectl")
    }

    /// `coracle ARGS` against this cluster.
    pub fn coracle(&self, args: &[&str]) -> Output {
        let mut command = coracle();
        command.args(args).arg("--kubeconfig").arg(self.kubeconfig());
        command.output().expect("coracle runs")
    }

    /// A request through the ingress.
    pub fn request(&self, path: &str) -> Response {
        self.request_host("localhost", path)
    }

    pub fn request_host(&self, host: &str, path: &str) -> Response {
        http(self.ingress, host, path).unwrap_or_else(|error| panic!("GET {path} of {host}: {error}"))
    }

    /// The process id of `server`, `node-1`, … as its pid file has it.
    pub fn pid(&self, role: &str) -> i32 {
        let file = self.dir.path().join(format!("data/run/{role}.pid"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().parse().expect("a process id")
    }

    /// kill -9 of one of the cluster's own processes.
    pub fn kill(&self, role: &str) {
        kill(self.pid(role));
    }

    /// Stops `coracle up` in order and waits for its end.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).expect("a process id");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let ended = || match self.process.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait(PATIENCE, ended).unwrap_or_else(|last| {
            let _ = self.process.kill();
            panic!("coracle up did not stop: {last}\n{}", self.output.lock().expect("the output"));
        });
    }

    /// Starts it again with the same data, ports and flags.
    pub fn start_again(&mut self) {
        let (process, output) = launch(self.dir.path(), self.api, self.ingress, &self.options);
        (self.process, self.output) = (process, output);
        self.wait_until_up();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- coracle up printed:\n{}", self.output());
            for log in std::fs::read_dir(self.dir.path().join("data/logs")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- the end of {}:\n{tail}", log.path().display());
            }
        }
        if matches!(self.process.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_raw(self.process.id().cast_signed()).expect("a process id");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let process = &mut self.process;
            let ended =
                wait(PATIENCE, || matches!(process.try_wait(), Ok(Some(_))).then_some(()).ok_or_else(String::new));
            if ended.is_err() {
                let _ = self.process.kill();
            }
        }
    }
}

/// How many clusters have been started.
static NEXT: AtomicUsize = AtomicUsize::new(0);

fn launch(dir: &Path, api: SocketAddr, ingress: SocketAddr, options: &Options) -> (Child, Arc<Mutex<String>>) {
    let mut command = coracle();
    command.arg("up").arg("--data-dir").arg(dir.join("data")).arg("--kubeconfig").arg(dir.join("kubeconfig"));
    command.args(["--api-addr", &api.to_string(), "--ingress-addr", &ingress.to_string()]);
    command.args(["--nodes", &options.nodes.max(1).to_string()]);
    // Clusters run side by side on one loopback: each has addresses of its own.
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 60;
    if !options.args.iter().any(|arg| arg == "--pod-cidr") {
        command.args(["--service-cidr", &format!("127.{}.0.0/16", 100 + number)]);
        command.args(["--pod-cidr", &format!("127.{}.0.0/16", 170 + number)]);
    }
    for manifest in &options.manifests {
        command.args(["-f", manifest]);
    }
    if let Some(images) = &options.images {
        command.arg("--images").arg(images);
    }
    // How full the machine's disk happens to be is not what is tested.
    if !options.args.iter().any(|arg| arg == "--eviction-hard") {
        command.args(["--eviction-hard", "nodefs.available<1%"]);
    }
    command.args(&options.args);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("coracle starts");
    let output = Arc::new(Mutex::new(String::new()));
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(process.stdout.take().expect("stdout")), Box::new(process.stderr.take().expect("stderr"))];
    for mut stream in streams {
        let output = output.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                output.lock().expect("the output").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
    }
    (process, output)
}

/// A loopback address with a port that was free a moment ago.
/// kill -9.
pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

pub fn run_with_input(mut command: Command, input: Option<&str>) -> Output {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    if let Some(input) = input {
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    }
    child.wait_with_output().expect("the command ends")
}

/// Standard output and error together.
pub fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks until `check` is right; fails the test with the last answer when the deadline is over.
pub fn eventually<T, E: Debug>(what: &str, patience: Duration, check: impl FnMut() -> Result<T, E>) -> T {
    wait(patience, check).unwrap_or_else(|last| panic!("waited {patience:?} for {what}; last: {last:?}"))
}

fn wait<T, E>(patience: Duration, mut check: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() > deadline => return Err(last),
            Err(_) => thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One GET on a connection of its own.
pub fn http(address: SocketAddr, host: &str, path: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let invalid = || std::io::Error::other(format!("not an HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok(Response { status, head: head.to_owned(), body })
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

/// Requests in a loop from several threads; stopping it tells what failed.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    pub fn start(address: SocketAddr, host: &'static str, path: &'static str, threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = move |stop: Arc<AtomicBool>| {
            let (mut done, mut failures) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match http(address, host, path) {
                    Ok(response) if response.status == 200 => done += 1,
                    Ok(response) => failures.push(format!("{}: {}", response.status, response.body.trim())),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            (done, failures)
        };
        let threads = (0..threads)
            .map(|_| {
                thread::spawn({
                    let stop = stop.clone();
                    move || run(stop)
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// How many requests succeeded, and what the others got.
    pub fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.into_iter().map(|thread| thread.join().expect("a load thread"));
        ends.fold((0, Vec::new()), |(done, mut failed), (more, failures)| {
            failed.extend(failures);
            (done + more, failed)
        })
    }
}
