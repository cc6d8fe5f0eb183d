//! ResourceQuotas, held: what a namespace has may not become more than they allow.
//!
//! What is used is counted from the stored objects ([`tally`]), not read from a status that may be behind. What is
//! being created counts from the moment it was let in until it is stored ([`Charge`]), so two creations
//! at once never share the last place. Namespaces without quotas cost nothing. The status of the quotas
//! follows the store in a task of its own.

mod tally;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::ApiServer;
use super::admission::author::Author;
use super::registry::update::Lane;
use super::registry::{Place, Registry};
use super::status::ApiError;
use crate::kinds::quantity::Quantity;
use crate::kinds::quota::{self, Usage};
use crate::kinds::resource_quota::ResourceQuota;
use crate::kinds::{KINDS, KindInfo, meta as kmeta};
use crate::store::Watch;
use tally::Tallies;

/// Changes that come this close to each other are counted together.
const SETTLE: Duration = Duration::from_millis(20);

/// What has been let in and is not stored yet.
#[derive(Default)]
pub struct Ledger {
    pending: Arc<Mutex<Pending>>,
    tallies: Tallies,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    /// By number: the namespace and what it costs. As many as there are writes under way.
    charges: HashMap<u64, (String, Usage)>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
#[must_use = "the place is free again when this is dropped"]
pub struct Charge {
    pending: Arc<Mutex<Pending>>,
    number: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).charges.remove(&self.number);
    }
}

/// The quotas of a namespace.
fn quotas(registry: &Registry, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError> {
    registry.all_known(&ResourceQuota, namespace)
}

fn hard(quota: &Value) -> BTreeMap<&str, Quantity> {
    let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
    hard.filter_map(|(name, amount)| Some((name.as_str(), Quantity::from_json(amount).ok()?))).collect()
}

fn cost(info: &KindInfo, object: &Value) -> Usage {
    quota::usage(info.group, info.plural, object)
}

impl Ledger {
    /// Lets a new or changed object in, or says which quota it exceeds. `None`: no quota is concerned.
    pub fn charge(
        &self,
        registry: &Registry,
        place: Place<'_>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<Option<Charge>, ApiError> {
        let info = place.info();
        if !info.namespaced || info.own_plural() == "events" {
            return Ok(None);
        }
        let quotas = quotas(registry, place.namespace)?;
        let concerned: Vec<&Value> = quotas
            .iter()
            .map(|quota| &**quota)
            .filter(|quota| hard(quota).keys().any(|name| quota::concerns(info.group, info.plural, name)))
            .filter(|quota| quota::in_scope(quota, info.group, info.plural, new))
            .collect();
        if concerned.is_empty() {
            return Ok(None);
        }
        let forbidden = |why: String| ApiError::forbidden(info, place.name, why);
        if old.is_none() && info.group.is_empty() && info.plural == "pods" {
            for quota in &concerned {
                if let Some(missing) = quota::unspecified(hard(quota).into_keys(), new) {
                    let name = kmeta::text(quota, "name");
                    return Err(forbidden(format!("failed quota: {name}: must specify {missing}")));
                }
            }
        }
        let delta = more(cost(info, new), old.map(|old| cost(info, old)).unwrap_or_default());
        if delta.is_empty() {
            return Ok(None);
        }
        // Counted before the lock, so that under it only what has come since is.
        for quota in &concerned {
            self.tallies.used(registry, place.kind, place.namespace, quota)?;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for quota in concerned {
            // What is stored leaves the pending ones only after it can be counted.
            let mut used = self.tallies.used(registry, place.kind, place.namespace, quota)?;
            for (_, usage) in pending.charges.values().filter(|(namespace, _)| namespace == place.namespace) {
                add(&mut used, usage.clone());
            }
            if let Some(why) = exceeded(quota, &delta, &used) {
                return Err(forbidden(why));
            }
        }
        pending.next += 1;
        let number = pending.next;
        pending.charges.insert(number, (place.namespace.to_owned(), delta));
        Ok(Some(Charge { pending: self.pending.clone(), number }))
    }
}

/// What `new` costs more than `old`.
fn more(new: Usage, old: Usage) -> Usage {
    let growth = new.into_iter().map(|(name, amount)| {
        let before = old.get(&name).copied().unwrap_or(Quantity::ZERO);
        (name, amount.minus(before))
    });
    growth.filter(|(_, amount)| *amount > Quantity::ZERO).collect()
}

fn add(sum: &mut Usage, more: Usage) {
    for (name, amount) in more {
        let entry = sum.entry(name).or_insert(Quantity::ZERO);
        *entry = entry.plus(amount);
    }
}

/// Upstream's words for what would be too much.
fn exceeded(quota: &Value, delta: &Usage, used: &Usage) -> Option<String> {
    let of = |list: &Usage, name: &str| list.get(name).copied().unwrap_or(Quantity::ZERO);
    let over: Vec<(&str, Quantity)> = hard(quota)
        .into_iter()
        .filter(|(name, hard)| delta.contains_key(*name) && of(used, name).plus(of(delta, name)) > *hard)
        .collect();
    if over.is_empty() {
        return None;
    }
    let shown = |list: &Usage| quota::shown(over.iter().map(|(name, _)| (*name, of(list, name))));
    let limited = quota::shown(over.iter().copied());
    let name = kmeta::text(quota, "name");
    Some(format!("exceeded quota: {name}, requested: {}, used: {}, limited: {limited}", shown(delta), shown(used)))
}

/// Keeps the statuses of all quotas true until the server stops.
pub async fn run(server: ApiServer) {
    loop {
        let revision = server.registry.store.revision();
        let Ok(mut watch) = server.registry.store.watch("/registry/", revision) else { return };
        // Everything may have changed before the watch began.
        for namespace in namespaces(&server.registry) {
            count(&server.registry, &namespace).await;
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = follow(&server, &mut watch) => {}
        }
    }
}

/// The namespaces that have quotas.
fn namespaces(registry: &Registry) -> BTreeSet<String> {
    let quotas = quotas(registry, "").unwrap_or_default();
    quotas.iter().map(|quota| kmeta::text(quota, "namespace").to_owned()).collect()
}

/// Returns when the watch has fallen behind.
async fn follow(server: &ApiServer, watch: &mut Watch) {
    let mut dirty: BTreeSet<String> = BTreeSet::new();
    loop {
        let settled = async {
            if dirty.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SETTLE).await;
        };
        let change = tokio::select! {
            change = watch.next() => Some(change),
            () = settled => None,
        };
        match change {
            Some(Some(Ok(change))) => dirty.extend(namespace_of(&change.key).map(str::to_owned)),
            Some(Some(Err(_)) | None) => return,
            None => {
                for namespace in std::mem::take(&mut dirty) {
                    count(&server.registry, &namespace).await;
                }
            }
        }
    }
}

/// The namespace in a key; Leases and Events are no business of quotas.
fn namespace_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("/registry/")?;
    if rest.starts_with("events/") || rest.starts_with("coordination.k8s.io/") {
        return None;
    }
    let mut parts = rest.rsplit('/');
    parts.next()?;
    parts.next().filter(|namespace| !namespace.is_empty())
}

