//! Where an Ingress is reached: `status.loadBalancer`, which is what `kubectl get ingress` shows as its
//! address.
//!
//! Every node that takes ingress traffic says so in an annotation of its Node; the addresses of those
//! that are ready are the Ingress's. An Ingress of another controller's class is left alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::{
    Ingress, IngressClass, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus,
};
use serde_json::json;

use super::diff::merge_patch;
use super::nodes::{self, Health};
use crate::kinds::ingress_class;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// Written by each node: where its ingress listens.
const ADDRESS_ANNOTATION: &str = "coracle.dev/ingress-address";

/// The controller. Its keys are Ingresses.
pub(super) struct IngressStatuses {
    ingresses: Shared<Ingress>,
    classes: Shared<IngressClass>,
    nodes: Shared<Node>,
}

/// An Ingress, and where it should be reached; `None`: it is not ours.
pub(super) struct View {
    ingress: Arc<Ingress>,
    addresses: Option<BTreeSet<String>>,
}

impl IngressStatuses {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { ingresses: cluster.watch(), classes: cluster.watch(), nodes: cluster.watch() }
    }

    /// A node that comes or goes concerns every Ingress, and so does a class.
    fn follow_all(&self, queue: &Queue) {
        let all = {
            let (queue, ingresses) = (queue.clone(), self.ingresses.clone());
            move || ingresses.keys().into_iter().for_each(|key| queue.add(key))
        };
        let again = all.clone();
        self.classes.on_change(move |_, _| {
            again();
            true
        });
        self.nodes.on_change(move |old, new| {
            if old.map(entrance) != new.map(entrance) {
                all();
            }
            true
        });
    }
}

impl Reconciler for IngressStatuses {
    type View = View;

    fn name(&self) -> &'static str {
        "ingress-status-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.ingresses);
        self.follow_all(queue);
    }

    async fn synced(&self) {
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.ingresses.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let ingress = self.ingresses.get(key)?;
        let ours = ingress_class::is_ours(&ingress, &self.classes.list());
        let addresses = ours.then(|| self.nodes.list().iter().filter_map(|node| entrance(node)).collect());
        Some(View { ingress, addresses })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

/// The address at which a ready node takes ingress traffic.
fn entrance(node: &Node) -> Option<String> {
    let address = node.metadata.annotations.as_ref()?.get(ADDRESS_ANNOTATION)?;
    let address: SocketAddr = address.parse().ok()?;
    if nodes::health(node) != Health::Ready {
        return None;
    }
    if !address.ip().is_unspecified() {
        return Some(address.ip().to_string());
    }
    let known = node.status.as_ref()?.addresses.as_ref()?;
    known.iter().find(|known| known.type_ == "InternalIP").map(|known| known.address.clone())
}

fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let Some(addresses) = &view.addresses else { return plan };
    // Nobody ready is no news: what was true before is still the best guess.
    if addresses.is_empty() || view.ingress.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let ingress = addresses.iter().map(|ip| IngressLoadBalancerIngress { ip: Some(ip.clone()), ..Default::default() });
    let new = IngressStatus { load_balancer: Some(IngressLoadBalancerStatus { ingress: Some(ingress.collect()) }) };
    let old = view.ingress.status.clone().unwrap_or_default();
    if let Some(patch) = merge_patch(&old, &new) {
        plan.write(Write::patch(&*view.ingress, "status", json!({"status": patch})));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Action, Step};

    fn node(annotation: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": {ADDRESS_ANNOTATION: annotation}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.9"}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }))
        .expect("a node")
    }

    #[test]
    fn an_entrance_is_where_a_ready_node_listens() {
        let cases = [
            ("127.0.0.1:8080", "True", Some("127.0.0.1")),
            ("0.0.0.0:8080", "True", Some("127.0.0.9")),
            ("127.0.0.1:8080", "Unknown", None),
            ("nonsense", "True", None),
        ];
        for (annotation, ready, expected) in cases {
            assert_eq!(entrance(&node(annotation, ready)).as_deref(), expected, "{annotation} {ready}");
        }
    }

    #[test]
    fn the_status_is_written_once_and_only_for_ours() {
        let addresses = |list: &[&str]| Some(list.iter().map(|ip| (*ip).to_owned()).collect());
        let mut ingress = Ingress::default();
        let view = |ingress: &Ingress, addresses| View { ingress: Arc::new(ingress.clone()), addresses };
        assert!(plan(&view(&ingress, None)).steps.is_empty());
        assert!(plan(&view(&ingress, addresses(&[]))).steps.is_empty());
        let steps = plan(&view(&ingress, addresses(&["127.0.0.1"]))).steps;
        let [Step::Write(write)] = steps.as_slice() else { panic!("one write") };
        let Action::Patch { body, .. } = &write.action else { panic!("a patch") };
        assert_eq!(body["status"], json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}));
        ingress.status = serde_json::from_value(body["status"].clone()).expect("a status");
        assert!(plan(&view(&ingress, addresses(&["127.0.0.1"]))).steps.is_empty());
    }
}
