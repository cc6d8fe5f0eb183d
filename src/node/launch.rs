//! The effects behind a pod's transitions: making its surroundings, starting a container, running a
//! hook. Each is a future that touches nothing of the worker but what it is given, and comes back with
//! what it made or with what is in the way, in upstream's words.

mod image;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use tokio_util::sync::DropGuard;

use super::choose;
use super::command;
use super::compose::{self, Provider, Role};
use super::console::Console;
use super::context::Context;
use super::env::{self, Found};
use super::fields::{limit_millis, limit_units, request_millis};
use super::grants;
use super::instances;
use super::isolation;
use super::linux;
use super::logs::ContainerLog;
use super::objects::{Lookup, Tracked};
use super::plan::{Index, Plan};
use super::pod::{Note, Refusal, RefusalKind};
use super::probes::{self, Answer, Target};
use super::status;
use super::termination::{self, LastWords};
use super::usage::About;
use super::volumes::{PodVolumes, Sources};
use crate::oci::Startup;
use crate::runtime::{
    Container, ContainerSpec, DeferredMounts, Image, Isolation, Mount, Nature, RunState, Runtime, Sandbox, SandboxSpec,
    StartError,
};
use crate::wire::{HttpService, Transport};

/// Upstream lets a `postStart` hook take for ever; nobody is served by a container that never starts.
const POST_START_LIMIT: Duration = Duration::from_secs(60);

/// What a pod's containers share.
pub struct Surroundings {
    pub ip: IpAddr,
    pub runtime: Arc<dyn Runtime>,
    pub sandbox: Arc<dyn Sandbox>,
    pub volumes: Arc<PodVolumes>,
    /// Where the machine listens for the pod.
    pub _host_ports: Vec<DropGuard>,
}

/// Makes a pod's surroundings; on failure, the reason and words of an event.
pub async fn prepare(
    context: &Context,
    pod: &Arc<core::Pod>,
) -> Result<(Surroundings, Sources), (&'static str, String)> {
    let sandbox_failed = |why: String| ("FailedCreatePodSandBox", why);
    let runtime = choose::runtime(context, pod).await.map_err(sandbox_failed)?;
    let ip = address(context, pod, runtime.nature()).map_err(sandbox_failed)?;
    context.enforcer.announce(pod, ip).await;
    let (volumes, sources) =
        context.volumes.mount(pod, &context.fields(pod, ip)).await.map_err(|why| ("FailedMount", why))?;
    let isolation = isolation::of(pod).map_err(sandbox_failed)?;
    let sandbox = runtime.sandbox(sandbox_spec(context, pod, ip, isolation)).await;
    let sandbox = sandbox.map_err(|error| sandbox_failed(format!("Failed to create pod sandbox: {error}")))?;
    let host_ports = if runtime.nature().own_network {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let confined = context.enforcer.confine(&context.network, uid, &sandbox).await;
        confined.map_err(|why| sandbox_failed(format!("Failed to create pod sandbox: {why}")))?;
        Vec::new()
    } else {
        publish(context, pod, ip).map_err(sandbox_failed)?
    };
    Ok((Surroundings { ip, runtime, sandbox, volumes: Arc::new(volumes), _host_ports: host_ports }, sources))
}

/// Listens for the `hostPort`s of a pod whose network is the node's to make; a pod of the machine's network has
/// its ports there anyway.
fn publish(context: &Context, pod: &core::Pod, ip: IpAddr) -> Result<Vec<DropGuard>, String> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true));
    let ports = spec.into_iter().flat_map(linux::containers).flat_map(linux::host_ports);
    let published = ports.map(|port| {
        let host = if port.host_ip.is_empty() { Ok(context.config.address) } else { port.host_ip.parse() };
        let host = host.map_err(|_| format!("hostIP {:?} is no address", port.host_ip))?;
        let transport = match port.protocol.as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            other => return Err(format!("hostPort {}: {other} is not spoken here", port.host_port)),
        };
        let host = SocketAddr::new(host, port.host_port);
        let to = SocketAddr::new(ip, port.container_port);
        let opened = context.network.publish(host, to, transport);
        opened.map_err(|error| format!("Failed to create pod sandbox: cannot listen on {host} for a hostPort: {error}"))
    });
    published.collect()
}

