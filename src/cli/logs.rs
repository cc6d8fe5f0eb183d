//! `coracle logs`.

use anyhow::{Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::connect::{Connection, connect};
use super::stream::lines;

/// Print what a container has written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pod.
    #[arg(value_name = "POD")]
    pod: String,
    /// The container, where the pod has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on as more is written.
    #[arg(short, long)]
    follow: bool,
    /// The container's life before the last restart.
    #[arg(short, long)]
    previous: bool,
    /// Only the last N lines.
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only what is younger than this many seconds.
    #[arg(long, value_name = "SECONDS")]
    since: Option<u64>,
    /// With the time of each line.
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (client, namespace) = connect(&args.connection).await?;
        let name = args.pod.trim_start_matches("pod/");
        let pod = Api::<Pod>::namespaced(client.clone(), &namespace).get(name).await?;
        let containers: Vec<String> =
            pod.spec.map(|spec| spec.containers.into_iter().map(|c| c.name).collect()).unwrap_or_default();
        let container = match args.container.clone() {
            Some(container) => container,
            None if containers.len() > 1 => {
                bail!("{name} has several containers, choose one with -c: {}", containers.join(", "))
            }
            None => containers.into_iter().next().unwrap_or_default(),
        };
        let mut query = format!(
            "?container={container}&follow={}&previous={}&timestamps={}",
            args.follow, args.previous, args.timestamps
        );
        query.extend(args.tail.map(|n| format!("&tailLines={n}")));
        query.extend(args.since.map(|n| format!("&sinceSeconds={n}")));
        let request =
            http::Request::get(format!("/api/v1/namespaces/{namespace}/pods/{name}/log{query}")).body(Vec::new())?;
        let mut text = std::pin::pin!(lines(&client, request).await?);
        while let Some(line) = text.next().await {
            println!("{}", line?);
        }
        Ok(())
    })
}
