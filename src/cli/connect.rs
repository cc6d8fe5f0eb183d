//! Which cluster a command speaks to.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The flags that all commands share which talk to a cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// The kubeconfig to use [default: $KUBECONFIG or ~/.kube/config].
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one].
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// The namespace [default: the context's].
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    pub namespace: Option<String>,
}

/// A client, and the namespace that commands without one mean.
pub async fn connect(connection: &Connection) -> Result<(Client, String)> {
    let hint = "no cluster is known: start one with `coracle up`, or name its kubeconfig with --kubeconfig FILE";
    let kubeconfig = match &connection.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => Kubeconfig::read().context(hint)?,
    };
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context(hint)?;
    let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let address = config.cluster_url.clone();
    let client = Client::try_from(config)?;
    client
        .apiserver_version()
        .await
        .with_context(|| format!("no cluster answers at {address}: is it running? Start it with `coracle up`"))?;
    Ok((client, namespace))
}
