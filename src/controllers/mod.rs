//! The controllers: what makes the cluster's state become what was asked for.
//!
//! One file or folder a controller, and one row in [`CONTROLLERS`]. A controller reads the shared
//! watches, plans purely and lets the executor of [`crate::reconcile`] write; it keeps no state that a
//! restart would miss. What they have in common is in `pods`, `nodes` and `diff`. They talk to the API
//! server only, and never to each other: the objects in between are the interface.

mod addresses;
mod api_services;
mod autoscaler;
mod certificates;
mod claim;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod diff;
mod disruption;
mod endpoints;
mod flow_schemas;
mod garbage;
mod history;
mod ingress_status;
mod job;
mod namespace;
mod node_lifecycle;
mod nodes;
mod pod_gc;
mod pods;
mod policy_status;
mod ranges;
mod rank;
mod replica_set;
mod resources;
mod root_ca;
mod service_account;
mod stateful_set;
mod token_cleaner;
mod volumes;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use tokio::task::JoinSet;

use crate::kinds::service_cidr::Ranges;
use crate::reconcile::{Cluster, run as run_reconciler};
pub use certificates::{Sign, Signer};

/// What the controllers need to know besides the cluster's state.
#[derive(Debug, Clone, Default)]
pub struct ControllerConfig {
    /// The certificates by which workloads recognise the API server, as PEM.
    pub root_ca_pem: String,
    /// What makes certificates of approved requests; without it they wait for somebody else.
    pub signer: Signer,
    /// Where Services and pods get their addresses from; without it no further ServiceCIDR is used.
    pub ranges: Option<Ranges>,
}

/// A row of the table.
pub struct Controller {
    pub name: &'static str,
    start: fn(Cluster, &ControllerConfig) -> BoxFuture<'static, ()>,
}

/// Keys that one controller looks at beside each other. Plans take microseconds; what takes time is
/// the waiting for writes.
const WORKERS: usize = 32;

/// Every controller there is.
pub static CONTROLLERS: &[Controller] = &[
    Controller {
        name: "deployment",
        start: |cluster, _| {
            let controller = deployment::Deployments::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "replicaset",
        start: |cluster, _| {
            let controller = replica_set::ReplicaSets::<ReplicaSet>::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "replicationcontroller",
        start: |cluster, _| {
            let controller = replica_set::ReplicaSets::<ReplicationController>::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "daemonset",
        start: |cluster, _| {
            let controller = daemon_set::DaemonSets::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "statefulset",
        start: |cluster, _| {
            let controller = stateful_set::StatefulSets::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "job",
        start: |cluster, _| {
            let controller = job::Jobs::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "cronjob",
        start: |cluster, _| {
            let controller = cron_job::CronJobs::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "endpointslice",
        start: |cluster, _| {
            let controller = endpoints::slices::Slices::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "endpoints",
        start: |cluster, _| {
            let controller = endpoints::legacy::Legacy::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "endpointslice-mirroring",
        start: |cluster, _| {
            let controller = endpoints::mirror::Mirror::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller { name: "namespace", start: |cluster, _| Box::pin(namespace::run(cluster)) },
    Controller {
        name: "serviceaccount",
        start: |cluster, _| {
            let controller = service_account::ServiceAccounts::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "root-ca",
        start: |cluster, config| {
            let controller = root_ca::RootCa::new(&cluster, &config.root_ca_pem);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "ingress-status",
        start: |cluster, _| {
            let controller = ingress_status::IngressStatuses::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "clusterrole-aggregation",
        start: |cluster, _| {
            let controller = cluster_role_aggregation::Aggregation::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, 1))
        },
    },
    Controller {
        name: "persistentvolume",
        start: |cluster, _| {
            let controller = volumes::Volumes::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "disruption",
        start: |cluster, _| {
            let controller = disruption::Budgets::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller { name: "horizontal-pod-autoscaler", start: |cluster, _| Box::pin(autoscaler::run(cluster)) },
    Controller {
        name: "validatingadmissionpolicy-status",
        start: |cluster, _| {
            let controller = policy_status::PolicyStatuses::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, 1))
        },
    },
    Controller {
        name: "certificates",
        start: |cluster, config| Box::pin(certificates::run(cluster, config.signer.clone())),
    },
    Controller {
        name: "ip-addresses",
        start: |cluster, _| {
            let controller = addresses::Addresses::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "service-cidrs",
        start: |cluster, config| {
            let controller = ranges::ServiceRanges::new(&cluster, config.ranges);
            Box::pin(run_reconciler(cluster, controller, 1))
        },
    },
    Controller {
        name: "flow-schemas",
        start: |cluster, _| {
            let controller = flow_schemas::FlowSchemas::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, 1))
        },
    },
    Controller { name: "apiservice-status", start: |cluster, _| Box::pin(api_services::run(cluster)) },
    Controller { name: "garbage", start: |cluster, _| Box::pin(garbage::run(cluster)) },
    Controller {
        name: "node-lifecycle",
        start: |cluster, _| {
            let controller = node_lifecycle::NodeLifecycle::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
    Controller {
        name: "token-cleaner",
        start: |cluster, _| {
            let controller = token_cleaner::TokenCleaner::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, 1))
        },
    },
    Controller {
        name: "pod-gc",
        start: |cluster, _| {
            let controller = pod_gc::PodGc::new(&cluster);
            Box::pin(run_reconciler(cluster, controller, WORKERS))
        },
    },
];

/// The running controllers. Dropping it stops them.
#[must_use = "the controllers stop when this is dropped"]
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
}

impl Running {
    /// Waits until a controller ends, which none does by itself: it has panicked, and the process
    /// should be started anew.
    pub async fn failed(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Starts every controller; needs a tokio runtime around it.
pub fn run(cluster: &Cluster, config: &ControllerConfig) -> Running {
    let mut tasks = JoinSet::new();
    for controller in CONTROLLERS {
        tracing::debug!(controller = controller.name, "starting");
        tasks.spawn((controller.start)(cluster.clone(), config));
    }
    Running { tasks }
}
