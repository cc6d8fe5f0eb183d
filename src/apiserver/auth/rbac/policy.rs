//! All roles and bindings, compiled: who is bound to which rules, and where.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::rule::Rule;
use crate::apiserver::auth::User;
use crate::apiserver::target::Target;
use crate::kinds::common::{list, text};
use crate::kinds::selector;

/// The objects that a policy is made of, decoded.
#[derive(Debug, Default)]
pub struct Objects {
    pub roles: Vec<Value>,
    pub cluster_roles: Vec<Value>,
    pub role_bindings: Vec<Value>,
    pub cluster_role_bindings: Vec<Value>,
}

/// What the objects say together. Immutable: made anew when one of them changes.
#[derive(Debug, Default)]
pub struct Policy {
    /// Those of the whole cluster first: they are asked first.
    bindings: Vec<Binding>,
    /// The bindings that name a subject, by [`key`]; in the order of `bindings`.
    by_subject: HashMap<String, Vec<(usize, String)>>,
    /// By `namespace/name`; cluster roles have no namespace.
    roles: HashMap<String, Arc<[Rule]>>,
}

#[derive(Debug)]
struct Binding {
    /// Empty: everywhere.
    namespace: String,
    /// `RoleBinding "b/shop" of Role "r"`
    shown: String,
    rules: Arc<[Rule]>,
}

impl Policy {
    pub fn new(objects: &Objects) -> Self {
        let mut policy = Self::default();
        for role in &objects.cluster_roles {
            let rules = cluster_rules(role, &objects.cluster_roles);
            policy.roles.insert(role_key("", text(role, "/metadata/name")), rules.into());
        }
        for role in &objects.roles {
            let key = role_key(text(role, "/metadata/namespace"), text(role, "/metadata/name"));
            policy.roles.insert(key, rules_of(role).into());
        }
        for binding in objects.cluster_role_bindings.iter().chain(&objects.role_bindings) {
            policy.add(binding);
        }
        policy
    }

    /// A binding to a role that does not exist binds to nothing.
    fn add(&mut self, binding: &Value) {
        let (namespace, name) = (text(binding, "/metadata/namespace"), text(binding, "/metadata/name"));
        let Some(rules) = self.role(namespace, &binding["roleRef"]) else { return };
        let (kind, shown) = match namespace {
            "" => ("ClusterRoleBinding", name.to_owned()),
            namespace => ("RoleBinding", format!("{name}/{namespace}")),
        };
        let (role_kind, role_name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let shown = format!("{kind} {shown:?} of {role_kind} {role_name:?}");
        let at = self.bindings.len();
        self.bindings.push(Binding { namespace: namespace.to_owned(), shown, rules });
        for subject in list(binding, "/subjects") {
            let name = text(subject, "/name");
            let (key, shown) = match subject["kind"].as_str() {
                Some("User") => (key("User", name), format!("User {name:?}")),
                Some("Group") => (key("Group", name), format!("Group {name:?}")),
                Some("ServiceAccount") => {
                    let own = text(subject, "/namespace");
                    let home = if own.is_empty() { namespace } else { own };
                    let account = format!("system:serviceaccount:{home}:{name}");
                    (key("User", &account), format!("ServiceAccount {:?}", format!("{name}/{home}")))
                }
                _ => continue,
            };
            self.by_subject.entry(key).or_default().push((at, shown));
        }
    }

    /// The rules of the role that a binding in `namespace` refers to.
    pub fn role(&self, namespace: &str, reference: &Value) -> Option<Arc<[Rule]>> {
        let home = if reference["kind"] == "Role" { namespace } else { "" };
        self.roles.get(&role_key(home, text(reference, "/name"))).cloned()
    }

    /// Why `user` may do what `target` says, in upstream's words; `None` where nothing allows it.
    pub fn allows(&self, user: &User, target: &Target) -> Option<String> {
        let mut bound = self.bound(user, &target.namespace);
        bound.find_map(|(binding, subject)| {
            let allowed = binding.rules.iter().any(|rule| rule.allows(target));
            allowed.then(|| format!("RBAC: allowed by {} to {subject}", binding.shown))
        })
    }

    /// Every rule that holds for `user` in `namespace` ("": only those that hold everywhere).
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.bound(user, namespace).flat_map(|(binding, _)| binding.rules.iter().cloned()).collect()
    }

