//! `coracle up`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

use super::audit::AuditFlags;
use super::image_gc::ImageGcFlags;
use super::node::DOCKER;
use super::progress::Progress;
use super::registries::Registries;
use super::{apply, block_on};
use crate::app::kubeconfig;
use crate::app::supervisor::Notice;
use crate::app::up::{LocalCluster, Stage, UpConfig};
use crate::node::Thresholds;

/// How long the applied deployments may take to become available before the user is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Start a whole cluster on this machine and keep it running until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "Everything is kept under the data directory; started again, the cluster comes back as it was.")]
pub struct Args {
    /// Apply these manifests once the cluster is ready: a file or a directory; may be given several times.
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// How many node processes to run.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Do not keep a second process ready behind each node, which takes over in the moment that the first one ends.
    #[arg(long)]
    no_standby: bool,
    /// Where all state is kept.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    data_dir: PathBuf,
    /// Where the Kubernetes API listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6443")]
    api_addr: SocketAddr,
    /// Where Ingress traffic comes in.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    ingress_addr: SocketAddr,
    /// The kubeconfig that gets the context "coracle" [default: $KUBECONFIG or ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where images are looked up: NAME:TAG is DIR/NAME/TAG.wasm.
    #[arg(long, value_name = "DIR", default_value = "workloads/prebuilt")]
    images: PathBuf,
    #[command(flatten)]
    registries: Registries,
    #[command(flatten)]
    image_gc: ImageGcFlags,
    /// Run pods of ordinary images too, by the Docker Engine at this address.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = DOCKER)]
    docker: Option<String>,
    /// The addresses of Services; clusters that run side by side need different ones [default: 127.96.0.0/16, with
    /// --docker 100.64.0.0/16].
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<Ipv4Net>,
    /// The addresses of pods; each node gets a /18 of it [default: 127.64.0.0/11, with --docker 100.96.0.0/11].
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<Ipv4Net>,
    #[command(flatten)]
    audit: AuditFlags,
    /// Below what nodes evict pods [default: memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<2.5%].
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_parser = thresholds)]
    eviction_hard: Option<String>,
}

/// Of Services and of pods: what any user may bind.
const LOOPBACK: [([u8; 4], u8); 2] = [([127, 96, 0, 0], 16), ([127, 64, 0, 0], 11)];
/// The same where others than this machine's own processes are to reach them: of the range that is shared
/// by providers and their customers (RFC 6598), which few local networks use.
const PRIVATE: [([u8; 4], u8); 2] = [([100, 64, 0, 0], 16), ([100, 96, 0, 0], 11)];

fn net((address, prefix): ([u8; 4], u8)) -> Ipv4Net {
    Ipv4Net::new_assert(address.into(), prefix)
}

/// Checked here, so that a mistake is seen before anything is started; read by each node.
fn thresholds(text: &str) -> Result<String, String> {
    text.parse::<Thresholds>().map(|_| text.to_owned())
}

/// `$XDG_DATA_HOME/coracle`, else `~/.local/share/coracle`.
pub fn default_data_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    base.unwrap_or_default().join("coracle")
}

pub fn run(args: Args) -> Result<()> {
    crate::telemetry::start("warn,kube_client=off");
    let eviction =
        args.eviction_hard.map(|thresholds| vec!["--eviction-hard".to_owned(), thresholds]).unwrap_or_default();
    let [service_cidr, pod_cidr] = if args.docker.is_some() { PRIVATE } else { LOOPBACK }.map(net);
    let docker: Vec<String> = args.docker.iter().map(|address| format!("--docker={address}")).collect();
    let config = UpConfig {
        nodes: args.nodes,
        standby: !args.no_standby,
        data_dir: std::path::absolute(args.data_dir)?,
        api_addr: args.api_addr,
        ingress_addr: args.ingress_addr,
        kubeconfig: args.kubeconfig.map_or_else(kubeconfig::default_path, Ok)?,
        images: std::path::absolute(args.images)?,
        node_flags: [args.registries.checked_flags()?, args.image_gc.checked_flags()?, eviction, docker].concat(),
        server_flags: args.audit.checked_flags()?,
        service_cidr: args.service_cidr.unwrap_or(service_cidr),
        pod_cidr: args.pod_cidr.unwrap_or(pod_cidr),
    };
    let manifests = args.file;
    block_on(1, async move {
        let stop = crate::app::stop_on_signal()?;
        // A bad manifest is better found before anything is started than after.
        let objects = apply::read_files(&manifests)?;
        let started = Instant::now();
        let progress = Progress::new();
        let mut cluster = LocalCluster::start(&config, &stop, |stage| progress.say(words(stage))).await?;
        progress.done();
        println!("{}", ready_line(&config, started.elapsed()));
        let result = tokio::select! {
            applied = bring_in(&cluster, &objects, config.ingress_addr) => applied,
            () = stop.cancelled() => Ok(()),
        };
        if result.is_ok() {
            watch_over(&mut cluster, &stop).await;
        }
        cluster.stop().await;
        result
    })
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Server => "starting the server",
        Stage::Nodes => "starting the nodes",
    }
}

fn ready_line(config: &UpConfig, took: Duration) -> String {
    let nodes = if config.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", config.nodes) };
    format!(
        "coracle is ready in {} ms: {nodes}, API https://{}, ingress http://{}, kubectl context \"coracle\"",
        took.as_millis(),
        config.api_addr,
        config.ingress_addr
    )
}

/// Applies the manifests, waits for what they deploy and says how to reach it.
async fn bring_in(cluster: &LocalCluster, objects: &[apply::Manifest], ingress: SocketAddr) -> Result<()> {
    for manifest in objects {
        println!("{}", apply::apply(cluster.client(), manifest, None).await?);
    }
    if objects.is_empty() {
        return Ok(());
    }
    let (progress, started) = (Progress::new(), Instant::now());
    progress.say("waiting for the deployments");
    let unavailable = apply::wait_until_available(cluster.client(), objects, PATIENCE).await?;
    progress.done();
    if unavailable.is_empty() {
        println!("all that was applied is available, {} ms later", started.elapsed().as_millis());
    }
    for what in unavailable {
        println!("not available after {} s: {what}; ask  kubectl describe {what}", PATIENCE.as_secs());
    }
    for url in apply::ingress_urls(objects, ingress) {
        println!("try:  curl {url}");
    }
    Ok(())
}

/// Tells what happens to the processes until the user stops the cluster.
async fn watch_over(cluster: &mut LocalCluster, stop: &CancellationToken) {
    loop {
        let notice = tokio::select! { notice = cluster.notice() => notice, () = stop.cancelled() => break };
        match notice {
            Some(Notice::Ended { name, pid, how }) => println!("{name} (process {pid}) {how}"),
            Some(Notice::Restarted { name, pid }) => println!("{name} started again (process {pid})"),
            Some(Notice::CannotStart { name, error }) => println!("{name} cannot be started, trying again: {error}"),
            None => break,
        }
    }
    println!("stopping");
}
