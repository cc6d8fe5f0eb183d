//! The ConfigMap `kube-root-ca.crt` of every namespace: how workloads recognise the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Selection, Shared, Write};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Upstream's words: clients compare whole objects.
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The controller. Its keys are namespaces.
pub(super) struct RootCa {
    namespaces: Shared<Namespace>,
    bundles: Shared<ConfigMap>,
    pem: String,
}

/// A namespace and its bundle.
#[derive(Debug, Clone)]
pub(super) struct View {
    namespace: Arc<Namespace>,
    bundle: Option<Arc<ConfigMap>>,
}

impl RootCa {
    pub(super) fn new(cluster: &Cluster, pem: &str) -> Self {
        let bundles = cluster.watch_selected(Selection::fields(format!("metadata.name={NAME}")));
        Self { namespaces: cluster.watch(), bundles, pem: pem.to_owned() }
    }
}

impl Reconciler for RootCa {
    type View = View;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.namespaces);
        super::namespace::follow_content(queue, &self.bundles);
    }

    async fn synced(&self) {
        self.namespaces.synced().await;
        self.bundles.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.namespaces.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let namespace = self.namespaces.get(key)?;
        Some(View { namespace, bundle: self.bundles.get(&ObjectKey::new(key.name.clone(), NAME)) })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view, &self.pem)
    }
}

fn plan(view: &View, pem: &str) -> Plan {
    let mut plan = Plan::nothing();
    if !super::namespace::is_active(&view.namespace) {
        return plan;
    }
    let data = BTreeMap::from([(FILE.to_owned(), pem.to_owned())]);
    match &view.bundle {
        None => {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: view.namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([(DESCRIPTION.into(), DESCRIPTION_TEXT.into())])),
                ..Default::default()
            };
            plan.write(Write::create(&ConfigMap { metadata, data: Some(data), ..Default::default() }));
        }
        Some(bundle) if bundle.data.as_ref() != Some(&data) => {
            let mut fields = json!(data);
            for other in bundle.data.iter().flatten().map(|(k, _)| k).filter(|k| *k != FILE) {
                fields[other] = json!(null);
            }
            plan.write(Write::patch(&**bundle, "", json!({"data": fields})));
        }
        Some(_) => {}
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Action, Step};

    #[test]
    fn the_bundle_is_created_and_put_right() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("shop".into());
        let namespace = Arc::new(namespace);
        let created = plan(&View { namespace: namespace.clone(), bundle: None }, "PEM").steps;
        assert!(matches!(created.as_slice(), [Step::Write(w)] if matches!(w.action, Action::Create(_))));
        let bundle = |data: &[(&str, &str)]| {
            let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Some(Arc::new(ConfigMap { data: Some(data), ..Default::default() }))
        };
        let right = View { namespace: namespace.clone(), bundle: bundle(&[("ca.crt", "PEM")]) };
        assert!(plan(&right, "PEM").steps.is_empty());
        let wrong = View { namespace, bundle: bundle(&[("ca.crt", "OLD"), ("x", "y")]) };
        let steps = plan(&wrong, "PEM").steps;
        let [Step::Write(write)] = steps.as_slice() else { panic!("one write") };
        let Action::Patch { body, .. } = &write.action else { panic!("a patch") };
        assert_eq!(body["data"], json!({"ca.crt": "PEM", "x": null}));
    }
}
