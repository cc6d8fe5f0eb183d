//! The node agent: the kubelet's role.
//!
//! It owns what happens on one machine: which pods run here, their addresses, volumes, logs and
//! probes, what the API is told of them, and when a container is started again. It decides in pure
//! code and acts at the edge, through a [`crate::runtime::Runtime`] and the node's
//! [`crate::network`].
//!
//! It refuses to hold truth of its own. Which pods exist is what the API says; what is on the disk
//! are volumes, logs and caches, all of which may vanish. After the process was killed it finds its
//! pods, with their addresses and restart counts, in their status. While the API server is away it
//! changes nothing: pods run on, and restart in place, with what was last known.

mod agent;
mod api;
mod atomic_dir;
mod backoff;
mod choose;
mod claims;
mod command;
mod compose;
mod config;
mod console;
mod context;
mod enforce;
mod env;
mod evict;
mod fallback;
mod fields;
mod fs_group;
mod grants;
mod grpc_health;
mod heartbeat;
mod image_gc;
mod images;
mod instances;
mod ip;
mod isolation;
mod launch;
mod linux;
mod local_images;
mod log_reader;
mod logs;
mod machine;
mod metrics;
mod objects;
mod payload;
mod plan;
mod pod;
mod policy;
mod presence;
mod pressure;
mod probes;
mod pull_secrets;
mod recover;
mod recovery;
mod reference;
mod resolver;
mod routes;
mod server;
mod serving;
mod status;
mod stored_images;
mod streams;
mod summary;
mod termination;
mod tls;
mod tokens;
mod usage;
mod volumes;
mod worker;
mod writer;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::network::{Network, NetworkConfig};
use crate::oci::Puller;
use crate::reconcile::{Cluster, Recorder, Selection, Shared};
use crate::runtime::Runtime;
use agent::Agent;
pub use config::{Bridged, NodeConfig, NodeTls, Thresholds};
use context::{Context, Register};
use enforce::Enforcer;
use heartbeat::Heartbeat;
pub use image_gc::ImageGc;
use presence::Presence;
use routes::Routes;
use server::NodeApi;
pub use streams::spdy;

/// The tenth address of those of Services, as elsewhere.
pub const DNS_HOST: usize = 9;
/// How long requests in flight may take when the node stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Runs a node until `shutdown`: builds, binds, then spawns. Returns once everything has stopped.
///
/// # Errors
/// What keeps the node from starting: a directory that cannot be made, an address that cannot be
/// bound, a certificate that cannot be read.
pub async fn run(
    config: NodeConfig,
    client: kube::Client,
    runtimes: Vec<Arc<dyn Runtime>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let cluster = Cluster::new(client.clone());
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the node's directory {}", config.data_dir.display()))?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} for the node's API", config.listen))?;
    let (tls, server_tls) = (tls::client(&config.tls)?, tls::server(&config.tls)?);
    let runtime = runtimes.first().context("a node needs at least one runtime")?;
    let handlers = runtimes.iter().map(|runtime| runtime.name().to_owned()).collect();
    let bound = listener.local_addr()?;
    let heartbeat = Arc::new(Heartbeat::new(client.clone(), config.clone(), bound, runtime.version(), handlers));
    let pods: Shared<Pod> = cluster.watch_selected(Selection::fields(format!("spec.nodeName={}", config.name)));
    let network = bind_network(&config, &pods).await?;
    let context = Arc::new(context(&config, &cluster, runtimes, network.clone(), &heartbeat)?);

    let mut tasks = tokio::task::JoinSet::new();
    // The pods end after the network: requests in flight are answered by them.
    let stop_pods = CancellationToken::new();
    tasks.spawn(Agent::new(context.clone(), pods.clone()).run(stop_pods.clone()));
    tasks.spawn(usage::run(context.clone(), shutdown.clone()));
    tasks.spawn(evict::run(context.clone(), pods.clone(), heartbeat.clone(), shutdown.clone()));
    tasks.spawn(image_gc::run(context.clone(), pods.clone(), shutdown.clone()));
    tasks.spawn(claims::run(context.clone(), shutdown.clone()));
    let sessions = streams::Sessions::new(shutdown.clone());
    let api = NodeApi { context: context.clone(), pods, sessions, started_at: SystemTime::now() };
    tasks.spawn(server::serve(listener, server_tls, api, shutdown.clone()));
    for work in [Work::Policies, Work::Confinement, Work::Routes] {
        let (context, stop) = (context.clone(), shutdown.clone());
        tasks.spawn(async move { work.run(&context, &stop).await });
    }
    tasks.spawn(alive(heartbeat, config, tls, shutdown.clone()));

    shutdown.cancelled().await;
    network.shutdown(SHUTDOWN_GRACE).await;
    stop_pods.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the node panicked")?;
    }
    for runtime in &context.runtimes {
        runtime.shutdown().await;
    }
    Ok(())
}

