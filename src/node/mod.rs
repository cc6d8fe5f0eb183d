//! The node agent: the kubelet's role.
//!
//! It owns what happens on one machine: which pods run here, their addresses, volumes, logs and
//! probes, what the API is told of them, and when a container is started again. It decides in pure
//! code and acts at the edge, through a [`crate::runtime::Runtime`] and the node's
//! [`crate::network`].
//!
//! It refuses to hold truth of its own. Which pods exist is what the API says; what is on the disk
//! are volumes, logs and caches, all of which may vanish. After the process was killed it finds its
//! pods, with their addresses and restart counts, in their status. While the API server is away it
//! changes nothing: pods run on, and restart in place, with what was last known.

mod atomic_dir;
mod backoff;
mod config;
mod env;
mod fields;
mod heartbeat;
mod images;
mod ip;
mod log_reader;
mod logs;
mod objects;
mod payload;
mod plan;
mod pod;
mod probes;
mod recover;
mod reference;
mod serving;
mod status;
mod tokens;
mod volumes;

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::runtime::Runtime;
pub use config::{NodeConfig, NodeTls};

/// Runs a node until `shutdown`: builds, binds, then spawns. Returns once everything has stopped.
///
/// # Errors
/// What keeps the node from starting: a directory that cannot be made, an address that cannot be
/// bound, a certificate that cannot be read.
pub async fn run(
    config: NodeConfig,
    client: kube::Client,
    runtimes: Vec<Arc<dyn Runtime>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the node's directory {}", config.data_dir.display()))?;
    let runtime = runtimes.first().context("a node needs at least one runtime")?;
    let handlers = runtimes.iter().map(|runtime| runtime.name().to_owned()).collect();
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} for the node's API", config.listen))?;
    let heartbeat =
        Arc::new(heartbeat::Heartbeat::new(client, config, listener.local_addr()?, runtime.version(), handlers));
    heartbeat.register().await;
    heartbeat.run(shutdown).await;
    Ok(())
}
