//! `coracle rollout status|restart|undo|history|pause|resume`, for Deployments.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::connect::{Connection, connect};
use super::get::align;
use super::progress::Progress;

/// Watch and steer the rollout of a Deployment.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Wait until the rollout is complete.
    Status {
        /// The Deployment.
        name: String,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
    },
    /// Replace all pods, a few at a time.
    Restart {
        /// The Deployment.
        name: String,
    },
    /// Go back to an earlier revision.
    Undo {
        /// The Deployment.
        name: String,
        /// The revision to go back to [default: the one before].
        #[arg(long, value_name = "N")]
        to_revision: Option<i64>,
    },
    /// List the revisions.
    History {
        /// The Deployment.
        name: String,
    },
    /// Hold the rollout where it is.
    Pause {
        /// The Deployment.
        name: String,
    },
    /// Let it go on.
    Resume {
        /// The Deployment.
        name: String,
    },
}

const REVISION: &str = "deployment.kubernetes.io/revision";

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (client, namespace) = connect(&args.connection).await?;
        let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        match args.action {
            Action::Status { name, timeout } => status(api, plain(&name), Duration::from_secs(timeout)).await,
            Action::Restart { name } => {
                let now = jiff::Timestamp::now().to_string();
                let annotation = json!({"kubectl.kubernetes.io/restartedAt": now});
                let patch = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
                change(&api, plain(&name), &patch, "restarted").await
            }
            Action::Pause { name } => change(&api, plain(&name), &json!({"spec": {"paused": true}}), "paused").await,
            Action::Resume { name } => change(&api, plain(&name), &json!({"spec": {"paused": null}}), "resumed").await,
            Action::Undo { name, to_revision } => undo(&client, &api, &namespace, plain(&name), to_revision).await,
            Action::History { name } => history(&client, &api, &namespace, plain(&name)).await,
        }
    })
}

/// `deployment/cart` and `deploy/cart` mean `cart`.
fn plain(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

async fn change(api: &Api<Deployment>, name: &str, patch: &Value, done: &str) -> Result<()> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    println!("deployment.apps/{name} {done}");
    Ok(())
}

async fn status(api: Api<Deployment>, name: &str, patience: Duration) -> Result<()> {
    api.get(name).await?;
    let progress = Progress::new();
    progress.say(format!("waiting for {name}"));
    let settled = await_condition(api, name, |deployment: Option<&Deployment>| {
        deployment.is_none_or(|deployment| complete(deployment) || failed(deployment))
    });
    let end = tokio::time::timeout(patience, settled).await;
    progress.done();
    let deployment = end.with_context(|| format!("{name} is not complete after {} s", patience.as_secs()))??;
    match deployment {
        None => bail!("deployment {name} was deleted meanwhile"),
        Some(deployment) if failed(&deployment) => bail!("deployment {name} exceeded its progress deadline"),
        Some(_) => println!("deployment {name:?} successfully rolled out"),
    }
    Ok(())
}

fn complete(deployment: &Deployment) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let wanted = spec.replicas.unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) <= status.updated_replicas.unwrap_or(0)
        && status.available_replicas.unwrap_or(0) >= wanted
}

fn failed(deployment: &Deployment) -> bool {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
}

/// The Deployment's own ReplicaSets with their revisions, oldest first.
async fn revisions(
    client: &Client,
    api: &Api<Deployment>,
    namespace: &str,
    name: &str,
) -> Result<Vec<(i64, ReplicaSet)>> {
    let deployment = api.get(name).await?;
    let uid = deployment.uid().unwrap_or_default();
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let list = sets.list(&ListParams::default()).await?;
    let mut revisions: Vec<(i64, ReplicaSet)> = list
        .items
        .into_iter()
        .filter(|set| set.owner_references().iter().any(|owner| owner.uid == uid))
        .filter_map(|set| Some((set.annotations().get(REVISION)?.parse().ok()?, set)))
        .collect();
    revisions.sort_by_key(|(revision, _)| *revision);
    Ok(revisions)
}

async fn undo(client: &Client, api: &Api<Deployment>, namespace: &str, name: &str, to: Option<i64>) -> Result<()> {
    let all = revisions(client, api, namespace, name).await?;
    let known = || all.iter().map(|(revision, _)| revision.to_string()).collect::<Vec<_>>().join(", ");
    let target = match to {
        Some(wanted) => all.iter().find(|(revision, _)| *revision == wanted),
        None => all.len().checked_sub(2).and_then(|index| all.get(index)),
    };
    let (revision, set) =
        target.with_context(|| format!("there is no such revision to go back to; there are: {}", known()))?;
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).context("the revision has no template")?;
    let mut template = serde_json::to_value(template)?;
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
    }
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{"op": "replace", "path": "/spec/template", "value": template}]))?;
    api.patch(name, &PatchParams::default(), &Patch::<Deployment>::Json(patch)).await?;
    println!("deployment.apps/{name} rolled back to revision {revision}");
    Ok(())
}

async fn history(client: &Client, api: &Api<Deployment>, namespace: &str, name: &str) -> Result<()> {
    let mut lines = vec![["REVISION", "IMAGES", "CHANGE-CAUSE"].map(str::to_owned).to_vec()];
    for (revision, set) in revisions(client, api, namespace, name).await? {
        let pod = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.spec.as_ref());
        let images = pod.map(|pod| pod.containers.iter().filter_map(|c| c.image.clone()).collect::<Vec<_>>().join(","));
        let cause = set.annotations().get("kubernetes.io/change-cause").cloned();
        lines.push(vec![
            revision.to_string(),
            images.unwrap_or_default(),
            cause.unwrap_or_else(|| "<none>".to_owned()),
        ]);
    }
    for line in align(&lines) {
        println!("{line}");
    }
    Ok(())
}