fn address(context: &Context, pod: &core::Pod, nature: Nature) -> Result<IpAddr, String> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return Ok(context.config.address);
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let none = || match (nature.own_network, &context.config.bridged) {
        (true, None) => format!(
            "Failed to create pod sandbox: pods with a network of their own cannot have addresses of {}: start the \
             server with --pod-cidr 100.96.0.0/11 --service-cidr 100.64.0.0/16 and an empty data directory (coracle \
             up --docker does so by itself), or let the pod use hostNetwork",
            context.config.pod_cidr
        ),
        _ => format!("Failed to create pod sandbox: no address of {} is free", context.config.pod_cidr),
    };
    context.addresses.allocate(uid, nature.own_network).ok_or_else(none)
}

fn sandbox_spec(context: &Context, pod: &core::Pod, ip: IpAddr, isolation: Isolation) -> SandboxSpec {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    SandboxSpec {
        uid: text(&meta.uid),
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        hostname: spec.and_then(|spec| spec.hostname.clone()).unwrap_or_else(|| text(&meta.name)),
        ip,
        memory_limit: spec.and_then(|spec| limit_units(spec, "memory")),
        cpu_limit_millis: spec.and_then(|spec| limit_millis(spec, "cpu")),
        isolation,
        outbound: context.outbound.clone(),
        linux: linux::sandbox(pod, context.resolver(pod)),
    }
}

/// What a container keeps from one life to the next, so that a restart looks up nothing.
#[derive(Default, Clone)]
pub struct Kept {
    pub image: Option<Arc<dyn Image>>,
    /// What the status calls the image.
    pub image_id: String,
    pub startup: Arc<Startup>,
    /// Held, not read: their watches go on, and the next life finds the answers there.
    pub _objects: Vec<Arc<Tracked>>,
}

/// A container that has been started.
pub struct Launched {
    pub container: Arc<dyn Container>,
    pub log: Arc<ContainerLog>,
    pub console: Arc<Console>,
    pub last_words: LastWords,
    pub kept: Kept,
    /// What its figures are told under.
    pub about: About,
    /// What its runtime calls it.
    pub id: Option<String>,
    /// Since when it runs, if it was found rather than started.
    pub found: Option<SystemTime>,
}

/// Which life of which container to start, and in what.
pub struct Launch {
    pub pod: Arc<core::Pod>,
    pub index: Index,
    pub run: u32,
    pub ip: IpAddr,
    pub runtime: Arc<dyn Runtime>,
    pub sandbox: Arc<dyn Sandbox>,
    pub volumes: Arc<PodVolumes>,
    pub log_dir: String,
    pub kept: Kept,
}

impl Launch {
    /// Starts the container's life.
    pub async fn go(self, context: &Context) -> Result<Launched, Refusal> {
        let began = SystemTime::now();
        let container = Plan::container(&self.pod, self.index)
            .ok_or_else(|| config("CreateContainerError", "the container is not in the pod's spec".to_owned()))?;
        let container = container.as_ref();
        let added = Plan::ephemeral(&self.pod, self.index);
        let target = added.map_or(Ok(None), |added| self.target_of(added))?;
        let instances =
            instances::policy(&self.pod, &container.name).map_err(|why| config("CreateContainerConfigError", why))?;
        let role =
            compose::role(&self.pod, &container.name).map_err(|why| config("CreateContainerConfigError", why))?;
        let providers = match role {
            // The pod's program is none of its.
            _ if added.is_some() => Vec::new(),
            Role::Runs(providers) => providers,
            Role::Provides => return self.provide(context, container).await,
        };
        // Before the line: who waits for a registry keeps nobody from starting.
        let (image, image_id, startup) = self.image(context, container, &providers).await?;
        // A restart in place does not stand in line behind first starts.
        let _place = if self.run == 0 { context.starting.acquire().await.ok() } else { None };
        let (found, objects) = self.lookup(context, container).await?;
        let fields = context.fields(&self.pod, self.ip);
        let config_error = |why| config("CreateContainerConfigError", why);
        let mut env = env::environment(&fields, container, &context.services.list(), &found).map_err(config_error)?;
        let args = self.arguments(container, &env, &startup);
        env::add_of_image(&mut env, &startup);
        let mut mounts =
            self.volumes.mounts(container, &env, self.runtime.nature().mounts_files).map_err(config_error)?;
        let log = context.logs.open(&self.log_dir, &container.name, self.run);
        let console = Console::new(log.clone(), container);
        let last_words = self.last_words(context, container, &mut mounts, &log).map_err(config_error)?;
        let spec = ContainerSpec {
            name: container.name.clone(),
            image: image.clone(),
            args,
            env: env.into_iter().collect(),
            deferred: self.deferred(&mounts),
            mounts,
            memory_limit: limit_units(container, "memory"),
            cpu_limit_millis: limit_millis(container, "cpu"),
            cpu_request_millis: request_millis(container, "cpu"),
            output: console.clone(),
            grants: grants::of(&self.pod, &found).map_err(config_error)?,
            instances,
            run: self.run,
            linux: linux::container(&self.pod, container, context.allocatable.memory_bytes),
            target,
        };
        let started = self.sandbox.start(&spec).await.map_err(refused)?;
        if added.is_some() && started.http().is_some() {
            started.stop(Duration::ZERO).await;
            let message = "its image serves HTTP, and the pod's address belongs to the pod's own containers: an \
                           ephemeral container can be a command, which is attached to"
                .to_owned();
            return Err(Refusal { kind: RefusalKind::Run, reason: "RunContainerError", message });
        }
        self.post_start(context, container, &started).await?;
        let found = match &*started.state().borrow() {
            RunState::Running { started_at } => Some(*started_at).filter(|at| *at < began),
            RunState::Exited(exit) => Some(exit.started_at).filter(|at| *at < began),
        };
        let id = started.id();
        let about = self.about(container, id.clone());
        let kept = Kept { image: Some(image), image_id, startup, _objects: objects };
        Ok(Launched { about, id, found, container: started, log, console, last_words, kept })
    }

