//! `coracle describe`: an object in full, without the noise, and what happened to it.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use super::connect::{Connection, connect};
use super::get::align;
use super::resource;

/// Show an object in full, with its events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The type, or TYPE/NAME.
    #[arg(value_name = "TYPE")]
    what: String,
    /// The object's name.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (word, name) = match (args.what.split_once('/'), &args.name) {
            (Some((word, name)), None) => (word, name),
            (None, Some(name)) => (args.what.as_str(), name.as_str()),
            _ => anyhow::bail!("say what: describe TYPE NAME, or describe TYPE/NAME"),
        };
        let (client, namespace) = connect(&args.connection).await?;
        let found = resource::find(&client, word).await?;
        let object = found.api(&client, Some(&namespace)).get(name).await?;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut value = serde_json::to_value(&object)?;
        strip(&mut value);
        print!("{}", serde_yaml::to_string(&value).context("cannot print the object")?);

        let events: Api<Event> =
            if found.namespaced { Api::namespaced(client, &namespace) } else { Api::namespaced(client, "default") };
        let list = events.list(&ListParams::default().fields(&format!("involvedObject.uid={uid}"))).await?;
        print_events(list.items);
        Ok(())
    })
}

/// Leaves out what machines wrote for machines.
fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

fn print_events(mut events: Vec<Event>) {
    if events.is_empty() {
        println!("\nevents: none");
        return;
    }
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let mut lines = vec![["LAST SEEN", "TYPE", "REASON", "TIMES", "MESSAGE"].map(str::to_owned).to_vec()];
    for event in events {
        lines.push(vec![
            event.last_timestamp.map(|time| time.0.to_string()).unwrap_or_default(),
            event.type_.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.count.unwrap_or(1).to_string(),
            event.message.unwrap_or_default().replace('\n', " "),
        ]);
    }
    println!("\nevents:");
    for line in align(&lines) {
        println!("  {line}");
    }
}
