//! A pod: its infrastructure container, and the containers that join it.
//!
//! Nothing is remembered that the engine does not know: containers have names that follow from the pod, the
//! container and the number of its life, so whoever starts one that is there finds it instead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions};
use tokio::sync::Mutex;

use super::super::{Container, ContainerSpec, Sandbox, SandboxSpec, StartError};
use super::container::{DockerContainer, Life};
use super::engine::{Failure, OWNER};
use super::image::DockerImage;
use super::logs::Attached;
use super::{Shared, firewall, image, network, spec, time};
use crate::wire::confinement::Confinement;

pub struct DockerSandbox {
    shared: Arc<Shared>,
    spec: SandboxSpec,
    files: PathBuf,
    /// The id of the infrastructure container; held while it is made or brought back, which is once for all.
    infra: Mutex<String>,
}

/// A container that the engine has under a name.
enum Made {
    New(String),
    Known(Box<ContainerInspectResponse>),
}

impl DockerSandbox {
    /// Makes the pod's surroundings, or finds them.
    pub async fn make(shared: Arc<Shared>, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError> {
        let files = shared.files_of(&spec.uid);
        let sandbox = Self { shared, spec, files, infra: Mutex::default() };
        sandbox.write_files().map_err(|error| {
            StartError::NotMade(format!("cannot write the pod's files to {}: {error}", sandbox.files.display()))
        })?;
        let infra = sandbox.make_infra().await.map_err(not_made)?;
        *sandbox.infra.lock().await = infra;
        Ok(Arc::new(sandbox))
    }

    fn write_files(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.files)?;
        let machine = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        std::fs::write(self.files.join("resolv.conf"), self.spec.linux.dns.text())?;
        std::fs::write(self.files.join("hosts"), spec::hosts(&self.spec, &machine))
    }

    async fn make_infra(&self) -> Result<String, Failure> {
        let shared = &self.shared;
        if !self.spec.linux.host_network {
            network::ensure(&shared.engine, &shared.network, shared.subnet).await?;
        }
        let body = || spec::infra(&shared.naming(), &self.spec, &self.files);
        let name = spec::name(&self.spec, spec::INFRA, 0);
        let made = match self.create(&name, body()).await {
            Err(Failure::NotFound(_)) => {
                shared.images.ensure_pause().await?;
                self.create(&name, body()).await?
            }
            made => made?,
        };
        let id = match made {
            Made::New(id) => id,
            Made::Known(known) => known.id.unwrap_or_default(),
        };
        let started = match self.start_container(&id).await {
            // A namespace that is new has no rules, whatever its pod is held to.
            Ok(()) if self.rules().exists() => self.filter(&id).await,
            started => started,
        };
        match started {
            Ok(()) => Ok(id),
            Err(failure) => {
                // What cannot start keeps an address that it may not have.
                let _ = self.shared.discard(&id).await;
                Err(failure)
            }
        }
    }

    /// Where the rules are that the pod is held to, if it is.
    fn rules(&self) -> PathBuf {
        self.files.join("firewall")
    }

    async fn filter(&self, infra: &str) -> Result<(), Failure> {
        let labels = firewall::labels(&self.shared.naming(), &self.spec);
        firewall::apply(&self.shared.engine, labels, infra, &self.rules()).await
    }

