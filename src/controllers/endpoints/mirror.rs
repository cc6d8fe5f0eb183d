//! EndpointSlices of hand-written Endpoints: a Service without a selector leads where its user says.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::claim::controller_reference;
use super::slices::{self, Groups, Port};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Index over slices: by Service, for this controller's own.
const BY_SERVICE: &str = "mirrored-service";

/// The controller.
pub(in super::super) struct Mirror {
    services: Shared<Service>,
    endpoints: Shared<Endpoints>,
    slices: Shared<EndpointSlice>,
}

/// All that concerns the mirrored slices of one Service.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct View {
    pub service: Option<Arc<Service>>,
    pub endpoints: Option<Arc<Endpoints>>,
    pub slices: Vec<Arc<EndpointSlice>>,
}

impl Mirror {
    pub(in super::super) fn new(cluster: &Cluster) -> Self {
        let slices = cluster.watch::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice: &EndpointSlice| {
            slices::service_of(slice, CONTROLLER).map(|key| key.to_string()).into_iter().collect()
        });
        Self { services: cluster.watch(), endpoints: cluster.watch(), slices }
    }
}

impl Reconciler for Mirror {
    type View = View;

    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.services);
        queue.follow(&self.endpoints);
        let queue = queue.clone();
        self.slices.on_change(move |old, new| {
            if let Some(key) = new.or(old).and_then(|s| slices::service_of(s, CONTROLLER)) {
                queue.add(key);
            }
            true
        });
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.endpoints.synced().await;
        self.slices.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.endpoints.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        Some(View { service: self.services.get(key), endpoints: self.endpoints.get(key), slices })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

/// Decides which slices mirror the Endpoints of one Service.
pub(super) fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let mirrored = view.service.as_deref().zip(view.endpoints.as_deref()).filter(|(s, e)| is_mirrored(s, e));
    let Some((service, endpoints)) = mirrored else {
        plan.batch(view.slices.iter().map(|s| Write::delete(&**s)).collect());
        return plan;
    };
    let mut groups = Groups::new();
    for subset in endpoints.subsets.iter().flatten() {
        add(subset, &mut groups);
    }
    let name = endpoints.metadata.name.as_deref().unwrap_or_default();
    let template = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(slices::labels(service, CONTROLLER, endpoints.metadata.labels.as_ref())),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..Default::default()
        },
        ..Default::default()
    };
    slices::distribute(&template, groups, &view.slices, &mut plan);
    plan
}

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let has = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|m| m.get(key).cloned())
    };
    let skipped = has(&endpoints.metadata.labels, SKIP).is_some_and(|v| v == "true");
    let election = has(&endpoints.metadata.annotations, LEADER).is_some();
    let selects = service.spec.as_ref().is_some_and(|s| s.selector.as_ref().is_some_and(|s| !s.is_empty()));
    let going = endpoints.metadata.deletion_timestamp.is_some() || service.metadata.deletion_timestamp.is_some();
    !skipped && !election && !selects && !going
}

fn add(subset: &EndpointSubset, groups: &mut Groups) {
    let ports: Vec<Port> = subset
        .ports
        .iter()
        .flatten()
        .map(|p| Port {
            name: p.name.clone().unwrap_or_default(),
            port: Some(p.port),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
    for (address, ready) in ready.chain(unready) {
        let group = groups.entry((slices::address_type(&address.ip), ports.clone())).or_default();
        group.push(endpoint(address, ready));
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}
