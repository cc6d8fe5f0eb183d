//! Role-based access control over the stored roles and bindings.
//!
//! All roles and bindings together are compiled into one immutable [`Policy`], and made anew by the first
//! request after one of them has changed: a right holds from the moment in which its binding is written.
//!
//! Deciding is pure and knows no store: [`rule`] says what one rule lets through, [`policy`] who has
//! which, [`escalate`] that nobody gives away more than they have. [`roles`] are those that every
//! cluster begins with.

pub mod escalate;
pub mod policy;
pub mod roles;
pub mod rule;

use std::sync::Arc;

use crate::apiserver::derived::{Derived, objects};
use crate::kinds::cluster_role::ClusterRole;
use crate::kinds::cluster_role_binding::ClusterRoleBinding;
use crate::kinds::rbac;
use crate::kinds::role::Role;
use crate::kinds::role_binding::RoleBinding;
use crate::store::Store;
use policy::{Objects, Policy};

/// The policy as of the last write of a role or binding.
pub type Policies = Derived<Policy>;

/// The policy that `store`'s objects make. What cannot be read grants nothing.
pub fn policies(store: Arc<dyn Store>) -> Policies {
    Derived::new(store, rbac::GROUP, |store| {
        Policy::new(&Objects {
            roles: objects(store, &Role),
            cluster_roles: objects(store, &ClusterRole),
            role_bindings: objects(store, &RoleBinding),
            cluster_role_bindings: objects(store, &ClusterRoleBinding),
        })
    })
}