    /// The container whose processes one that is added is to see.
    fn target_of(&self, added: &core::EphemeralContainer) -> Result<Option<String>, Refusal> {
        let target = added.target_container_name.clone().filter(|name| !name.is_empty());
        match target {
            Some(target) if !self.runtime.nature().has_processes => Err(config(
                "CreateContainerConfigError",
                format!(
                    "targetContainerName {target:?}: the containers of this pod are instances of modules and no processes, \
                     so there are none to see; without it (kubectl debug without --target) an ephemeral container shares \
                     the pod's network, limits and, where it mounts them, its volumes"
                ),
            )),
            target => Ok(target),
        }
    }

    /// Starts a container whose image is a part of others: its image is looked for, and no more.
    async fn provide(&self, context: &Context, container: &core::Container) -> Result<Launched, Refusal> {
        let image_id = match self.kept.image_id.as_str() {
            "" => self.find(context, container).await?.id,
            known => known.to_owned(),
        };
        let log = context.logs.open(&self.log_dir, &container.name, self.run);
        let console = Console::new(log.clone(), container);
        let last_words = self.last_words(context, container, &mut Vec::new(), &log);
        let last_words = last_words.map_err(|why| config("CreateContainerConfigError", why))?;
        let kept = Kept { image_id, ..Kept::default() };
        let about = self.about(container, None);
        let container = Provider::start();
        Ok(Launched { about, id: None, found: None, container, log, console, last_words, kept })
    }

    fn deferred(&self, mounts: &[Mount]) -> Option<Arc<dyn DeferredMounts>> {
        self.volumes.has_deferred(mounts).then(|| self.volumes.clone() as Arc<dyn DeferredMounts>)
    }

    /// argv. What names no program is called by the container's name, where a program is not a file.
    fn arguments(&self, container: &core::Container, env: &BTreeMap<String, String>, image: &Startup) -> Vec<String> {
        let bare = self.runtime.images().is_none().then_some(container.name.as_str());
        env::arguments(container, env, image, bare)
    }

    fn about(&self, container: &core::Container, id: Option<String>) -> About {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        About {
            name: container.name.clone(),
            id: id.unwrap_or_else(|| status::container_id(self.runtime.name(), uid, &container.name, self.run)),
            image: container.image.clone().unwrap_or_default(),
            started_at: SystemTime::now(),
            memory_limit: limit_units(container, "memory"),
            cpu_limit_millis: limit_millis(container, "cpu"),
        }
    }

