//! `coracle up`: a cluster on this machine, in the foreground.
//!
//! It runs the very processes that a cluster of many machines runs, and no other path: a server, and
//! nodes that join it by token over TLS. It owns the order: the server is ready before the nodes start,
//! the nodes have drained before the server stops.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::kubeconfig::{self, Access};
use super::supervisor::{Notice, Program, Supervised};
use crate::apiserver::auth::pki::create_private_dir;
use crate::client;

/// What `up` was asked for; paths are absolute.
#[derive(Debug)]
pub struct UpConfig {
    pub nodes: u16,
    /// Whether behind each node a second process stands by.
    pub standby: bool,
    pub data_dir: PathBuf,
    pub api_addr: SocketAddr,
    pub ingress_addr: SocketAddr,
    pub kubeconfig: PathBuf,
    pub images: PathBuf,
    /// More flags of the server, passed on as they were given.
    pub server_flags: Vec<String>,
    /// More flags of the nodes, passed on as they were given.
    pub node_flags: Vec<String>,
    pub service_cidr: Ipv4Net,
    pub pod_cidr: Ipv4Net,
}

/// How long the server and the nodes may take to get ready. Hundreds of milliseconds are usual; a
/// loaded machine that compiles every image anew may need much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Notices that wait to be shown; more than that in one go are not news.
const NOTICES: usize = 64;

/// A running cluster of this machine's own processes.
pub struct LocalCluster {
    client: Client,
    server: Supervised,
    nodes: Vec<Supervised>,
    notices: mpsc::Receiver<Notice>,
    _lock: File,
}

/// Where a start has got to, for whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Server,
    Nodes,
}

impl LocalCluster {
    /// Starts the server, then the nodes; returns when all are ready and the kubeconfig has the context.
    /// A start that fails, or that `stop` interrupts, leaves no process behind.
    pub async fn start(config: &UpConfig, stop: &CancellationToken, show: impl Fn(Stage)) -> Result<Self> {
        let lock = claim(config)?;
        let (sender, mut notices) = mpsc::channel(NOTICES);
        show(Stage::Server);
        let server = Supervised::start(server_program(config), sender.clone())?;
        let mut nodes = Vec::new();
        let work = async {
            let client = server_ready(config, &mut notices).await?;
            show(Stage::Nodes);
            for number in 1..=config.nodes {
                nodes.push(Supervised::start(node_program(config, number), sender.clone())?);
            }
            nodes_ready(config, &client, &mut notices).await?;
            kubeconfig::install(&config.kubeconfig, &Access::read(&config.data_dir.join("kubeconfig"))?)?;
            Ok(client)
        };
        let started = tokio::select! {
            started = work => started,
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped before it was ready")),
        };
        match started {
            Ok(client) => Ok(Self { client, server, nodes, notices, _lock: lock }),
            Err(error) => {
                stop_in_order(nodes, server).await;
                Err(error)
            }
        }
    }

    /// A client with the administrator's rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The next thing that happened to a process. Never ends while the cluster runs.
    pub async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Stops the nodes, which drain, then the server.
    pub async fn stop(self) {
        stop_in_order(self.nodes, self.server).await;
    }
}

async fn stop_in_order(nodes: Vec<Supervised>, server: Supervised) {
    futures::future::join_all(nodes.into_iter().map(Supervised::stop)).await;
    server.stop().await;
}

/// Takes the data directory for this process and checks that the ports are free.
fn claim(config: &UpConfig) -> Result<File> {
    if !config.images.is_dir() {
        bail!("there is no directory {}: say where the modules are with --images DIR", config.images.display());
    }
    create_private_dir(&config.data_dir)?;
    for dir in ["run", "logs", "nodes", "images"] {
        create_private_dir(&config.data_dir.join(dir))?;
    }
    let path = config.data_dir.join("run/up.pid");
    let lock = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "a cluster already runs with the data directory {} (process {}): stop it first, or give another --data-dir",
            config.data_dir.display(),
            pid.trim()
        );
    }
    free(config.api_addr, "--api-addr")?;
    free(config.ingress_addr, "--ingress-addr")?;
    lock.set_len(0)?;
    std::io::Write::write_all(&mut &lock, format!("{}\n", std::process::id()).as_bytes())?;
    Ok(lock)
}

