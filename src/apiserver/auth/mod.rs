//! Who is asking, and may they?
//!
//! Identity comes from a verified client certificate (`CN` is the name, each `O` a group), or from a bearer token
//! ([`tokens`], [`accounts`], [`bootstrap_tokens`]); the listener ([`super::serve`]) puts it into the request as a
//! [`User`] extension, which no header can forge. Callers inside the process get theirs from the layer that their
//! client was built with.

pub mod accounts;
pub mod authorize;
pub mod bootstrap_tokens;
pub mod impersonate;
pub mod issue;
pub mod nodes;
pub mod pki;
pub mod rbac;
pub mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

/// The identity behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Arc<str>,
    pub groups: Vec<Arc<str>>,
    /// Tells users of one name apart over time; "" where nobody does.
    pub uid: Arc<str>,
    /// What the credential says beside: which pod a token was made for.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of node agents; a member's name is `system:node:<node>`.
pub const NODES: &str = "system:nodes";
/// The group of holders of a bootstrap token.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// Those of them who may ask for a node's certificate; kubeadm's name for it.
pub const JOINERS: &str = "system:bootstrappers:kubeadm:default-node-token";
const AUTHENTICATED: &str = "system:authenticated";

impl User {
    /// A user with these groups, who is also authenticated.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain([AUTHENTICATED]).map(Arc::from).collect();
        Self { name: name.into(), groups, uid: "".into(), extra: BTreeMap::new() }
    }

    /// The same user with one more value of an extra field.
    pub fn with_extra(mut self, key: &str, value: &str) -> Self {
        self.extra.entry(key.to_owned()).or_default().push(value.to_owned());
        self
    }

    /// The server's own parts: controllers and scheduler.
    pub fn server() -> Self {
        Self::new("system:coracle", &[MASTERS])
    }

    /// Whoever brings no credentials.
    pub fn anonymous() -> Self {
        let mut user = Self::new("system:anonymous", &[]);
        user.groups = vec!["system:unauthenticated".into()];
        user
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| &**g == group)
    }

    /// The node that this user is the agent of.
    pub fn node(&self) -> Option<&str> {
        if self.in_group(NODES) { self.name.strip_prefix("system:node:") } else { None }
    }
}