    fn last_words(
        &self,
        context: &Context,
        container: &core::Container,
        mounts: &mut Vec<Mount>,
        log: &Arc<ContainerLog>,
    ) -> Result<LastWords, String> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let own = context.volumes.own_dir(uid, "termination").join(&container.name);
        let place = termination::place(container, mounts, own, self.runtime.nature().mounts_files)?;
        let dir = context.logs.container_dir(&self.log_dir, &container.name);
        Ok(LastWords::new(container, place, log.clone(), dir, self.run))
    }

    /// Runs the `postStart` hook: the container counts as started after it, and ends if it fails.
    async fn post_start(
        &self,
        context: &Context,
        container: &core::Container,
        started: &Arc<dyn Container>,
    ) -> Result<(), Refusal> {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let target = target(container, self.ip, started.http(), Some(started.clone()));
        let Err(why) = run_hook(hook, &target, POST_START_LIMIT).await else { return Ok(()) };
        let message = format!("PostStartHook failed: {why}");
        let reason = "FailedPostStartHook";
        context.tell(&self.pod, &Note { index: Some(self.index), warning: true, reason, message: message.clone() });
        started.stop(Duration::ZERO).await;
        Err(Refusal { kind: RefusalKind::Run, reason: "PostStartHookError", message })
    }

    async fn lookup(
        &self,
        context: &Context,
        container: &core::Container,
    ) -> Result<(Found, Vec<Arc<Tracked>>), Refusal> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let (mut found, mut objects) = (Found::new(), Vec::new());
        for name in env::references(namespace, container).into_iter().chain(grants::references(&self.pod)) {
            let tracked = context.objects.track(&name);
            match tracked.get().await {
                Lookup::Found(data) => {
                    found.insert(name, data);
                }
                Lookup::Missing => {}
                Lookup::Pending => {
                    let why = format!("failed to sync {} cache: timed out waiting for \"{}\"", name.kind, name.name);
                    return Err(config("CreateContainerConfigError", why));
                }
            }
            objects.push(tracked);
        }
        Ok((found, objects))
    }
}

fn config(reason: &'static str, message: String) -> Refusal {
    Refusal { kind: RefusalKind::Config, reason, message }
}

fn refused(error: StartError) -> Refusal {
    match error {
        StartError::MissingImport(message) | StartError::NotMade(message) => config("CreateContainerError", message),
        StartError::Other(message) => Refusal { kind: RefusalKind::Run, reason: "RunContainerError", message },
    }
}

/// Runs a container's `preStop` hook within `limit`. A hook that fails holds nothing up; an event says so.
pub async fn pre_stop(context: &Context, pod: &core::Pod, index: Index, target: Target, limit: Duration) {
    let hook = Plan::container(pod, index).and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone());
    let Some(hook) = hook else { return };
    if let Err(why) = run_hook(&hook, &target, limit).await {
        let message = format!("PreStopHook failed: {why}");
        context.tell(pod, &Note { index: Some(index), warning: true, reason: "FailedPreStopHook", message });
    }
}

async fn run_hook(hook: &core::LifecycleHandler, target: &Target, limit: Duration) -> Result<(), String> {
    let run = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            Answer::Success
        } else if let Some(action) = &hook.http_get {
            probes::http_get(action, target).await
        } else if let Some(action) = &hook.exec {
            probes::exec(action, target).await
        } else {
            Answer::Success
        }
    };
    match tokio::time::timeout(limit, run).await {
        Ok(Answer::Success) => Ok(()),
        Ok(Answer::Failure(why) | Answer::Unknown(why)) => Err(why),
        Err(_) => Err(format!("it took longer than {}", super::backoff::go_duration(limit))),
    }
}

/// The port of an HTTP container that declares none.
pub const DEFAULT_PORT: u16 = 8080;

/// The TCP ports that a container declares.
pub fn declared_ports(container: &core::Container) -> Vec<u16> {
    let ports = container.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

/// What probes and hooks of a container ask.
pub fn target(
    container: &core::Container,
    pod_ip: IpAddr,
    http: Option<Arc<dyn HttpService>>,
    running: Option<Arc<dyn Container>>,
) -> Target {
    let ports = container.ports.iter().flatten();
    let named = ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
    let mut served = declared_ports(container);
    if served.is_empty() {
        served.push(DEFAULT_PORT);
    }
    let running = running.map(|running| (running, command::names(container)));
    Target { pod_ip, http, served, named: named.collect(), running }
}
