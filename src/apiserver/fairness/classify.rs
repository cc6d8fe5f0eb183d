//! From who asks for what to the flow that the request is of: the first schema that matches decides.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::Flow;
use crate::apiserver::auth::User;
use crate::apiserver::auth::rbac::rule::Rule;
use crate::apiserver::target::Target;
use crate::kinds::common::{list, text};

/// All schemas, those of the lowest precedence number first.
#[derive(Debug, Default)]
pub struct Schemas(Vec<Schema>);

#[derive(Debug)]
struct Schema {
    name: Arc<str>,
    uid: Arc<str>,
    level: Arc<str>,
    level_uid: Arc<str>,
    exempt: bool,
    by: Distinguisher,
    rules: Vec<Policy>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

/// Who, doing what.
#[derive(Debug)]
struct Policy {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<Rule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// The whole name of the account's user, or its beginning.
    Account(String),
    Accounts(String),
}

#[derive(Debug)]
struct ResourceRule {
    rule: Rule,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

impl Schemas {
    /// A schema whose level is not there matches nothing.
    pub fn new(schemas: &[Value], levels: &[Value]) -> Self {
        let levels: HashMap<&str, &Value> = levels.iter().map(|level| (text(level, "/metadata/name"), level)).collect();
        let read = |schema: &Value| {
            let level = levels.get(text(schema, "/spec/priorityLevelConfiguration/name"))?;
            let precedence = schema["spec"]["matchingPrecedence"].as_i64().unwrap_or(i64::MAX);
            Some((precedence, Schema::read(schema, level)))
        };
        let mut schemas: Vec<(i64, Schema)> = schemas.iter().filter_map(read).collect();
        schemas.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
        Self(schemas.into_iter().map(|(_, schema)| schema).collect())
    }

    pub fn classify(&self, user: &User, target: &Target) -> Option<Flow> {
        let schema = self.0.iter().find(|schema| schema.matches(user, target))?;
        let mut hasher = DefaultHasher::new();
        schema.name.hash(&mut hasher);
        match schema.by {
            Distinguisher::Nothing => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => target.namespace.hash(&mut hasher),
        }
        Some(Flow {
            schema: schema.name.clone(),
            schema_uid: schema.uid.clone(),
            level: schema.level.clone(),
            level_uid: schema.level_uid.clone(),
            exempt: schema.exempt,
            hash: hasher.finish(),
        })
    }
}

impl Schema {
    fn read(schema: &Value, level: &Value) -> Self {
        Self {
            name: text(schema, "/metadata/name").into(),
            uid: text(schema, "/metadata/uid").into(),
            level: text(level, "/metadata/name").into(),
            level_uid: text(level, "/metadata/uid").into(),
            exempt: text(level, "/spec/type") == "Exempt",
            by: match text(schema, "/spec/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules: list(schema, "/spec/rules").iter().map(Policy::read).collect(),
        }
    }

    fn matches(&self, user: &User, target: &Target) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, target))
    }
}

impl Policy {
    fn read(rule: &Value) -> Self {
        let resource = |rule: &Value| ResourceRule {
            cluster_scope: rule["clusterScope"].as_bool().unwrap_or(false),
            namespaces: list(rule, "/namespaces").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            rule: Rule::read(rule),
        };
        Self {
            subjects: list(rule, "/subjects").iter().filter_map(Subject::read).collect(),
            resources: list(rule, "/resourceRules").iter().map(resource).collect(),
            paths: list(rule, "/nonResourceRules").iter().map(Rule::read).collect(),
        }
    }

    fn matches(&self, user: &User, target: &Target) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        match target.is_resource() {
            true => self.resources.iter().any(|rule| rule.matches(target)),
            false => self.paths.iter().any(|rule| rule.allows(target)),
        }
    }
}

impl Subject {
    fn read(subject: &Value) -> Option<Self> {
        Some(match text(subject, "/kind") {
            "User" => Self::User(text(subject, "/user/name").to_owned()),
            "Group" => Self::Group(text(subject, "/group/name").to_owned()),
            "ServiceAccount" => {
                let namespace = text(subject, "/serviceAccount/namespace");
                match text(subject, "/serviceAccount/name") {
                    "*" => Self::Accounts(format!("system:serviceaccount:{namespace}:")),
                    name => Self::Account(format!("system:serviceaccount:{namespace}:{name}")),
                }
            }
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) | Self::Account(name) => name == "*" || **name == *user.name,
            Self::Group(group) => group == "*" || user.in_group(group),
            Self::Accounts(prefix) => user.name.starts_with(prefix.as_str()),
        }
    }
}

impl ResourceRule {
    fn matches(&self, target: &Target) -> bool {
        let in_scope = match target.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => self.namespaces.iter().any(|own| own == "*" || own == namespace),
        };
        in_scope && self.rule.allows(target)
    }
}

#[cfg(test)]
mod tests {
    use super::super::first;
    use super::*;
    use serde_json::json;

    fn schemas() -> Schemas {
        let (mut schemas, levels) = first::objects();
        for schema in &mut schemas {
            schema["metadata"]["uid"] = json!("u");
        }
        Schemas::new(&schemas, &levels)
    }

    fn target(verb: &'static str, group: &str, resource: &str, namespace: &str) -> Target {
        let (group, resource, namespace) = (group.to_owned(), resource.to_owned(), namespace.to_owned());
        Target { verb: verb.into(), group, resource, namespace, ..Target::default() }
    }

    #[test]
    fn everybody_has_a_level() {
        let node = User::new("system:node:n1", &["system:nodes"]);
        let jo = User::new("jo", &[]);
        let account = User::new("system:serviceaccount:shop:web", &["system:serviceaccounts"]);
        let own = User::new("system:serviceaccount:kube-system:dns", &["system:serviceaccounts"]);
        let pods = target("list", "", "pods", "shop");
        let lease = target("update", "coordination.k8s.io", "leases", "kube-node-lease");
        let health = Target::plain(&http::Method::GET, "/healthz");
        let cases = [
            (&User::server(), &pods, "exempt", "exempt"),
            (&jo, &health, "probes", "exempt"),
            (&node, &lease, "system-node-high", "node-high"),
            (&node, &pods, "system-nodes", "system"),
            (&own, &pods, "kube-system-service-accounts", "workload-high"),
            (&account, &pods, "service-accounts", "workload-low"),
            (&jo, &pods, "global-default", "global-default"),
            (&User::anonymous(), &pods, "global-default", "global-default"),
        ];
        for (user, target, schema, level) in cases {
            let flow = schemas().classify(user, target).expect("a flow");
            assert_eq!((&*flow.schema, &*flow.level), (schema, level), "{} {}", user.name, target.verb);
        }
    }

    #[test]
    fn users_are_flows_of_their_own() {
        let schemas = schemas();
        let pods = target("list", "", "pods", "shop");
        let flow = |name: &str| schemas.classify(&User::new(name, &[]), &pods).expect("a flow").hash;
        assert_eq!(flow("jo"), flow("jo"));
        assert_ne!(flow("jo"), flow("max"));
    }

    #[test]
    fn a_schema_without_its_level_matches_nothing() {
        let (schemas, _) = first::objects();
        assert_eq!(Schemas::new(&schemas, &[]).classify(&User::server(), &target("list", "", "pods", "")), None);
    }
}