    /// Brings the infrastructure container back, if it has ended: with the engine, or by somebody's hand.
    async fn revive(&self) -> Result<String, Failure> {
        let mut infra = self.infra.lock().await;
        *infra = self.make_infra().await?;
        Ok(infra.clone())
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<Made, Failure> {
        let client = self.shared.engine.client().await?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let failure = |error| self.shared.engine.failure(error);
        match client.create_container(Some(options), body).await.map_err(failure) {
            Ok(created) => Ok(Made::New(created.id)),
            Err(Failure::Conflict(why)) => {
                let known = client.inspect_container(name, None).await.map_err(failure)?;
                let labels = known.config.as_ref().and_then(|config| config.labels.as_ref());
                let owner = labels.and_then(|labels| labels.get(OWNER));
                if owner.map(String::as_str) != Some(self.shared.engine.owner()) {
                    return Err(Failure::Refused(why));
                }
                Ok(Made::Known(Box::new(known)))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Starts a container; one that runs is left as it is.
    async fn start_container(&self, id: &str) -> Result<(), Failure> {
        let client = self.shared.engine.client().await?;
        let started = client.start_container(id, None::<StartContainerOptions>).await;
        match started {
            // 304: it runs.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            started => started.map_err(|error| self.shared.engine.failure(error)),
        }
    }

    /// A container for this life: a new one, or that of a node before this.
    async fn make_container(&self, spec: &ContainerSpec, infra: &str) -> Result<Made, StartError> {
        let image = spec.image.as_any().downcast_ref::<DockerImage>();
        let image = image.ok_or_else(|| StartError::NotMade("the image was prepared by another runtime".to_owned()))?;
        let body = spec::container(&self.shared.naming(), &self.spec, spec, &image.facts, infra, &self.files);
        let mut body = body.map_err(StartError::NotMade)?;
        if let Some(host) = body.host_config.as_mut().filter(|_| self.shared.no_precedence.load(Ordering::Relaxed)) {
            host.oom_score_adj = host.oom_score_adj.map(|score| score.max(0));
        }
        self.create(&spec::name(&self.spec, &spec.name, spec.run), body).await.map_err(not_made)
    }

    /// Starts what has been made; with another infrastructure container if this one's has gone.
    async fn start_made(&self, id: &str) -> Result<(), Failure> {
        match self.start_container(id).await {
            Err(Failure::Refused(why) | Failure::Conflict(why) | Failure::NotFound(why)) if names_another(&why) => {
                self.revive().await?;
                self.start_container(id).await
            }
            started => started,
        }
    }

    /// Lives before `run` are of no use any more.
    fn discard_earlier(&self, container: &str, run: u32) {
        let Some(before) = run.checked_sub(1) else { return };
        let (shared, name) = (self.shared.clone(), spec::name(&self.spec, container, before));
        tokio::spawn(async move {
            let _ = shared.discard(&name).await;
        });
    }
}

/// Whether a start failed for the container whose namespaces were to be joined.
fn names_another(why: &str) -> bool {
    why.contains("cannot join")
        || why.contains("non-running container")
        || why.contains("non running container")
        || why.contains("No such container")
}

/// Whether a start failed because an engine without CAP_SYS_RESOURCE (a rootless one, or one in a container)
/// may not put a process before others when memory is short. The kernel's refusal is all that tells.
fn refuses_precedence(why: &str) -> bool {
    why.contains("oom_score_adj") || why.contains("final child's PID from pipe")
}

fn not_made(failure: Failure) -> StartError {
    StartError::NotMade(failure.to_string())
}

#[async_trait::async_trait]
impl Sandbox for DockerSandbox {
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        spec.mounted().await?;
        // A process may look at any time, and nobody here would see it.
        spec.mounted().await.map_err(|error| StartError::NotMade(error.to_string()))?;
        let started = self.start_once(spec).await;
        match &started {
            Err(StartError::Other(why)) if spec.linux.oom_score_adj < 0 && refuses_precedence(why) => {
                self.shared.no_precedence.store(true, Ordering::Relaxed);
                self.start_once(spec).await
            }
            _ => started,
        }
    }

    async fn confine(&self, rules: Option<&Confinement>) -> Result<(), String> {
        let path = self.rules();
        if self.spec.linux.host_network || (rules.is_none() && !path.exists()) {
            return Ok(());
        }
        // Held: the infrastructure container is not made anew meanwhile, with the rules before.
        let infra = self.infra.lock().await;
        std::fs::write(&path, firewall::table(rules))
            .map_err(|error| format!("cannot write the pod's rules to {}: {error}", path.display()))?;
        self.filter(&infra).await.map_err(|failure| failure.to_string())
    }
}

impl DockerSandbox {
    async fn start_once(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        let mut infra = self.infra.lock().await.clone();
        let mut made = self.make_container(spec, &infra).await;
        if let Err(StartError::NotMade(why)) = &made
            && names_another(why)
        {
            infra = self.revive().await.map_err(not_made)?;
            made = self.make_container(spec, &infra).await;
        }
        let made = made?;
        let image = spec.image.as_any().downcast_ref::<DockerImage>().map(|image| &image.facts);
        let signal = image.map(|facts| facts.stop_signal.clone()).unwrap_or_default();
        let interactive = spec.linux.tty || spec.linux.stdin;
        let (id, runs_since) = match made {
            Made::New(id) => (id, None),
            Made::Known(known) => {
                let state = known.state.unwrap_or_default();
                let since = state.started_at.as_deref().and_then(time);
                // A year 1: it was made and never started.
                (known.id.unwrap_or_default(), since.filter(|since| *since > SystemTime::UNIX_EPOCH))
            }
        };
        let engine = self.shared.engine.clone();
        // Before the start: nothing of what happens is missed.
        let watch = engine.watch(&id);
        let attached = match interactive {
            true => Some(Attached::to(&engine, &id).await.map_err(not_made)?),
            false => None,
        };
        if runs_since.is_none()
            && let Err(failure) = self.start_made(&id).await
        {
            let _ = self.shared.discard(&id).await;
            return Err(match failure {
                Failure::Away { .. } => not_made(failure),
                other => StartError::Other(other.to_string()),
            });
        }
        self.discard_earlier(&spec.name, spec.run);
        let life = Life::new(engine, id, signal, runs_since.unwrap_or_else(SystemTime::now));
        self.shared.lives.add(&life);
        Ok(Arc::new(DockerContainer::follow(life, watch, spec.output.clone(), attached)))
    }
}

impl Shared {
    pub fn naming(&self) -> spec::Naming<'_> {
        spec::Naming { owner: self.engine.owner(), network: &self.network, pause: image::PAUSE }
    }

    /// Removes a container, whatever its state.
    pub async fn discard(&self, name: &str) -> Result<(), Failure> {
        let client = self.engine.client().await?;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match client.remove_container(name, Some(options)).await.map_err(|error| self.engine.failure(error)) {
            // Gone, or on its way.
            Ok(()) | Err(Failure::NotFound(_) | Failure::Conflict(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_by_the_words_when_the_pods_own_container_has_gone() {
        for (why, another) in [
            ("cannot join network of a non running container: 5f", true),
            ("can't join IPC of container 5f: cannot join IPC of a non-running container", true),
            ("No such container: 5f", true),
            ("OCI runtime create failed: exec: \"/nope\": no such file or directory", false),
        ] {
            assert_eq!(names_another(why), another, "{why}");
        }
    }
}
