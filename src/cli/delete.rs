//! `coracle delete`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, PropagationPolicy};
use kube::runtime::wait::{await_condition, conditions};

use super::apply::read_files;
use super::connect::{Connection, connect};
use super::progress::Progress;
use super::resource;

/// Delete objects, and wait until they are gone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The type, or TYPE/NAME.
    #[arg(value_name = "TYPE", required_unless_present = "file")]
    what: Option<String>,
    /// The objects' names.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Delete what these manifests describe.
    #[arg(short, long, value_name = "FILE", conflicts_with = "what")]
    file: Vec<PathBuf>,
    /// All objects whose labels match.
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "names")]
    selector: Option<String>,
    /// Seconds that pods get to end; 0 ends them at once.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// What becomes of the objects' dependents.
    #[arg(long, value_name = "POLICY", default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Do not wait until they are gone.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connection: Connection,
}

/// How long gone may take before we say that it goes on without us.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (client, namespace) = connect(&args.connection).await?;
        let mut doomed: Vec<(Api<DynamicObject>, String, String)> = Vec::new();
        for manifest in read_files(&args.file)?.iter().rev() {
            let (api, kind) = manifest.api(&client, Some(&namespace)).await?;
            doomed.push((api, manifest.name().to_owned(), format!("{kind}/{}", manifest.name())));
        }
        if let Some(what) = &args.what {
            let (word, first) =
                what.split_once('/').map_or((what.as_str(), None), |(word, name)| (word, Some(name.to_owned())));
            let found = resource::find(&client, word).await?;
            let api = found.api(&client, Some(&namespace));
            let mut names: Vec<String> = first.into_iter().chain(args.names.iter().cloned()).collect();
            if let Some(selector) = &args.selector {
                let list = api.list(&ListParams::default().labels(selector)).await?;
                names.extend(list.items.into_iter().filter_map(|object| object.metadata.name));
            } else if names.is_empty() {
                bail!("say which: {word} NAME, or {word} -l SELECTOR");
            }
            doomed.extend(names.into_iter().map(|name| (api.clone(), name.clone(), found.named(&name))));
        }
        let params = DeleteParams {
            grace_period_seconds: args.grace_period,
            propagation_policy: Some(match args.cascade.as_str() {
                "foreground" => PropagationPolicy::Foreground,
                "orphan" => PropagationPolicy::Orphan,
                _ => PropagationPolicy::Background,
            }),
            ..DeleteParams::default()
        };
        let mut leaving = Vec::new();
        for (api, name, shown) in doomed {
            let deleted = api.delete(&name, &params).await?;
            println!("{shown} deleted");
            if let Some(uid) = deleted.left().and_then(|object| object.metadata.uid) {
                leaving.push((api, name, uid));
            }
        }
        if args.no_wait { Ok(()) } else { wait(leaving).await }
    })
}

async fn wait(leaving: Vec<(Api<DynamicObject>, String, String)>) -> Result<()> {
    let progress = Progress::new();
    progress.say("waiting until they are gone");
    for (api, name, uid) in leaving {
        let gone = await_condition(api, &name, conditions::is_deleted(&uid));
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            progress.done();
            bail!("{name} is still there after {} s; its deletion goes on", PATIENCE.as_secs());
        }
    }
    progress.done();
    Ok(())
}
