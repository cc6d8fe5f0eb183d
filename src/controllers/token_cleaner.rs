//! Removes bootstrap tokens whose time is over. They are believed no longer anyhow; but a credential that nobody
//! needs should not lie about.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Selection, Shared, Write};

/// The controller. Its keys are Secrets.
pub(super) struct TokenCleaner {
    tokens: Shared<Secret>,
}

impl TokenCleaner {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { tokens: cluster.watch_selected(Selection::fields("type=bootstrap.kubernetes.io/token")) }
    }
}

impl Reconciler for TokenCleaner {
    type View = Arc<Secret>;

    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.tokens);
    }

    async fn synced(&self) {
        self.tokens.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.tokens.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<Self::View> {
        // Elsewhere they are no tokens.
        self.tokens.get(key).filter(|_| &*key.namespace == "kube-system")
    }

    fn plan(&self, now: Timestamp, token: Self::View) -> Plan {
        plan(now, &token)
    }
}

fn plan(now: Timestamp, token: &Secret) -> Plan {
    let mut plan = Plan::nothing();
    let Some(expiration) = token.data.as_ref().and_then(|data| data.get("expiration")) else { return plan };
    if expiration.0.is_empty() || token.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    // As upstream: a time that cannot be read has passed.
    let end = std::str::from_utf8(&expiration.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    match end.map(|end| now.duration_until(end)).filter(jiff::SignedDuration::is_positive) {
        Some(left) => plan.look_again(left.unsigned_abs().max(Duration::from_millis(1))),
        None => plan.write(Write::delete(token)),
    }
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn plan_for(expiration: Option<&str>) -> Plan {
        let mut token = Secret::default();
        token.metadata.name = Some("bootstrap-token-abcdef".to_owned());
        token.metadata.namespace = Some("kube-system".to_owned());
        token.metadata.uid = Some("u".to_owned());
        token.data = expiration.map(|text| [("expiration".to_owned(), ByteString(text.into()))].into());
        plan("2026-01-01T00:00:00Z".parse().expect("a time"), &token)
    }

    #[test]
    fn what_has_expired_goes_and_the_rest_is_waited_for() {
        assert_eq!(plan_for(None), Plan::nothing());
        assert_eq!(plan_for(Some("")), Plan::nothing());
        let later = plan_for(Some("2026-01-01T01:00:00Z"));
        assert_eq!((later.steps.len(), later.requeue_after), (0, Some(Duration::from_secs(3600))));
        for over in ["2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "soon"] {
            assert_eq!(plan_for(Some(over)).steps.len(), 1, "{over}");
        }
    }
}
