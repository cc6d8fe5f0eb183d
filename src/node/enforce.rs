//! Keeps the policies that the node's network enforces in step with NetworkPolicies and those whom they
//! name.
//!
//! Most clusters have no policy, and then nothing but their absence is watched. The first one makes the node
//! watch all pods, namespaces and nodes. A pod of this node is announced before anything of it runs, so that
//! it is held to its policies from its first packet, although its address is not in its status yet. Pods
//! whose packets the node does not see are given their rules through their [`Sandbox`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use super::routes::{GATHER, prompt};
use crate::kinds::placement::is_over;
use crate::network::{Network, PlacedPod, Policies, PolicyObjects};
use crate::reconcile::{Cluster, Shared};
use crate::runtime::Sandbox;
use crate::wire::confinement::Confinement;

/// Rules that could not be given are tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Sandboxes that are given rules at the same time.
const AT_ONCE: usize = 4;
/// When it is said that policies cannot be read, which keeps all else from beginning.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the node knows of policies and those whom they concern.
pub struct Enforcer {
    cluster: Cluster,
    policies: Shared<NetworkPolicy>,
    /// The node's own addresses.
    own: Vec<IpNet>,
    services: IpNet,
    /// Where the cluster's names are asked for.
    dns: Option<IpAddr>,
    /// By uid.
    announced: DashMap<String, PlacedPod>,
    sandboxes: DashMap<String, Arc<Confined>>,
    changed: Arc<Notify>,
    /// Counts announcements.
    announcements: AtomicU64,
    /// How many of them the policies in force know; `None` before the first.
    enforced: watch::Sender<Option<u64>>,
}

/// All that policies may name.
struct Named {
    pods: Shared<Pod>,
    namespaces: Shared<Namespace>,
    nodes: Shared<Node>,
}

/// A pod that is given its rules.
struct Confined {
    ip: IpAddr,
    sandbox: Weak<dyn Sandbox>,
    /// What it was given last; `None`: nothing yet.
    given: Mutex<Option<Option<Confinement>>>,
}

impl Enforcer {
    pub fn new(cluster: &Cluster, own: Vec<IpNet>, services: IpNet, dns: Option<IpAddr>) -> Enforcer {
        let changed = Arc::new(Notify::new());
        let policies = cluster.watch();
        prompt(&policies, &changed, |_, _| true);
        Enforcer {
            cluster: cluster.clone(),
            policies,
            own,
            services,
            dns,
            announced: DashMap::new(),
            sandboxes: DashMap::new(),
            changed,
            announcements: AtomicU64::new(0),
            enforced: watch::Sender::new(None),
        }
    }

