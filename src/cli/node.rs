//! `coracle node`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::image_gc::ImageGcFlags;
use super::registries::Registries;
use super::{block_on, cores};
use crate::app::node::{DockerOptions, NodeOptions, serve};
use crate::node::Thresholds;

/// Where a Docker Engine listens, unless it was told otherwise.
pub const DOCKER: &str = "unix:///var/run/docker.sock";

/// Run one node: the agent, the Wasm host and the service router.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The API server to join, e.g. https://10.0.0.1:6443.
    #[arg(long, value_name = "URL")]
    server: String,
    /// The join token; not needed by a node that has joined before.
    #[arg(long, value_name = "TOKEN", env = "CORACLE_TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the join token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The node's name [default: the host's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where this node keeps volumes, logs and compiled modules.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where images are looked up: NAME:TAG is DIR/NAME/TAG.wasm; given several times, in that order.
    #[arg(long, value_name = "DIR", default_value = "workloads/prebuilt")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    registries: Registries,
    #[command(flatten)]
    image_gc: ImageGcFlags,
    /// The address that the server reaches this node by.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// The port of the node's own API; 0 takes any free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Where Ingress traffic comes in; left out, this node takes none.
    #[arg(long, value_name = "HOST:PORT")]
    ingress_addr: Option<SocketAddr>,
    /// Below what pods are evicted [default: memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<2.5%].
    #[arg(long, value_name = "SIGNAL<AMOUNT")]
    eviction_hard: Option<Thresholds>,
    /// Run pods of ordinary images too, by the Docker Engine at this address.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = DOCKER)]
    docker: Option<String>,
    /// Stop when standard input ends.
    #[arg(long, hide = true)]
    supervised: bool,
    /// Prepare, but begin only when standard input has a line.
    #[arg(long, hide = true, requires = "supervised")]
    standby: bool,
}

pub fn run(args: Args) -> Result<()> {
    crate::telemetry::start("info");
    let (supervised, standby) = (args.supervised, args.standby);
    let options = resolve(args)?;
    block_on(cores(), async move {
        let stop = crate::app::stop_on_signal()?;
        let called = supervised.then(|| crate::app::stop_with_supervisor(stop.clone())).filter(|_| standby);
        serve(options, called, stop).await
    })
}

fn resolve(args: Args) -> Result<NodeOptions> {
    let token = match (args.token, args.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(
            std::fs::read_to_string(&file).with_context(|| format!("cannot read the token file {}", file.display()))?,
        ),
        (None, None) => None,
    };
    let name = match args.name {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    Ok(NodeOptions {
        server: args.server.trim_end_matches('/').to_owned(),
        token,
        name,
        data_dir: args.data_dir,
        images: args.images,
        trust: args.registries.trust()?,
        image_gc: args.image_gc.limits()?,
        address: args.address,
        port: args.port,
        ingress: args.ingress_addr,
        eviction_hard: args.eviction_hard.unwrap_or_default(),
        // A cluster that is stopped leaves nothing running; a machine's agent that is, does.
        docker: args.docker.map(|address| DockerOptions { address, leave_running: !args.supervised }),
    })
}
