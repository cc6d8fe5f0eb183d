//! `coracle node`: joins, then runs the agent with the Wasm runtime.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

use super::join::{Membership, join, membership};
use crate::apiserver::auth::pki::create_private_dir;
use crate::client;
use crate::network::anyip;
use crate::node::{Bridged, ImageGc, NodeConfig, NodeTls, Thresholds};
use crate::oci::Trust;
use crate::runtime::Runtime;
use crate::runtime::docker::{self, DockerConfig, DockerRuntime};
use crate::runtime::isolated::IsolatingRuntime;
use crate::runtime::wasm::{WasmConfig, WasmRuntime};

/// What the command line asks of a node.
#[derive(Debug)]
pub struct NodeOptions {
    pub server: String,
    pub token: Option<String>,
    pub name: String,
    pub data_dir: PathBuf,
    /// Looked through in order.
    pub images: Vec<PathBuf>,
    pub trust: Trust,
    pub image_gc: ImageGc,
    pub address: IpAddr,
    pub port: u16,
    pub ingress: Option<SocketAddr>,
    pub eviction_hard: Thresholds,
    /// `None`: this node runs no containers of ordinary images.
    pub docker: Option<DockerOptions>,
}

/// The Docker Engine of a node.
#[derive(Debug)]
pub struct DockerOptions {
    /// `unix:///var/run/docker.sock`
    pub address: String,
    /// Whether containers run on when the node stops in good order.
    pub leave_running: bool,
}

/// The upper half of the node's addresses is for pods with a network of their own. None can be of the
/// loopback range: that is each network's own.
fn bridged(pods: Ipv4Net) -> Option<Bridged> {
    let cidr = pods.subnets(pods.prefix_len() + 1).ok()?.nth(1)?;
    (!pods.network().is_loopback()).then(|| Bridged { cidr, gateway: docker::gateway(cidr) })
}

/// Runs the node until `stop`. One that stands by for another of the same name and directory does all that
/// both can have at a time (the engine with its pools takes longest), then waits until it is `called`.
pub async fn serve(
    options: NodeOptions,
    called: Option<impl Future<Output = ()>>,
    stop: CancellationToken,
) -> Result<()> {
    super::raise_file_limit();
    create_private_dir(&options.data_dir)?;
    let member = tokio::select! { member = become_member(&options) => member?, () = stop.cancelled() => return Ok(()) };
    let tls = NodeTls {
        ca_pem: member.joined.ca.clone(),
        cert_pem: member.joined.certificate.clone(),
        key_pem: member.key_pem.clone(),
    };
    let client = client::from_pem(&options.server, &tls.ca_pem, &tls.cert_pem, &tls.key_pem)?;
    // The file that is running, even if another has come in its place meanwhile.
    let own = PathBuf::from("/proc/self/exe");
    let wasm = WasmRuntime::new(WasmConfig {
        cache_dir: Some(options.data_dir.join("cache")),
        compiler: Some(own.clone()),
        ..WasmConfig::default()
    })?;
    if let Some(called) = called {
        tracing::info!("standing by");
        tokio::select! { () = called => tracing::info!("called"), () = stop.cancelled() => return Ok(()) }
    }
    let mut runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(IsolatingRuntime::new(wasm, own))];
    let leave_running = options.docker.as_ref().is_some_and(|docker| docker.leave_running);
    let bridged = options.docker.as_ref().and_then(|_| bridged(member.joined.pod_cidr));
    if let Some(docker) = options.docker {
        runtimes.push(Arc::new(DockerRuntime::start(DockerConfig {
            address: docker.address,
            dir: std::path::absolute(options.data_dir.join("docker"))?,
            subnet: bridged.map(|bridged| bridged.cidr),
            leave_running: docker.leave_running,
        })?));
    }
    let claimed = claim(&member, bridged.as_ref(), member.joined.service_cidr);
    let config = NodeConfig {
        name: options.name,
        // Containers are given files below it.
        data_dir: std::path::absolute(options.data_dir)?,
        images_dirs: options.images,
        trust: options.trust,
        image_gc: options.image_gc,
        pod_cidr: member.joined.pod_cidr.into(),
        bridged,
        dns: bridged.and_then(|_| member.joined.service_cidr.hosts().nth(crate::node::DNS_HOST)).map(IpAddr::V4),
        address: options.address,
        listen: SocketAddr::new(options.address, options.port),
        ingress: options.ingress,
        service_cidr: member.joined.service_cidr.into(),
        tls,
        server: Some(options.server.parse().context("--server is not a URL")?),
        cluster_domain: NodeConfig::CLUSTER_DOMAIN.to_owned(),
        labels: BTreeMap::new(),
        max_pods: NodeConfig::MAX_PODS,
        eviction_hard: options.eviction_hard,
    };
    let ran = crate::node::run(config, client, runtimes, stop).await;
    // What containers that run on still need stays.
    for range in claimed.into_iter().filter(|_| !leave_running) {
        anyip::release(range);
    }
    ran
}

/// Makes this machine's own what is to be bound here of ordinary ranges. The node runs without it, too: calls
/// of this process to its own pods need no address.
fn claim(member: &Membership, bridged: Option<&Bridged>, services: Ipv4Net) -> Vec<Ipv4Net> {
    let pods = member.joined.pod_cidr;
    let own = match bridged {
        Some(_) => pods.subnets(pods.prefix_len() + 1).ok().and_then(|mut halves| halves.next()).unwrap_or(pods),
        None => pods,
    };
    let mut claimed = Vec::new();
    for range in [services, own].into_iter().filter(|range| !range.network().is_loopback()) {
        match anyip::claim(range) {
            Ok(()) => claimed.push(range),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    claimed
}

/// The credentials of an earlier join, or those of a new one; tries until the server answers.
async fn become_member(options: &NodeOptions) -> Result<Membership> {
    if let Some(member) = membership(&options.data_dir)? {
        return Ok(member);
    }
    let Some(token) = &options.token else {
        bail!("this node has not joined yet: give the server's join token with --token or --token-file");
    };
    let mut pause = Duration::from_millis(10);
    for _ in 0..20 {
        match join(&options.server, token, &options.name, &[options.address], &options.data_dir).await {
            Ok(member) => return Ok(member),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot join yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    join(&options.server, token, &options.name, &[options.address], &options.data_dir).await
}
