//! Whether a request is a webhook's or a policy's concern. Pure, but for the labels of the namespace,
//! which are looked up when a selector asks for them.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::definitions::Table;
use crate::apiserver::registry::{Place, encoding};
use crate::apiserver::status::ApiError;
use crate::apiserver::target;
use crate::kinds::admission::GROUP;
use crate::kinds::common::{list, text};
use crate::kinds::namespace::Namespace;
use crate::kinds::{Kind, KindInfo, meta as kmeta, selector};

/// What the configurations of admission themselves are about: nobody has a say in them, so that what
/// is wrong can always be mended.
pub fn is_exempt(info: &KindInfo) -> bool {
    info.group == GROUP
}

/// Which requests, as `rules`, `matchConstraints` and the like say.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    rules: Vec<Rule>,
    exclude: Vec<Rule>,
    /// Other versions of the same object count, too.
    equivalent: bool,
    namespaces: Value,
    objects: Value,
}

#[derive(Debug, Clone)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Empty: all.
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

impl Constraints {
    /// From a webhook.
    pub fn of_webhook(hook: &Value) -> Self {
        Self { rules: rules(hook, "/rules"), ..Self::common(hook) }
    }

    /// From `matchConstraints` or `matchResources`.
    pub fn of_resources(resources: &Value) -> Self {
        let (rules, exclude) = (rules(resources, "/resourceRules"), rules(resources, "/excludeResourceRules"));
        Self { rules, exclude, ..Self::common(resources) }
    }

    fn common(owner: &Value) -> Self {
        Self {
            equivalent: owner["matchPolicy"] != "Exact",
            namespaces: owner["namespaceSelector"].clone(),
            objects: owner["objectSelector"].clone(),
            ..Self::default()
        }
    }

    /// The kind as which the request is a concern: its own, or an equivalent one that a rule names.
    /// `None` where it is no concern. Without rules every request is one, if `rules_optional`.
    pub fn kind(&self, request: &Request<'_>, rules_optional: bool) -> Option<&'static dyn Kind> {
        let own = request.place.kind;
        let custom = request.registry.definitions.current();
        let named = |rules: &[Rule]| {
            let by = |kind: &'static dyn Kind| rules.iter().any(|rule| rule.matches(request, kind.info()));
            let mut found = by(own).then_some(own);
            if found.is_none() && self.equivalent {
                found = equivalents(&custom, own).find(|kind| by(*kind));
            }
            found
        };
        if named(&self.exclude).is_some() {
            return None;
        }
        if self.rules.is_empty() && rules_optional { Some(own) } else { named(&self.rules) }
    }

    /// Whether the labels of the object (the old or the new one) and of its namespace are chosen.
    pub fn selects(&self, labels: &Labels<'_>, new: &Value, old: Option<&Value>) -> Result<bool, ApiError> {
        let object =
            |object: &Value| object.is_object() && selector::matches(&self.objects, &object["metadata"]["labels"]);
        if !kmeta::is_empty(&self.objects) && !object(new) && !old.is_some_and(object) {
            return Ok(false);
        }
        if kmeta::is_empty(&self.namespaces) {
            return Ok(true);
        }
        match labels.of_namespace(new)? {
            Some(labels) => Ok(selector::matches(&self.namespaces, labels)),
            // What belongs to the cluster is never exempted.
            None => Ok(true),
        }
    }
}

fn rules(owner: &Value, pointer: &str) -> Vec<Rule> {
    list(owner, pointer).iter().map(Rule::new).collect()
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let texts = |name: &str| list(rule, name).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let resources = list(rule, "/resources").iter().filter_map(Value::as_str);
        Self {
            operations: texts("/operations"),
            groups: texts("/apiGroups"),
            versions: texts("/apiVersions"),
            resources: resources
                .map(|text| text.split_once('/').unwrap_or((text, "")))
                .map(|(resource, sub)| (resource.to_owned(), sub.to_owned()))
                .collect(),
            scope: match text(rule, "/scope") {
                "Cluster" => Scope::Cluster,
                "Namespaced" => Scope::Namespaced,
                _ => Scope::All,
            },
            names: texts("/resourceNames"),
        }
    }

    /// Whether the rule is about this request, were it one for `info`'s kind.
    fn matches(&self, request: &Request<'_>, info: &KindInfo) -> bool {
        let one = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let sub = request.subresource();
        let resource = |(resource, of): &(String, String)| {
            (resource == "*" || resource == info.plural) && (of == "*" || of == sub)
        };
        let scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => !info.namespaced,
            Scope::Namespaced => info.namespaced,
        };
        scope
            && one(&self.operations, request.operation.as_str())
            && one(&self.groups, info.group)
            && one(&self.versions, info.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.place.name))
    }
}

/// Other kinds that are views of the same stored object.
fn equivalents(custom: &Table, own: &'static dyn Kind) -> impl Iterator<Item = &'static dyn Kind> {
    let is_equivalent = move |kind: &&'static dyn Kind| {
        let (info, own) = (kind.info(), own.info());
        info.storage == own.storage && (info.group, info.version) != (own.group, own.version)
    };
    target::served(custom).filter(is_equivalent)
}

/// An object of one kind, as another one that is a view of the same stored object.
pub fn convert(from: &dyn Kind, to: &dyn Kind, object: &Value) -> Value {
    if std::ptr::eq(from.info(), to.info()) || !object.is_object() {
        return object.clone();
    }
    let mut converted = encoding::decode(to, &encoding::encode(from, object), 0).unwrap_or_else(|_| object.clone());
    let version = &object["metadata"]["resourceVersion"];
    if !version.is_null() {
        kmeta::metadata_mut(&mut converted).insert("resourceVersion".to_owned(), version.clone());
    }
    converted
}

/// The labels of a request's namespace, looked up once.
pub struct Labels<'a> {
    request: &'a Request<'a>,
    found: OnceLock<Option<Arc<Value>>>,
}

impl<'a> Labels<'a> {
    pub fn new(request: &'a Request<'a>) -> Self {
        Self { request, found: OnceLock::new() }
    }

    /// `None` for what belongs to the cluster. A Namespace that is being written has its new labels.
    fn of_namespace<'b>(&'b self, new: &'b Value) -> Result<Option<&'b Value>, ApiError> {
        let Request { place, operation, .. } = self.request;
        let is_namespace = place.info().group.is_empty() && place.info().plural == "namespaces";
        if is_namespace
            && self.request.subresource().is_empty()
            && matches!(operation, Operation::Create | Operation::Update)
        {
            return Ok(Some(&new["metadata"]["labels"]));
        }
        let name = self.request.namespace();
        if name.is_empty() {
            return Ok(None);
        }
        let home = Place { kind: &Namespace, namespace: "", name };
        let found = self.found.get_or_init(|| self.request.registry.known(home));
        let namespace = found.as_ref().ok_or_else(|| home.not_found())?;
        Ok(Some(&namespace["metadata"]["labels"]))
    }
}