    /// Puts policies in force after every change, until shutdown.
    pub async fn run(&self, network: &Network, shutdown: &CancellationToken) {
        let work = async {
            self.read_policies().await;
            let mut named = None;
            loop {
                // Whoever is announced from here on is in the next.
                let known = self.announcements.load(Ordering::Acquire);
                network.enforce(Policies::build(&self.objects(&mut named).await));
                self.enforced.send_replace(Some(known));
                self.changed.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Gives rules to the pods that need them whenever these change, until shutdown.
    pub async fn confine_all(&self, network: &Network, shutdown: &CancellationToken) {
        let mut enforced = self.enforced.subscribe();
        let work = async {
            loop {
                let sandboxes: Vec<Arc<Confined>> = self.sandboxes.iter().map(|one| one.value().clone()).collect();
                let given = futures::stream::iter(sandboxes).map(|one| async move { one.give(network).await });
                let failures = given.buffer_unordered(AT_ONCE).filter_map(|given| async move { given.err() });
                let failures: Vec<String> = failures.collect().await;
                for why in &failures {
                    tracing::warn!("a pod is not held to its present NetworkPolicies: {why}");
                }
                let again = async {
                    match failures.is_empty() {
                        true => std::future::pending().await,
                        false => tokio::time::sleep(TRY_AGAIN).await,
                    }
                };
                tokio::select! {
                    changed = enforced.changed() => if changed.is_err() { return },
                    () = again => {}
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Returns when the first policies are in force.
    pub async fn began(&self) {
        // An error means that the sender is gone, which this handle excludes.
        let _ = self.enforced.subscribe().wait_for(Option::is_some).await;
    }

    /// A pod of this node is to have this address; returns when the policies in force know it.
    pub async fn announce(&self, pod: &Arc<Pod>, ip: IpAddr) {
        let Some(uid) = pod.metadata.uid.clone().filter(|_| !is_of_the_machine(pod)) else { return };
        self.announced.insert(uid, PlacedPod { pod: pod.clone(), ips: vec![ip] });
        let wanted = self.announcements.fetch_add(1, Ordering::AcqRel) + 1;
        // Without policies there is nothing to be known of it.
        if self.enforced.borrow().is_some() && self.policies.is_empty() {
            return;
        }
        self.changed.notify_one();
        let _ = self.enforced.subscribe().wait_for(|known| known.is_some_and(|known| known >= wanted)).await;
    }

    /// Gives an announced pod its rules, now and whenever they change; to be done before anything runs in it.
    ///
    /// # Errors
    /// Why they could not be given: then nothing may run there.
    pub async fn confine(&self, network: &Network, uid: &str, sandbox: &Arc<dyn Sandbox>) -> Result<(), String> {
        let Some(ip) = self.announced.get(uid).and_then(|placed| placed.ips.first().copied()) else { return Ok(()) };
        let confined = Arc::new(Confined { ip, sandbox: Arc::downgrade(sandbox), given: Mutex::default() });
        // Known first: what changes from here on is given to it, too.
        self.sandboxes.insert(uid.to_owned(), confined.clone());
        confined.give(network).await
    }

    /// The pod has its address no more.
    pub fn withdraw(&self, uid: &str) {
        self.sandboxes.remove(uid);
        if self.announced.remove(uid).is_some() && !self.policies.is_empty() {
            self.changed.notify_one();
        }
    }

    async fn read_policies(&self) {
        if tokio::time::timeout(PATIENCE, self.policies.synced()).await.is_err() {
            tracing::warn!(
                "the API server does not tell which NetworkPolicies there are; pods and requests wait for them. The \
                 node must be allowed to get, list and watch networkpolicies of networking.k8s.io"
            );
            self.policies.synced().await;
        }
    }

    async fn objects(&self, named: &mut Option<Named>) -> PolicyObjects {
        let policies = self.policies.list();
        if policies.is_empty() {
            *named = None;
            return PolicyObjects::default();
        }
        if named.is_none() {
            *named = Some(Named::watch(&self.cluster, &self.changed));
        }
        let Some(named) = named else { return PolicyObjects::default() };
        named.synced().await;
        let announced = self.announced.iter().map(|one| (one.key().clone(), one.value().clone())).collect();
        let mut nodes = self.own.clone();
        nodes.extend(named.nodes.list().iter().flat_map(|node| addresses_of(node)).map(IpNet::from));
        PolicyObjects {
            policies,
            namespaces: named.namespaces.list(),
            pods: placed(named.pods.list(), announced),
            nodes,
            services: Some(self.services),
            dns: self.dns,
        }
    }
}

impl Named {
    fn watch(cluster: &Cluster, changed: &Arc<Notify>) -> Named {
        let named = Named { pods: cluster.watch(), namespaces: cluster.watch(), nodes: cluster.watch() };
        prompt(&named.pods, changed, |old: Option<&Pod>, new: Option<&Pod>| matters(old) != matters(new));
        let labels = |namespace: Option<&Namespace>| namespace.map(|one| one.metadata.labels.clone());
        prompt(&named.namespaces, changed, move |old, new| labels(old) != labels(new));
        let addresses = |node: Option<&Node>| node.map(addresses_of);
        prompt(&named.nodes, changed, move |old, new| addresses(old) != addresses(new));
        named
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.nodes.synced().await;
    }
}

impl Confined {
    /// Gives the pod the rules of now, unless it has them.
    async fn give(&self, network: &Network) -> Result<(), String> {
        let mut given = self.given.lock().await;
        let wanted = network.policies().confinement(self.ip);
        let Some(sandbox) = self.sandbox.upgrade().filter(|_| given.as_ref() != Some(&wanted)) else { return Ok(()) };
        sandbox.confine(wanted.as_ref()).await?;
        *given = Some(wanted);
        Ok(())
    }
}

/// Labels, whether it is over, addresses.
type Seen<'a> = (Option<&'a BTreeMap<String, String>>, bool, Vec<IpAddr>);

/// What policies see of a pod.
fn matters(pod: Option<&Pod>) -> Option<Seen<'_>> {
    pod.map(|pod| (pod.metadata.labels.as_ref(), is_over(pod), ips_of(pod)))
}

fn is_of_the_machine(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

fn ips_of(pod: &Pod) -> Vec<IpAddr> {
    let of = |status: &PodStatus| -> Vec<IpAddr> {
        let all = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
        let mut ips: Vec<IpAddr> = all.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
        ips.dedup();
        ips
    };
    pod.status.as_ref().map(of).unwrap_or_default()
}

fn addresses_of(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter_map(|address| address.address.parse().ok()).collect()
}

/// The pods that have addresses of their own: what was announced here is newer than what a status says.
fn placed(pods: Vec<Arc<Pod>>, mut announced: HashMap<String, PlacedPod>) -> Vec<PlacedPod> {
    let taken: HashMap<IpAddr, String> =
        announced.iter().flat_map(|(uid, one)| one.ips.iter().map(|ip| (*ip, uid.clone()))).collect();
    let mut placed = Vec::with_capacity(pods.len());
    for pod in pods.into_iter().filter(|pod| !is_of_the_machine(pod)) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let ips = match announced.remove(uid) {
            Some(here) => here.ips,
            None if is_over(&pod) => continue,
            // An address that another pod has now was this one's before.
            None => ips_of(&pod).into_iter().filter(|ip| !taken.contains_key(ip)).collect(),
        };
        if !ips.is_empty() {
            placed.push(PlacedPod { pod, ips });
        }
    }
    placed.extend(announced.into_values());
    placed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, ip: &str, more: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"uid": uid, "name": uid}, "spec": {"containers": []},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            pod[key] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn what_was_announced_here_is_newer_than_a_status() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let announced =
            |uid: &str, at: &str| (uid.to_owned(), PlacedPod { pod: pod(uid, "", json!({})), ips: vec![ip(at)] });
        let pods = vec![
            pod("running", "10.0.0.1", json!({})),
            pod("over", "10.0.0.2", json!({"status": {"phase": "Succeeded", "podIP": "10.0.0.2"}})),
            pod("machine", "192.0.2.1", json!({"spec": {"hostNetwork": true, "containers": []}})),
            pod("waiting", "", json!({"status": {}})),
            pod("gone", "10.0.0.4", json!({})),
        ];
        let placed = placed(pods, HashMap::from([announced("waiting", "10.0.0.3"), announced("unseen", "10.0.0.4")]));
        let mut found: Vec<(String, Vec<IpAddr>)> =
            placed.into_iter().map(|one| (one.pod.metadata.uid.clone().unwrap_or_default(), one.ips)).collect();
        found.sort();
        let wanted = [("running", "10.0.0.1"), ("unseen", "10.0.0.4"), ("waiting", "10.0.0.3")];
        assert_eq!(found, wanted.map(|(uid, at)| (uid.to_owned(), vec![ip(at)])));
    }
}
