//! `coracle scale`.

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::connect::{Connection, connect};
use super::resource;

/// Change how many replicas a Deployment or ReplicaSet has.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE/NAME, e.g. deploy/cart.
    #[arg(value_name = "TYPE/NAME")]
    what: String,
    /// How many.
    #[arg(long, value_name = "N")]
    replicas: u32,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (word, name) = args.what.split_once('/').context("say what to scale as TYPE/NAME, e.g. deploy/cart")?;
        let (client, namespace) = connect(&args.connection).await?;
        let found = resource::find(&client, word).await?;
        let patch = json!({"spec": {"replicas": args.replicas}});
        let api = found.api(&client, Some(&namespace));
        api.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        println!("{} scaled", found.named(name));
        Ok(())
    })
}
