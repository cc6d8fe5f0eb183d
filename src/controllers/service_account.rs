//! The ServiceAccount `default` of every namespace: pods that name none run as it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Selection, Shared, Write};

const NAME: &str = "default";

/// The controller. Its keys are namespaces.
pub(super) struct ServiceAccounts {
    namespaces: Shared<Namespace>,
    accounts: Shared<ServiceAccount>,
}

/// A namespace, and whether it has its account.
#[derive(Debug, Clone)]
pub(super) struct View {
    namespace: Arc<Namespace>,
    present: bool,
}

impl ServiceAccounts {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let accounts = cluster.watch_selected(Selection::fields(format!("metadata.name={NAME}")));
        Self { namespaces: cluster.watch(), accounts }
    }
}

impl Reconciler for ServiceAccounts {
    type View = View;

    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.namespaces);
        super::namespace::follow_content(queue, &self.accounts);
    }

    async fn synced(&self) {
        self.namespaces.synced().await;
        self.accounts.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.namespaces.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let namespace = self.namespaces.get(key)?;
        let present = self.accounts.get(&ObjectKey::new(key.name.clone(), NAME)).is_some();
        Some(View { namespace, present })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    if !view.present && super::namespace::is_active(&view.namespace) {
        let namespace = view.namespace.metadata.name.clone();
        let metadata = ObjectMeta { name: Some(NAME.into()), namespace, ..Default::default() };
        plan.write(Write::create(&ServiceAccount { metadata, ..Default::default() }));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Step;

    #[test]
    fn an_active_namespace_without_an_account_gets_one() {
        let namespace = |deleted: bool| {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some("shop".into());
            namespace.metadata.deletion_timestamp = deleted.then(|| Timestamp::UNIX_EPOCH.into());
            Arc::new(namespace)
        };
        let steps = |deleted, present| plan(&View { namespace: namespace(deleted), present }).steps;
        assert!(
            matches!(steps(false, false).as_slice(), [Step::Write(w)] if w.key == ObjectKey::new("shop", "default"))
        );
        assert!(steps(false, true).is_empty());
        assert!(steps(true, false).is_empty(), "nothing can be created where everything is going");
    }
}