    /// The bindings of a user that hold in a namespace, each with the subject by which; cluster-wide
    /// ones first.
    fn bound<'a>(&'a self, user: &User, namespace: &str) -> impl Iterator<Item = (&'a Binding, &'a str)> {
        let keys = std::iter::once(key("User", &user.name)).chain(user.groups.iter().map(|group| key("Group", group)));
        let mut found: Vec<(usize, &str)> = Vec::new();
        for key in keys {
            for (at, subject) in self.by_subject.get(&key).into_iter().flatten() {
                let home = &self.bindings[*at].namespace;
                if home.is_empty() || home == namespace {
                    found.push((*at, subject));
                }
            }
        }
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(at, subject)| (&self.bindings[at], subject))
    }
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind}/{name}")
}

fn role_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn rules_of(role: &Value) -> Vec<Rule> {
    list(role, "/rules").iter().map(Rule::read).collect()
}

/// The rules of a cluster role. One that aggregates has those of the roles that it selects: its own list
/// says the same as soon as the controller has written it, and this does not wait for that.
fn cluster_rules(role: &Value, all: &[Value]) -> Vec<Rule> {
    let mut rules = rules_of(role);
    for selector in list(role, "/aggregationRule/clusterRoleSelectors") {
        let chosen = all.iter().filter(|other| selector::matches(selector, &other["metadata"]["labels"]));
        for rule in chosen.flat_map(rules_of) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let rule = |resource: &str, verb: &str| json!([{"apiGroups": [""], "resources": [resource], "verbs": [verb]}]);
        let objects = Objects {
            roles: vec![json!({"metadata": {"namespace": "shop", "name": "reader"}, "rules": rule("pods", "get")})],
            cluster_roles: vec![
                json!({"metadata": {"name": "nodes"}, "rules": rule("nodes", "list")}),
                json!({"metadata": {"name": "part", "labels": {"to": "all"}}, "rules": rule("secrets", "get")}),
                json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}}),
            ],
            role_bindings: vec![
                json!({"metadata": {"namespace": "shop", "name": "b"}, "roleRef": {"kind": "Role", "name": "reader"},
                    "subjects": [{"kind": "User", "name": "jo"}, {"kind": "ServiceAccount", "name": "robot"}]}),
                json!({"metadata": {"namespace": "shop", "name": "c"}, "roleRef": {"kind": "ClusterRole", "name": "all"},
                    "subjects": [{"kind": "Group", "name": "team"}]}),
                json!({"metadata": {"namespace": "shop", "name": "d"}, "roleRef": {"kind": "Role", "name": "gone"},
                    "subjects": [{"kind": "User", "name": "jo"}]}),
            ],
            cluster_role_bindings: vec![
                json!({"metadata": {"name": "n"}, "roleRef": {"kind": "ClusterRole", "name": "nodes"},
                    "subjects": [{"kind": "Group", "name": "team"}]}),
            ],
        };
        Policy::new(&objects)
    }

    #[test]
    fn bindings_hold_where_they_are() {
        let policy = policy();
        let ask = |user: &str, group: &str, verb: &'static str, resource: &str, namespace: &str| {
            let target = Target {
                verb: verb.into(),
                resource: resource.into(),
                namespace: namespace.into(),
                ..Target::default()
            };
            policy.allows(&User::new(user, &[group]), &target)
        };
        for (user, group, verb, resource, namespace, wanted) in [
            ("jo", "", "get", "pods", "shop", Some(r#"RoleBinding "b/shop" of Role "reader" to User "jo""#)),
            ("jo", "", "get", "pods", "default", None),
            ("jo", "", "get", "pods", "", None),
            ("jo", "", "list", "pods", "shop", None),
            (
                "system:serviceaccount:shop:robot",
                "",
                "get",
                "pods",
                "shop",
                Some(r#"RoleBinding "b/shop" of Role "reader" to ServiceAccount "robot/shop""#),
            ),
            (
                "x",
                "team",
                "list",
                "nodes",
                "",
                Some(r#"ClusterRoleBinding "n" of ClusterRole "nodes" to Group "team""#),
            ),
            (
                "x",
                "team",
                "get",
                "secrets",
                "shop",
                Some(r#"RoleBinding "c/shop" of ClusterRole "all" to Group "team""#),
            ),
            ("x", "team", "get", "secrets", "default", None),
        ] {
            let wanted = wanted.map(|by| format!("RBAC: allowed by {by}"));
            assert_eq!(ask(user, group, verb, resource, namespace), wanted, "{user} {verb} {resource} {namespace}");
        }
        assert_eq!(policy.rules(&User::new("x", &["team"]), "shop").len(), 2);
        assert_eq!(policy.rules(&User::new("x", &["team"]), "").len(), 1);
    }
}
