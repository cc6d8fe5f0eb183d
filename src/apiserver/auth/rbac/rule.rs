//! One rule of a role: which verbs on which resources or paths.

use std::fmt;

use serde_json::Value;

use crate::apiserver::target::Target;

/// A rule as roles have it. A rule is about resources, or about paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    /// Empty: any name.
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

const ALL: &str = "*";

impl Rule {
    pub fn read(rule: &Value) -> Self {
        let list = |field: &str| {
            let items = rule[field].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// Whether the rule lets through what a request asks for.
    pub fn allows(&self, target: &Target) -> bool {
        if !has(&self.verbs, &target.verb) {
            return false;
        }
        if !target.is_resource() {
            return self.paths.iter().any(|path| path_matches(path, &target.path));
        }
        has(&self.groups, &target.group)
            && self.resources.iter().any(|of_rule| resource_matches(of_rule, &target.resource, &target.subresource))
            && (self.names.is_empty() || self.names.contains(&target.name))
    }

    /// The rule as rules of one verb, one group, one resource (or path) and one name each.
    pub fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            for path in &self.paths {
                parts.push(Rule { verbs: verbs.clone(), paths: vec![path.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let part = Rule {
                        verbs: verbs.clone(),
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    match self.names.as_slice() {
                        [] => parts.push(part),
                        names => {
                            parts.extend(names.iter().map(|name| Rule { names: vec![name.clone()], ..part.clone() }))
                        }
                    }
                }
            }
        }
        parts
    }

    /// Whether the rule grants at least what `part`, one of [`Rule::parts`], grants.
    pub fn covers(&self, part: &Rule) -> bool {
        let all = |ours: &[String], theirs: &[String]| theirs.iter().all(|item| has(ours, item));
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.paths.is_empty() {
            return part.paths.iter().all(|path| self.paths.iter().any(|own| path_matches(own, path)));
        }
        let named = self.names.is_empty() || (!part.names.is_empty() && all(&self.names, &part.names));
        let resource = part.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|own| resource_matches(own, resource, subresource))
        });
        all(&self.groups, &part.groups) && resource && named
    }
}

/// Whether a list names an item, or everything.
fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|own| own == ALL || own == item)
}

/// `*`, `pods`, `pods/log`, `*/scale`; `pods` alone does not stand for its subresources.
fn resource_matches(of_rule: &str, resource: &str, subresource: &str) -> bool {
    if of_rule == ALL {
        return true;
    }
    match of_rule.split_once('/') {
        None => subresource.is_empty() && of_rule == resource,
        Some((ALL, sub)) => !subresource.is_empty() && sub == subresource,
        Some((name, sub)) => name == resource && sub == subresource,
    }
}

/// A path, or the beginning of one with a `*` at its end.
fn path_matches(of_rule: &str, path: &str) -> bool {
    match of_rule.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => of_rule == path,
    }
}

/// As upstream's refusals show a rule: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("NonResourceURLs", &self.paths),
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown = fields.iter().filter(|(_, list)| !list.is_empty());
        let shown: Vec<String> = shown.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// `["a" "b"]`, as Go prints a list of strings.
pub fn quoted<T: AsRef<str>>(list: &[T]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{:?}", item.as_ref())).collect();
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> Rule {
        Rule::read(&json!({"apiGroups": groups, "resources": resources, "verbs": verbs, "resourceNames": names}))
    }

    fn target(verb: &'static str, group: &str, resource: &str, name: &str) -> Target {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Target {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Target::default()
        }
    }

    #[test]
    fn rules_match_as_upstreams() {
        let some = rule(&[""], &["pods", "pods/log"], &["get", "list"], &[]);
        let star = rule(&["apps"], &["*"], &["*"], &[]);
        let sub = rule(&["*"], &["*/scale"], &["update"], &[]);
        let named = rule(&[""], &["configmaps"], &["get"], &["one"]);
        for (rule, verb, group, resource, name, wanted) in [
            (&some, "get", "", "pods", "p", true),
            (&some, "get", "", "pods/log", "p", true),
            (&some, "get", "", "pods/exec", "p", false),
            (&some, "delete", "", "pods", "p", false),
            (&some, "get", "apps", "pods", "p", false),
            (&star, "delete", "apps", "deployments/status", "d", true),
            (&sub, "update", "apps", "deployments/scale", "d", true),
            (&sub, "update", "apps", "deployments", "d", false),
            (&named, "get", "", "configmaps", "one", true),
            (&named, "get", "", "configmaps", "two", false),
            (&named, "get", "", "configmaps", "", false),
        ] {
            assert_eq!(rule.allows(&target(verb, group, resource, name)), wanted, "{verb} {group}/{resource} {name}");
        }
        let paths = Rule::read(&json!({"nonResourceURLs": ["/metrics", "/api/*"], "verbs": ["get"]}));
        for (path, wanted) in [("/metrics", true), ("/metrics/x", false), ("/api/v1", true), ("/apis", false)] {
            assert_eq!(paths.allows(&Target::plain(&http::Method::GET, path)), wanted, "{path}");
        }
    }

    #[test]
    fn a_rule_covers_what_it_grants() {
        let wide = rule(&["*"], &["*"], &["*"], &[]);
        let some = rule(&["", "apps"], &["pods", "pods/log"], &["get", "list"], &[]);
        let named = rule(&[""], &["pods"], &["get"], &["a", "b"]);
        assert_eq!(some.parts().len(), 8);
        assert!(some.parts().iter().all(|part| wide.covers(part)));
        assert!(!wide.parts().iter().any(|part| some.covers(part)));
        assert!(named.parts().iter().all(|part| some.covers(part)));
        assert!(!some.parts().iter().any(|part| named.covers(part)), "a name is less than any name");
        assert_eq!(
            named.parts()[1].to_string(),
            r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#
        );
    }
}
