//! What is worth a line: the policy file, `audit.k8s.io/v1` Policy. Pure.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::apiserver::auth::User;
use crate::apiserver::target::Target;

/// How much is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    /// Has a name, mostly; nobody reads it.
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Policy {
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no audit policy", file.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let policy: Self = serde_yaml::from_str(text)?;
        let (version, kind) = (policy.api_version.as_str(), policy.kind.as_str());
        ensure!(
            (version, kind) == ("audit.k8s.io/v1", "Policy"),
            "it is a {kind} of {version}; wanted is a Policy of audit.k8s.io/v1"
        );
        ensure!(!policy.rules.is_empty(), "it has no rules, so nothing would be logged");
        for rule in &policy.rules {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            let both = of_resources && !rule.non_resource_urls.is_empty();
            ensure!(!both, "rules cannot apply to both regular resources and non-resource URLs");
        }
        Ok(policy)
    }

    /// The first rule that is about the request decides; without one, nothing is told.
    pub fn judge(&self, user: &User, target: &Target) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(user, target));
        let Some(rule) = rule else {
            return Verdict { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false };
        };
        Verdict {
            level: rule.level,
            omit_stages: [self.omit_stages.as_slice(), &rule.omit_stages].concat(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn matches(&self, user: &User, target: &Target) -> bool {
        let has = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|item| item == wanted);
        if !has(&self.users, &user.name) || !has(&self.verbs, &target.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| user.in_group(group)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return target.is_resource() && has(&self.namespaces, &target.namespace) && self.names(target);
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let matches = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => target.path.starts_with(prefix),
            None => *url == target.path,
        };
        !target.is_resource() && self.non_resource_urls.iter().any(matches)
    }

    fn names(&self, target: &Target) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|resources| resources.match_(target))
    }
}

impl Resources {
    fn match_(&self, target: &Target) -> bool {
        let (resource, sub) = (target.resource.as_str(), target.subresource.as_str());
        let combined = if sub.is_empty() { resource.to_owned() } else { format!("{resource}/{sub}") };
        let names = |wanted: &String| {
            *wanted == combined
                || wanted == "*"
                || (!sub.is_empty() && wanted.strip_prefix("*/") == Some(sub))
                || wanted.strip_suffix("/*") == Some(resource)
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&target.name);
        self.group == target.group && (self.resources.is_empty() || (named && self.resources.iter().any(names)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:apiserver]
- level: None
  nonResourceURLs: ['/healthz*', /version]
- level: Metadata
  resources: [{group: '', resources: [secrets, 'pods/*']}]
- level: Request
  userGroups: [admins]
  verbs: [delete]
  omitStages: [ResponseStarted]
- level: RequestResponse
  namespaces: [shop]
  omitManagedFields: true
";

    #[test]
    fn the_first_rule_decides() {
        let policy = Policy::parse(POLICY).expect("a policy");
        let resource = |verb: &'static str, what: &str, namespace: &str| {
            let (resource, sub) = what.split_once('/').unwrap_or((what, ""));
            let (resource, subresource, namespace) = (resource.to_owned(), sub.to_owned(), namespace.to_owned());
            Target { verb: verb.into(), resource, subresource, namespace, ..Target::default() }
        };
        let plain = |path: &str| Target::plain(&http::Method::GET, path);
        let (jo, admin, server) =
            (User::new("jo", &[]), User::new("a", &["admins"]), User::new("system:apiserver", &[]));
        let cases = [
            (&server, resource("get", "secrets", "shop"), Level::None),
            (&jo, plain("/healthz/etcd"), Level::None),
            (&jo, plain("/metrics"), Level::None),
            (&jo, resource("get", "secrets", "shop"), Level::Metadata),
            (&jo, resource("get", "pods", "shop"), Level::Metadata),
            (&jo, resource("create", "pods/exec", "shop"), Level::Metadata),
            (&admin, resource("delete", "services", ""), Level::Request),
            (&jo, resource("delete", "services", ""), Level::None),
            (&jo, resource("get", "services", "shop"), Level::RequestResponse),
        ];
        for (user, target, want) in cases {
            assert_eq!(policy.judge(user, &target).level, want, "{target:?}");
        }
        let verdict = policy.judge(&admin, &resource("delete", "services", ""));
        assert_eq!(verdict.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(policy.judge(&jo, &resource("get", "services", "shop")).omit_managed_fields);
    }

    #[test]
    fn what_is_no_policy_says_why() {
        let why = |text: &str| Policy::parse(text).expect_err("no policy").to_string();
        assert!(why("apiVersion: v1\nkind: Policy\nrules: []").contains("wanted is a Policy of audit.k8s.io/v1"));
        assert!(why("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []").contains("no rules"));
        assert!(why("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]").contains("unknown variant"));
        assert!(
            why("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: x}]").contains("unknown field")
        );
    }
}
