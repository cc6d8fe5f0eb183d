//! `coracle node`: joins, then runs the agent with the Wasm runtime.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_util::sync::CancellationToken;

use super::join::{Membership, join, membership};
use crate::apiserver::auth::pki::create_private_dir;
use crate::client;
use crate::node::{ImageGc, NodeConfig, NodeTls, Thresholds};
use crate::oci::Trust;
use crate::runtime::Runtime;
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
}

/// Runs the node until `stop`.
pub async fn serve(options: NodeOptions, stop: CancellationToken) -> Result<()> {
    raise_file_limit();
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
    let runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(IsolatingRuntime::new(wasm, own))];
    let config = NodeConfig {
        name: options.name,
        data_dir: options.data_dir,
        images_dirs: options.images,
        trust: options.trust,
        image_gc: options.image_gc,
        pod_cidr: member.joined.pod_cidr.into(),
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
    crate::node::run(config, client, runtimes, stop).await
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

/// Each pod's listener and each connection is a file descriptor: take as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; many pods may not fit");
    }
}