/// Brings the statuses of a namespace's quotas up to date.
async fn count(registry: &Registry, namespace: &str) {
    let quotas = quotas(registry, namespace).unwrap_or_default();
    if quotas.is_empty() {
        registry.quotas.tallies.forget(namespace);
    }
    for quota in quotas {
        let name = kmeta::text(&quota, "name");
        let place = Place { kind: &ResourceQuota, namespace, name };
        let change = |quota: &Value| {
            let mut new = quota.clone();
            new["status"] = json!({"hard": quota["spec"]["hard"], "used": total(registry, quota, namespace)?});
            Ok(new)
        };
        if let Err(error) = registry.update(place, Lane::Status, &Author::own_by("status"), &change).await {
            tracing::debug!(namespace, name, %error, "the use of a quota was not written");
        }
    }
}

/// What a namespace uses of what a quota names.
fn total(registry: &Registry, quota: &Value, namespace: &str) -> Result<Value, ApiError> {
    let names = hard(quota);
    let mut used = Usage::new();
    let custom = registry.definitions.current();
    let kinds = KINDS.iter().copied().chain(custom.kinds());
    for kind in kinds.filter(|kind| kind.info().namespaced) {
        let info = kind.info();
        let concerned = names.keys().any(|name| quota::concerns(info.group, info.plural, name));
        if concerned {
            add(&mut used, registry.quotas.tallies.used(registry, kind, namespace, quota)?);
        }
    }
    let shown = names.keys().map(|name| {
        let amount = used.get(*name).copied().unwrap_or(Quantity::ZERO);
        ((*name).to_owned(), Value::from(amount.to_string()))
    });
    Ok(Value::Object(shown.collect()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::apiserver::tests::Api;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_at_once_as_many_get_in_as_fit() {
        let api = Api::start().await;
        let home = "/api/v1/namespaces/default";
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "7", "secrets": "1"}}});
        assert_eq!(api.post(&format!("{home}/resourcequotas"), quota).await.0, StatusCode::CREATED);
        let make = |name: String| api.post_to(format!("{home}/configmaps"), json!({"metadata": {"name": name}}));
        for round in 0..4 {
            let all = (0..20).map(|number| tokio::spawn(make(format!("c{round}-{number}"))));
            let codes: Vec<StatusCode> = futures::future::join_all(all).await.into_iter().flatten().collect();
            // The first time all seven, then the one whose place was made free.
            let made = codes.iter().filter(|code| **code == StatusCode::CREATED).count();
            assert_eq!(made, if round == 0 { 7 } else { 1 }, "{codes:?}");
            let there = api.get(&format!("{home}/configmaps")).await.1;
            assert_eq!(there["items"].as_array().map(Vec::len), Some(7));
            let one = there["items"][0]["metadata"]["name"].as_str().unwrap_or_default();
            assert_eq!(api.delete(&format!("{home}/configmaps/{one}")).await.0, StatusCode::OK);
        }
    }

    #[test]
    fn only_what_is_exceeded_is_told() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1"}}});
        let usage = |cpu: &str, pods: i64| -> Usage {
            [
                ("requests.cpu".to_owned(), cpu.parse().expect("an amount")),
                ("pods".to_owned(), Quantity::from_units(pods)),
            ]
            .into()
        };
        assert_eq!(exceeded(&quota, &usage("400m", 1), &usage("600m", 1)), None);
        assert_eq!(
            exceeded(&quota, &usage("600m", 1), &usage("600m", 1)).as_deref(),
            Some("exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1")
        );
        assert_eq!(
            more(usage("1", 2), usage("400m", 2)),
            [("requests.cpu".to_owned(), "600m".parse().expect("an amount"))].into()
        );
    }

    #[test]
    fn keys_tell_their_namespace() {
        assert_eq!(namespace_of("/registry/pods/shop/a"), Some("shop"));
        assert_eq!(namespace_of("/registry/apps/deployments/shop/a"), Some("shop"));
        assert_eq!(namespace_of("/registry/events/shop/a"), None);
    }
}
