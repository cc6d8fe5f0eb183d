//! A cluster to measure, its clients, and the kernel's accounting of its processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A figure that takes longer than this is not a figure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running `coracle up`. Dropping it stops it.
pub struct Cluster {
    process: Child,
    lines: mpsc::Receiver<String>,
    pub dir: PathBuf,
    pub ingress: SocketAddr,
    /// From exec to the line that says so, and what that line says itself.
    pub ready_after: Duration,
}

impl Cluster {
    /// Starts a cluster in `dir`, with what is kept there, and waits until it says that it is ready.
    pub fn start(dir: &Path, nodes: usize, manifests: &[&str]) -> Self {
        Self::start_with(dir, nodes, manifests, &[])
    }

    /// The same, with more flags.
    pub fn start_with(dir: &Path, nodes: usize, manifests: &[&str], flags: &[&str]) -> Self {
        let (api, ingress) = (free_address(), free_address());
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("RUST_BACKTRACE");
        command.arg("up").arg("--data-dir").arg(dir.join("data")).arg("--kubeconfig").arg(dir.join("kubeconfig"));
        command.args(["--api-addr", &api.to_string(), "--ingress-addr", &ingress.to_string()]);
        command.args(["--nodes", &nodes.to_string()]).args(flags);
        for manifest in manifests {
            command.args(["-f", manifest]);
        }
        let started = Instant::now();
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("coracle starts");
        let stdout = process.stdout.take().expect("its output");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut cluster = Self { process, lines, dir: dir.to_owned(), ingress, ready_after: Duration::ZERO };
        cluster.wait_for_line("coracle is ready");
        cluster.ready_after = started.elapsed();
        if !manifests.is_empty() {
            cluster.wait_for_line("all that was applied is available");
        }
        cluster
    }

    fn wait_for_line(&self, start: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited for {start:?}"));
            if line.starts_with(start) {
                return;
            }
        }
    }

    pub async fn client(&self) -> kube::Client {
        coracle::client::from_kubeconfig(&self.dir.join("kubeconfig")).await.expect("a client")
    }

    pub fn pid(&self, role: &str) -> i32 {
        let file = self.dir.join(format!("data/run/{role}.pid"));
        std::fs::read_to_string(file).expect("a pid file").trim().parse().expect("a process id")
    }

    /// kill -9 of one of its processes.
    pub fn kill(&self, role: &str) {
        let pid = rustix::process::Pid::from_raw(self.pid(role)).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// One GET on a connection of its own: the status, or 0 when there was no answer.
pub fn status_of(address: SocketAddr, host: &str, path: &str) -> u16 {
    text_of(address, host, path).split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// The whole answer to one GET; empty when there was none.
pub fn text_of(address: SocketAddr, host: &str, path: &str) -> String {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    String::from_utf8_lossy(&ask().unwrap_or_default()).into_owned()
}

/// Resident bytes of a process, and how many of them are files' pages (its own code among them).
pub fn resident(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("VmRSS:") << 10, kib("RssFile:") << 10)
}

/// User and system time of a process with all its threads, in grains of 10 ms.
pub fn cpu_time(pid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks = |index: usize| after.split_whitespace().nth(index).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Prints percentiles of single runs, in milliseconds.
pub fn percentiles(name: &str, mut times: Vec<Duration>, goal: &str) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    println!("  {name:<44} n {:>4}  p50 {:>8.2} ms  p99 {:>8.2} ms  {goal}", times.len(), at(0.5), at(0.99));
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
