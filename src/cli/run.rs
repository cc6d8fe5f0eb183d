//! `coracle run`: from a module to a URL, without YAML.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sha2::Digest;

use super::apply::{Manifest, apply, wait_until_available};
use super::connect::{Connection, connect};
use super::progress::Progress;

/// Run a module as a Deployment with a Service and an Ingress: `coracle run ./app.wasm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The module: a .wasm or .wat file.
    #[arg(value_name = "FILE")]
    module: PathBuf,
    /// What to call it [default: the file's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many pods.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u32,
    /// A variable for it, NAME=VALUE; may be given several times.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The most memory each pod may hold, e.g. 64Mi.
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// It is a command, not a server: no Service, no Ingress.
    #[arg(long)]
    command: bool,
    /// The module's arguments.
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Nodes tell under these annotations where modules can be put and where Ingress traffic comes in.
const IMAGES: &str = "coracle.dev/images";
const INGRESS: &str = "coracle.dev/ingress-address";
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let bytes = std::fs::read(&args.module).with_context(|| format!("cannot read {}", args.module.display()))?;
        let name = match &args.name {
            Some(name) => name.clone(),
            None => name_of(&args.module)?,
        };
        let env = args.env.iter().map(|pair| variable(pair)).collect::<Result<Vec<Value>>>()?;
        let (client, namespace) = connect(&args.connection).await?;
        let node = local_node(&client).await?;
        let image = place(&node, &name, &args.module, &bytes)?;
        let manifests = manifests(&args, &name, &namespace, &image, &env);
        for manifest in &manifests {
            println!("{}", apply(&client, manifest, Some(&namespace)).await?);
        }
        let progress = Progress::new();
        progress.say(format!("waiting for {name}"));
        let late = wait_until_available(&client, &manifests, PATIENCE).await?;
        progress.done();
        if !late.is_empty() {
            bail!(
                "{name} is not available after {} s; ask  coracle describe deploy/{name} -n {namespace}",
                PATIENCE.as_secs()
            );
        }
        if let (false, Some(address)) = (args.command, node.annotations().get(INGRESS)) {
            let address: SocketAddr = address.parse().with_context(|| format!("{address} is not an address"))?;
            println!("try:  curl -H 'Host: {name}.localhost' http://{address}/");
        }
        Ok(())
    })
}

/// A name that a Kubernetes object may have, made from the file's.
fn name_of(module: &Path) -> Result<String> {
    let stem = module.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-').trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
    if name.is_empty() { bail!("{} makes no name: give one with --name", module.display()) } else { Ok(name) }
}

fn variable(pair: &str) -> Result<Value> {
    let (name, value) = pair.split_once('=').with_context(|| format!("{pair:?} is not NAME=VALUE"))?;
    Ok(json!({"name": name, "value": value}))
}

/// A node of this machine, one that takes modules from a directory that we can write to.
async fn local_node(client: &Client) -> Result<Node> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let ours =
        nodes.items.into_iter().find(|node| node.annotations().get(IMAGES).is_some_and(|dir| Path::new(dir).is_dir()));
    ours.context("no node of this cluster takes modules from a directory of this machine: push the module to a place that its nodes see, and deploy it with a manifest")
}

/// Puts the module where the node finds it, under a tag that is its digest.
fn place(node: &Node, name: &str, module: &Path, bytes: &[u8]) -> Result<String> {
    let dir = Path::new(node.annotations().get(IMAGES).map(String::as_str).unwrap_or_default()).join(name);
    let digest = sha2::Sha256::digest(bytes);
    let tag: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let extension = module.extension().filter(|extension| *extension == "wat").map_or("wasm", |_| "wat");
    let file = dir.join(format!("{tag}.{extension}"));
    if !file.exists() {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut temporary = tempfile::NamedTempFile::new_in(&dir)?;
        std::io::Write::write_all(&mut temporary, bytes)?;
        temporary.persist(&file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(format!("{name}:{tag}"))
}

fn manifests(args: &Args, name: &str, namespace: &str, image: &str, env: &[Value]) -> Vec<Manifest> {
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": name}});
    let mut container = json!({"name": name, "image": image, "args": args.args, "env": env});
    if !args.command {
        container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    }
    if let Some(memory) = &args.memory {
        container["resources"] = json!({"limits": {"memory": memory}});
    }
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": args.replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    let backend = json!({"service": {"name": name, "port": {"name": "http"}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
        "spec": {"rules": [{
            "host": format!("{name}.localhost"),
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
        }]},
    });
    let objects = if args.command { vec![deployment] } else { vec![deployment, service, ingress] };
    objects.into_iter().map(|object| Manifest { source: args.module.display().to_string(), object }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_object_names() {
        for (file, name) in [("app.wasm", "app"), ("My_App.v2.wasm", "my-app-v2"), ("/x/9lives.wat", "lives")] {
            assert_eq!(name_of(Path::new(file)).expect(file), name);
        }
        assert!(name_of(Path::new("_.wasm")).is_err());
    }
}
