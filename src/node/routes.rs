//! Keeps the node's routing table in step with Services, EndpointSlices and Ingresses.
//!
//! Changes are gathered while a table is being built, so that a rollout of a thousand pods costs some
//! tables rather than thousands. Who ends a pod asks here whether its endpoints have left the table
//! ([`Routes::left`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::network::{Network, Objects, RouteTable};
use crate::reconcile::{Cluster, Shared, Watched};

/// The index of slices by the addresses of their ready endpoints.
const READY_ADDRESS: &str = "ready-address";
/// After a change, so long for others to come with it. Far less than anybody notices.
pub const GATHER: Duration = Duration::from_millis(1);
/// Other nodes see a slice's change about when this one does; a call that one of them sent a moment
/// before is on its way.
const MARGIN: Duration = Duration::from_millis(50);
/// If the endpoints do not leave (no controller is at work), a pod does not wait for them for ever.
const LEAVE_AT_MOST: Duration = Duration::from_secs(2);

/// The sources of the table.
pub struct Routes {
    services: Shared<Service>,
    slices: Shared<EndpointSlice>,
    ingresses: Shared<Ingress>,
    classes: Shared<IngressClass>,
    node: String,
    changed: Arc<Notify>,
    /// Counts tables put in force.
    tables: watch::Sender<u64>,
}

impl Routes {
    pub fn new(cluster: &Cluster, node: &str) -> Routes {
        let routes = Routes {
            services: cluster.watch(),
            slices: cluster.watch(),
            ingresses: cluster.watch(),
            classes: cluster.watch(),
            node: node.to_owned(),
            changed: Arc::new(Notify::new()),
            tables: watch::Sender::new(0),
        };
        routes.slices.add_index(READY_ADDRESS, ready_addresses);
        prompt(&routes.services, &routes.changed, |_, _| true);
        prompt(&routes.slices, &routes.changed, |_, _| true);
        prompt(&routes.ingresses, &routes.changed, |_, _| true);
        prompt(&routes.classes, &routes.changed, |_, _| true);
        routes
    }

    /// Puts a table in force after every change, until shutdown.
    pub async fn run(&self, network: &Network, shutdown: &CancellationToken) {
        // Nothing is routed by half of what is known: ready endpoints without their Service, say.
        let synced = async {
            self.services.synced().await;
            self.slices.synced().await;
            self.ingresses.synced().await;
            self.classes.synced().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = synced => {}
        }
        loop {
            network.update(Arc::new(self.build(&network.table())));
            self.tables.send_modify(|count| *count += 1);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => tokio::time::sleep(GATHER).await,
            }
        }
    }

    fn build(&self, previous: &RouteTable) -> RouteTable {
        let (services, slices) = (self.services.list(), self.slices.list());
        let (ingresses, classes) = (self.ingresses.list(), self.classes.list());
        let objects = Objects {
            services: &services,
            slices: &slices,
            ingresses: &ingresses,
            classes: &classes,
            node: &self.node,
        };
        RouteTable::build(&objects, Some(previous))
    }

    /// Waits until nobody is sent to `ip` any more by a table of this node, and a little longer for the
    /// other nodes; at most half of `limit`.
    pub async fn left(&self, ip: IpAddr, limit: Duration) {
        let address = ip.to_string();
        let mut tables = self.tables.subscribe();
        let listed = || !self.slices.by_index(READY_ADDRESS, &address).is_empty();
        let leaving = async {
            while listed() {
                if tables.changed().await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(MARGIN).await;
        };
        // Whether they left or the time is up: the pod goes on ending either way.
        let _ = tokio::time::timeout(LEAVE_AT_MOST.min(limit / 2), leaving).await;
    }
}

/// Notifies of the changes that matter: an object before and after.
pub fn prompt<K: Watched>(
    shared: &Shared<K>,
    changed: &Arc<Notify>,
    matters: impl Fn(Option<&K>, Option<&K>) -> bool + Send + Sync + 'static,
) {
    // It ends with whoever waits for it.
    let changed = Arc::downgrade(changed);
    shared.on_change(move |old, new| {
        let Some(changed) = changed.upgrade() else { return false };
        if matters(old, new) {
            changed.notify_one();
        }
        true
    });
}

fn ready_addresses(slice: &EndpointSlice) -> Vec<String> {
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
}