/// What keeps the network in step with the API.
#[derive(Clone, Copy)]
enum Work {
    Policies,
    Confinement,
    Routes,
}

impl Work {
    async fn run(self, context: &Context, stop: &CancellationToken) {
        let (network, enforcer) = (&context.network, &context.enforcer);
        match self {
            Work::Policies => enforcer.run(network, stop).await,
            Work::Confinement => enforcer.confine_all(network, stop).await,
            Work::Routes => {
                // Nothing leads anywhere before it is known who may go there.
                tokio::select! {
                    () = enforcer.began() => context.routes.run(network, stop).await,
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

fn enforcer(cluster: &Cluster, config: &NodeConfig) -> Enforcer {
    let machine = [config.address, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let gateway = config.bridged.map(|bridged| bridged.gateway.into());
    let own = machine.into_iter().chain(gateway).map(IpNet::from);
    // Guests ask the node itself; policies speak of where others would ask.
    let dns = config.dns.or_else(|| config.service_cidr.hosts().nth(DNS_HOST));
    Enforcer::new(cluster, own.collect(), config.service_cidr, dns)
}

/// Registers, then tells the cluster that the node lives.
async fn alive(
    heartbeat: Arc<Heartbeat>,
    config: Arc<NodeConfig>,
    tls: Arc<rustls::ClientConfig>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = heartbeat.register() => {}
    }
    let presence = async {
        if let Some(server) = config.server.clone() {
            let node = config.name.clone();
            Presence { server, node, tls, heartbeat: heartbeat.clone() }.run(shutdown.clone()).await;
        }
    };
    tokio::join!(heartbeat.clone().run(shutdown.clone()), presence);
}

async fn bind_network(config: &NodeConfig, pods: &Shared<Pod>) -> anyhow::Result<Arc<Network>> {
    let network = Network::bind(NetworkConfig {
        ingress: config.ingress,
        services: true,
        dns: config.dns,
        node_port_ip: config.address,
        threads: 0,
        policy: Arc::new(policy::Annotated { pods: pods.clone(), inside: vec![config.pod_cidr, config.service_cidr] }),
        roots: None,
    });
    Ok(Arc::new(network.await?))
}

fn context(
    config: &Arc<NodeConfig>,
    cluster: &Cluster,
    runtimes: Vec<Arc<dyn Runtime>>,
    network: Arc<Network>,
    heartbeat: &Heartbeat,
) -> anyhow::Result<Context> {
    let client = cluster.client().clone();
    let objects = Arc::new(objects::Objects::new(client.clone()));
    let tokens = tokens::Tokens::new(client.clone());
    let claims = claims::Claims::new(client.clone(), config.data_dir.join("volumes"));
    let logs = config.data_dir.join("logs");
    let pulled = config.data_dir.join("pulled");
    let puller = Puller::open(&pulled, config.trust.clone())
        .with_context(|| format!("cannot keep images in {}", pulled.display()))?;
    Ok(Context {
        runtimes,
        classes: cluster.watch(),
        services: cluster.watch(),
        recorder: Recorder::start(client.clone(), "kubelet", &config.name),
        images: images::Images::new(config.images_dirs.clone(), Some(puller)),
        volumes: Arc::new(volumes::Volumes::new(config.data_dir.join("pods"), objects.clone(), tokens, claims)),
        objects,
        logs: logs::Logs::start(logs.clone()).with_context(|| format!("cannot keep logs in {}", logs.display()))?,
        addresses: ip::Addresses::new(config.pod_cidr, config.bridged.as_ref())?,
        outbound: network.outbound(),
        network,
        routes: Arc::new(Routes::new(cluster, &config.name)),
        enforcer: enforcer(cluster, config),
        allocatable: heartbeat.allocatable(),
        machine: machine::Machine::new(&config.data_dir),
        starting: Context::starting(),
        writing: Context::writing(),
        recovery: recovery::Recovery::default(),
        register: Register::default(),
        client,
        config: config.clone(),
    })
}
