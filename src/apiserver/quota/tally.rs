//! What the stored objects of a kind use in a namespace: counted once, then kept up by the changes, so that the ten
//! thousandth pod of a namespace with a quota costs no more than the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::{add, cost};
use crate::apiserver::registry::{self, Registry, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::quantity::Quantity;
use crate::kinds::quota::{self, Usage};
use crate::kinds::{Kind, KindInfo};
use crate::store::{Change, Watch};

/// More than that are begun anew with. A tally costs some hundred bytes an object.
const MAX_TALLIES: usize = 4096;

/// One that is being made, or is there.
type Place = Arc<Mutex<Option<Tally>>>;

/// The tallies of all namespaces that have quotas, by what they count and of what scope.
#[derive(Default)]
pub(super) struct Tallies(Mutex<HashMap<(String, String), Place>>);

/// What is used, of objects that are in the scope of one quota or of several that say the same.
struct Tally {
    /// Behind the last change that is counted.
    watch: Watch,
    costs: HashMap<Arc<str>, Usage>,
    total: Usage,
}

impl Tallies {
    /// What all objects of `kind` in `namespace` that are in the quota's scope use at this moment.
    pub(super) fn used(
        &self,
        registry: &Registry,
        kind: &'static dyn Kind,
        namespace: &str,
        quota: &Value,
    ) -> Result<Usage, ApiError> {
        let prefix = encoding::prefix(kind.info(), namespace);
        let scope = format!("{}{}", quota["spec"]["scopes"], quota["spec"]["scopeSelector"]);
        let tally = {
            let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if tallies.len() >= MAX_TALLIES {
                tallies.clear();
            }
            tallies.entry((prefix.clone(), scope)).or_default().clone()
        };
        // Who asks for the same tally meanwhile would count the same.
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tally.as_mut()
            && tally.catch_up(kind, quota)
        {
            return Ok(tally.total.clone());
        }
        let fresh = tally.insert(Tally::count(registry, kind, &prefix, quota)?);
        Ok(fresh.total.clone())
    }

    /// Nobody asks for the namespace any more.
    pub(super) fn forget(&self, namespace: &str) {
        let end = format!("/{namespace}/");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(prefix, _), _| !prefix.ends_with(&end));
    }
}

impl Tally {
    fn count(registry: &Registry, kind: &dyn Kind, prefix: &str, quota: &Value) -> Result<Self, ApiError> {
        let page = registry.store.list(prefix, None, 0, None).map_err(registry::store_error)?;
        let watch = registry.store.watch(prefix, page.revision).map_err(registry::store_error)?;
        let mut tally = Self { watch, costs: HashMap::new(), total: Usage::new() };
        for entry in page.entries {
            tally.set(entry.key, usage(kind, quota, Some((&entry.value, entry.mod_revision))));
        }
        Ok(tally)
    }

    /// Counts what has changed; `false` when some of that is forgotten.
    fn catch_up(&mut self, kind: &dyn Kind, quota: &Value) -> bool {
        while let Some(change) = self.watch.try_next() {
            let Ok(change) = change else { return false };
            let Change { key, value, revision, .. } = &*change;
            self.set(key.clone(), usage(kind, quota, value.as_ref().map(|value| (value, *revision))));
        }
        true
    }

    /// The object under `key` now uses this.
    fn set(&mut self, key: Arc<str>, usage: Usage) {
        add(&mut self.total, usage.clone());
        let before = if usage.is_empty() { self.costs.remove(&key) } else { self.costs.insert(key, usage) };
        for (name, amount) in before.into_iter().flatten() {
            let total = self.total.entry(name).or_insert(Quantity::ZERO);
            *total = total.minus(amount);
        }
    }
}

/// What an object uses that is in scope; nothing for one that is gone.
fn usage(kind: &dyn Kind, quota: &Value, stored: Option<(&bytes::Bytes, u64)>) -> Usage {
    let info: &KindInfo = kind.info();
    let object = stored.and_then(|(value, revision)| encoding::decode(kind, value, revision).ok());
    match object {
        Some(object) if quota::in_scope(quota, info.group, info.plural, &object) => cost(info, &object),
        _ => Usage::new(),
    }
}