fn free(address: SocketAddr, flag: &str) -> Result<()> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program: stop it, or choose another address with {flag} HOST:PORT")
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot listen on {address}: choose another with {flag} HOST:PORT"))
        }
    }
}

fn server_program(config: &UpConfig) -> Program {
    let args = ["server", "--supervised", "--data-dir"].map(str::to_owned).into_iter().chain([
        text(&config.data_dir),
        "--api-addr".to_owned(),
        config.api_addr.to_string(),
        "--service-cidr".to_owned(),
        config.service_cidr.to_string(),
        "--pod-cidr".to_owned(),
        config.pod_cidr.to_string(),
    ]);
    program(config, "server", args.chain(config.server_flags.iter().cloned()).collect(), None)
}

fn node_program(config: &UpConfig, number: u16) -> Program {
    let name = format!("node-{number}");
    let mut args = vec![
        "node".to_owned(),
        "--supervised".to_owned(),
        "--server".to_owned(),
        format!("https://{}", config.api_addr),
        "--token-file".to_owned(),
        text(&config.data_dir.join("token")),
        "--name".to_owned(),
        name.clone(),
        "--data-dir".to_owned(),
        text(&config.data_dir.join("nodes").join(&name)),
        "--images".to_owned(),
        text(&config.data_dir.join("images")),
        "--images".to_owned(),
        text(&config.images),
        "--ingress-addr".to_owned(),
        config.ingress_addr.to_string(),
    ];
    args.extend(config.node_flags.iter().cloned());
    program(config, &name, args, config.standby.then_some("--standby"))
}

fn program(config: &UpConfig, name: &str, args: Vec<String>, standby: Option<&'static str>) -> Program {
    Program {
        name: name.to_owned(),
        args,
        log: config.data_dir.join(format!("logs/{name}.log")),
        pid_file: config.data_dir.join(format!("run/{name}.pid")),
        standby,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

async fn server_ready(config: &UpConfig, heard: &mut mpsc::Receiver<Notice>) -> Result<Client> {
    let file = config.data_dir.join("kubeconfig");
    let ready = async {
        loop {
            if let Ok(client) = client::from_kubeconfig(&file).await
                && let Ok(request) = http::Request::get("/readyz").body(Vec::new())
                && client.request_text(request).await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait_for(config, "server", ready, heard).await
}

async fn nodes_ready(config: &UpConfig, client: &Client, heard: &mut mpsc::Receiver<Notice>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let ready = async {
        for number in 1..=config.nodes {
            let name = format!("node-{number}");
            while !nodes.get(&name).await.is_ok_and(|node| is_ready(&node)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    wait_for(config, "node", ready, heard).await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits for `ready`; a process that dies meanwhile, or silence, ends it with the last lines of its log.
async fn wait_for<T>(
    config: &UpConfig,
    role: &str,
    ready: impl Future<Output = T>,
    heard: &mut mpsc::Receiver<Notice>,
) -> Result<T> {
    let why = tokio::select! {
        ready = tokio::time::timeout(PATIENCE, ready) => match ready {
            Ok(ready) => return Ok(ready),
            Err(_) => format!("the {role} was not ready within {} s", PATIENCE.as_secs()),
        },
        notice = heard.recv() => match notice {
            Some(Notice::Ended { name, how, .. }) => format!("{name} {how}"),
            other => format!("the {role} did not start: {other:?}"),
        },
    };
    let log = if role == "node" { "logs/node-1.log" } else { "logs/server.log" };
    let path = config.data_dir.join(log);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("\n");
    bail!("{why}; the end of {}:\n{tail}", path.display())
}
