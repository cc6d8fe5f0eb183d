//! Role-based access control over the stored roles and bindings.
//!
//! Upstream's authorizer reads caches that lag behind; here the objects are at hand, so a right holds
//! from the moment in which its binding is written. All roles and bindings together are compiled into
//! one immutable [`Policy`], and made anew by the first request after one of them has changed. That
//! costs in proportion to their number, and is rare: reads of the policy are a pointer.
//!
//! Deciding is pure and knows no store: [`rule`] says what one rule lets through, [`policy`] who has
//! which, [`escalate`] that nobody gives away more than they have. [`roles`] are those that every
//! cluster begins with.

pub mod escalate;
pub mod policy;
pub mod roles;
pub mod rule;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::apiserver::registry::encoding;
use crate::kinds::cluster_role::ClusterRole;
use crate::kinds::cluster_role_binding::ClusterRoleBinding;
use crate::kinds::role::Role;
use crate::kinds::role_binding::RoleBinding;
use crate::kinds::{Kind, KindInfo, rbac};
use crate::store::Store;
use policy::{Objects, Policy};

/// The policy as of the last write of a role or binding.
pub struct Policies {
    store: Arc<dyn Store>,
    /// Counts the writes of roles and bindings.
    writes: AtomicU64,
    current: ArcSwap<Compiled>,
    /// One at a time compiles; the others wait for it rather than do the same work.
    compiling: Mutex<()>,
}

struct Compiled {
    /// The number of writes that it shows; more may already be in it.
    writes: u64,
    policy: Arc<Policy>,
}

impl Policies {
    pub fn new(store: Arc<dyn Store>) -> Self {
        // Nothing has been compiled yet, so the first request finds it out of date.
        let current = ArcSwap::from_pointee(Compiled { writes: 0, policy: Arc::default() });
        Self { store, writes: AtomicU64::new(1), current, compiling: Mutex::new(()) }
    }

    /// Must be called after each write of an object: notes those that the policy is made of.
    pub fn written(&self, info: &KindInfo) {
        if info.group == rbac::GROUP {
            self.writes.fetch_add(1, Ordering::Release);
        }
    }

    /// The policy now.
    pub fn current(&self) -> Arc<Policy> {
        let compiled = self.current.load();
        if compiled.writes == self.writes.load(Ordering::Acquire) {
            return compiled.policy.clone();
        }
        let _one = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the objects: a write in between makes the next request compile again.
        let writes = self.writes.load(Ordering::Acquire);
        let compiled = self.current.load();
        if compiled.writes == writes {
            return compiled.policy.clone();
        }
        let policy = Arc::new(Policy::new(&self.objects()));
        self.current.store(Arc::new(Compiled { writes, policy: policy.clone() }));
        policy
    }

    fn objects(&self) -> Objects {
        Objects {
            roles: self.all(&Role),
            cluster_roles: self.all(&ClusterRole),
            role_bindings: self.all(&RoleBinding),
            cluster_role_bindings: self.all(&ClusterRoleBinding),
        }
    }

    /// A kind's objects. What cannot be read grants nothing.
    fn all(&self, kind: &dyn Kind) -> Vec<Value> {
        let prefix = encoding::prefix(kind.info(), "");
        let page = self.store.list(&prefix, None, 0, None).unwrap_or_default();
        let entries = page.entries.iter();
        entries.filter_map(|entry| encoding::decode(kind, &entry.value, entry.mod_revision).ok()).collect()
    }
}
