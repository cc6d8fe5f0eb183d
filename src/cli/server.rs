//! `coracle server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::audit::AuditFlags;
use super::{block_on, cores};
use crate::app::server::{ServerConfig, serve};

/// Run the control plane alone: API server, store, controllers and scheduler.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where all state is kept.
    #[arg(long, value_name = "DIR", default_value_os_t = super::up::default_data_dir())]
    data_dir: PathBuf,
    /// Where the Kubernetes API listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6443")]
    api_addr: SocketAddr,
    /// Another name or address that clients reach the API by; may be given several times.
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// The addresses of Services.
    #[arg(long, value_name = "CIDR", default_value = "127.96.0.0/16")]
    service_cidr: Ipv4Net,
    /// The addresses of pods; each node gets a /18 of it.
    #[arg(long, value_name = "CIDR", default_value = "127.64.0.0/11")]
    pod_cidr: Ipv4Net,
    #[command(flatten)]
    audit: AuditFlags,
    /// Stop when standard input ends.
    #[arg(long, hide = true)]
    supervised: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    crate::telemetry::start("info");
    let config = ServerConfig {
        data_dir: args.data_dir,
        api_addr: args.api_addr,
        names: args.tls_san,
        service_cidr: args.service_cidr,
        pod_cidr: args.pod_cidr,
        audit: args.audit.open()?,
    };
    block_on(cores(), async move {
        let stop = crate::app::stop_on_signal()?;
        if args.supervised {
            drop(crate::app::stop_with_supervisor(stop.clone()));
        }
        serve(config, stop).await
    })
}
