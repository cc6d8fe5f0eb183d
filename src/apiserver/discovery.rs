//! Which groups, versions and resources are served, in both forms: the aggregated documents that
//! clients read first, and the older ones, a request a group version.
//!
//! All of it follows from the kinds' [`KindInfo`], and from [`VIRTUAL`], the few resources that are not
//! objects. Nothing is cached: the documents are small, clients cache them by ETag, and what is served
//! will change while the server runs.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::codec::join_group;
use crate::kinds::{KindInfo, Subresource};

/// A resource that stores nothing: it takes an object and acts on it.
#[derive(Debug, Clone, Copy)]
pub struct Virtual {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
}

/// The virtual resources. Each takes only `create`.
pub static VIRTUAL: &[Virtual] =
    &[Virtual { group: "", version: "v1", kind: "Binding", plural: "bindings", singular: "binding", namespaced: true }];

/// Groups in the order in which upstream prefers them; others follow by name. Clients that look for a
/// kind by its bare name take the first group that has it.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
];

/// One resource of either sort, as discovery sees it.
struct Entry<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    plural: &'a str,
    singular: &'a str,
    namespaced: bool,
    verbs: &'a [&'a str],
    short_names: &'a [&'a str],
    categories: &'a [&'a str],
    subresources: &'a [Subresource],
    storage_version_hash: &'a str,
}

/// What is served: the source of every document.
pub struct Discovery<'a> {
    /// Sorted by group order, version, resource name.
    entries: Vec<Entry<'a>>,
}

impl<'a> Discovery<'a> {
    pub fn new(kinds: impl IntoIterator<Item = &'a KindInfo>) -> Self {
        let objects = kinds.into_iter().map(Entry::of_kind);
        let mut entries: Vec<Entry<'a>> = objects.chain(VIRTUAL.iter().map(Entry::of_virtual)).collect();
        entries.sort_by(|a, b| a.order().cmp(&b.order()));
        Self { entries }
    }

    /// `/api` (`core`) or `/apis` in the aggregated form.
    pub fn aggregated(&self, core: bool, v2beta1: bool) -> Value {
        let groups = self.groups().filter(|group| group.is_empty() == core);
        let items: Vec<Value> = groups.map(|group| self.aggregated_group(group)).collect();
        let api_version = if v2beta1 { "apidiscovery.k8s.io/v2beta1" } else { "apidiscovery.k8s.io/v2" };
        json!({"apiVersion": api_version, "kind": "APIGroupDiscoveryList", "metadata": {}, "items": items})
    }

    /// `/api` in the older form; `address` is `HOST:PORT` of this server.
    pub fn api_versions(&self, address: &str) -> Value {
        let servers = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]);
        json!({"kind": "APIVersions", "versions": self.versions(""), "serverAddressByClientCIDRs": servers})
    }

    /// `/apis` in the older form.
    pub fn group_list(&self) -> Value {
        let groups = self.groups().filter(|group| !group.is_empty());
        let groups: Vec<Value> = groups.map(|group| Value::Object(self.group_facts(group))).collect();
        json!({"apiVersion": "v1", "kind": "APIGroupList", "groups": groups})
    }

    /// `/apis/GROUP`; `None` where there is no such group.
    pub fn group(&self, group: &str) -> Option<Value> {
        if group.is_empty() || !self.entries.iter().any(|entry| entry.group == group) {
            return None;
        }
        let mut facts = self.group_facts(group);
        facts.insert("apiVersion".to_owned(), Value::from("v1"));
        facts.insert("kind".to_owned(), Value::from("APIGroup"));
        Some(Value::Object(facts))
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`; `None` where it is not served.
    pub fn resources(&self, group: &str, version: &str) -> Option<Value> {
        let entries: Vec<&Entry<'_>> = self.of(group, version).collect();
        if entries.is_empty() {
            return None;
        }
        let resources: Vec<Value> = entries.iter().flat_map(|entry| entry.resources()).collect();
        let mut list = json!({
            "kind": "APIResourceList",
            "groupVersion": join_group(group, version),
            "resources": resources,
        });
        // The core group's document is older than the field, and upstream never added it.
        if !group.is_empty() {
            list["apiVersion"] = Value::from("v1");
        }
        Some(list)
    }

    /// Every group version, e.g. for an index of documents: `("apps", "v1")`.
    pub fn group_versions(&self) -> Vec<(&'a str, &'a str)> {
        let mut all: Vec<(&str, &str)> = self.entries.iter().map(|entry| (entry.group, entry.version)).collect();
        all.dedup();
        all
    }

    /// The groups, each once, in order.
    fn groups(&self) -> impl Iterator<Item = &'a str> {
        let mut groups: Vec<&str> = self.entries.iter().map(|entry| entry.group).collect();
        groups.dedup();
        groups.into_iter()
    }

    fn versions(&self, group: &str) -> Vec<&'a str> {
        let of_group = self.entries.iter().filter(|entry| entry.group == group);
        let mut versions: Vec<&str> = of_group.map(|entry| entry.version).collect();
        versions.dedup();
        versions
    }

    fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| entry.group == group && entry.version == version)
    }

    fn group_facts(&self, group: &str) -> Map<String, Value> {
        let version = |version: &&str| json!({"groupVersion": join_group(group, version), "version": version});
        let versions: Vec<Value> = self.versions(group).iter().map(version).collect();
        let mut facts = Map::new();
        facts.insert("name".to_owned(), Value::from(group));
        facts.insert("preferredVersion".to_owned(), versions.first().cloned().unwrap_or(Value::Null));
        facts.insert("versions".to_owned(), Value::Array(versions));
        facts
    }

    fn aggregated_group(&self, group: &str) -> Value {
        let version = |version: &&str| {
            let resources: Vec<Value> = self.of(group, version).map(Entry::aggregated).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        };
        let versions: Vec<Value> = self.versions(group).iter().map(version).collect();
        let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
        json!({"metadata": metadata, "versions": versions})
    }
}

impl<'a> Entry<'a> {
    fn of_kind(info: &'a KindInfo) -> Self {
        Self {
            group: info.group,
            version: info.version,
            kind: info.kind,
            plural: info.plural,
            singular: info.singular,
            namespaced: info.namespaced,
            verbs: info.verbs,
            short_names: info.short_names,
            categories: info.categories,
            subresources: info.subresources,
            storage_version_hash: info.storage_version_hash,
        }
    }

    fn of_virtual(resource: &'a Virtual) -> Self {
        Self {
            group: resource.group,
            version: resource.version,
            kind: resource.kind,
            plural: resource.plural,
            singular: resource.singular,
            namespaced: resource.namespaced,
            verbs: &["create"],
            short_names: &[],
            categories: &[],
            subresources: &[],
            storage_version_hash: "",
        }
    }

    fn order(&self) -> (usize, &'a str, Priority, &'a str, &'a str) {
        let place = GROUP_ORDER.iter().position(|group| *group == self.group).unwrap_or(GROUP_ORDER.len());
        (place, self.group, priority(self.version), self.version, self.plural)
    }

    fn aggregated(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("resource".to_owned(), Value::from(self.plural));
        entry.insert("responseKind".to_owned(), response_kind("", "", self.kind));
        entry.insert("scope".to_owned(), Value::from(if self.namespaced { "Namespaced" } else { "Cluster" }));
        entry.insert("singularResource".to_owned(), Value::from(self.singular));
        entry.insert("verbs".to_owned(), json!(self.verbs));
        self.insert_names(&mut entry);
        if !self.subresources.is_empty() {
            let mut subresources: Vec<&Subresource> = self.subresources.iter().collect();
            subresources.sort_by_key(|subresource| subresource.name);
            let list: Vec<Value> = subresources
                .iter()
                .map(|subresource| {
                    let kind = response_kind(subresource.group, subresource.version, subresource.kind);
                    json!({"subresource": subresource.name, "responseKind": kind, "verbs": subresource.verbs})
                })
                .collect();
            entry.insert("subresources".to_owned(), Value::Array(list));
        }
        Value::Object(entry)
    }

    /// The resource and its subresources, as the older form lists them.
    fn resources(&self) -> Vec<Value> {
        let mut main = Map::new();
        main.insert("name".to_owned(), Value::from(self.plural));
        main.insert("singularName".to_owned(), Value::from(self.singular));
        main.insert("namespaced".to_owned(), Value::from(self.namespaced));
        main.insert("kind".to_owned(), Value::from(self.kind));
        main.insert("verbs".to_owned(), json!(self.verbs));
        self.insert_names(&mut main);
        if !self.storage_version_hash.is_empty() {
            main.insert("storageVersionHash".to_owned(), Value::from(self.storage_version_hash));
        }
        let mut subresources: Vec<&Subresource> = self.subresources.iter().collect();
        subresources.sort_by_key(|subresource| subresource.name);
        let subresources = subresources.into_iter().map(|subresource| {
            let mut entry = Map::new();
            entry.insert("name".to_owned(), Value::from(format!("{}/{}", self.plural, subresource.name)));
            entry.insert("singularName".to_owned(), Value::from(""));
            entry.insert("namespaced".to_owned(), Value::from(self.namespaced));
            if !subresource.version.is_empty() {
                entry.insert("group".to_owned(), Value::from(subresource.group));
                entry.insert("version".to_owned(), Value::from(subresource.version));
            }
            entry.insert("kind".to_owned(), Value::from(subresource.kind));
            entry.insert("verbs".to_owned(), json!(subresource.verbs));
            Value::Object(entry)
        });
        std::iter::once(Value::Object(main)).chain(subresources).collect()
    }

    fn insert_names(&self, entry: &mut Map<String, Value>) {
        if !self.short_names.is_empty() {
            entry.insert("shortNames".to_owned(), json!(self.short_names));
        }
        if !self.categories.is_empty() {
            entry.insert("categories".to_owned(), json!(self.categories));
        }
    }
}

/// What comes first of a group's versions: releases before betas before alphas, newer before older, and
/// names of another form last, by text.
type Priority = (u8, std::cmp::Reverse<(u32, u32)>);

fn priority(version: &str) -> Priority {
    let numbers = |text: &str, word: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once(word)?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let found = version.strip_prefix('v').and_then(|text| {
        let release = text.parse().ok().map(|major| (0, (major, 0)));
        release
            .or_else(|| numbers(text, "beta").map(|found| (1, found)))
            .or_else(|| numbers(text, "alpha").map(|found| (2, found)))
    });
    let (stability, numbers) = found.unwrap_or((3, (0, 0)));
    (stability, std::cmp::Reverse(numbers))
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The ETag of a document: a quoted hash of its bytes.
pub fn etag(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let hex: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}

/// Whether an `If-None-Match` header names this ETag: then the answer is 304.
pub fn not_modified(if_none_match: Option<&str>, etag: &str) -> bool {
    let tags = if_none_match.unwrap_or_default().split(',').map(str::trim);
    tags.into_iter().any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    fn discovery() -> Discovery<'static> {
        Discovery::new(KINDS.iter().map(|kind| kind.info()))
    }

    #[test]
    fn every_kind_is_found_both_ways() {
        let discovery = discovery();
        for kind in KINDS {
            let info = kind.info();
            let list = discovery.resources(info.group, info.version).unwrap();
            let names = list["resources"].as_array().unwrap().iter();
            assert!(names.clone().any(|resource| resource["name"] == info.plural), "{}", info.plural);
            let document = discovery.aggregated(info.group.is_empty(), false);
            let text = document.to_string();
            assert!(text.contains(&format!("\"resource\":\"{}\"", info.plural)), "{}", info.plural);
        }
    }

    #[test]
    fn groups_come_once_and_in_order() {
        let list = discovery().group_list();
        let names: Vec<&str> =
            list["groups"].as_array().unwrap().iter().filter_map(|group| group["name"].as_str()).collect();
        assert_eq!(names[..2], ["apiregistration.k8s.io", "apps"]);
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique);
        assert_eq!(list["groups"][1]["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
    }

    #[test]
    fn a_scale_names_its_own_group() {
        let list = discovery().resources("apps", "v1").unwrap();
        let scale = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        let wanted = json!({
            "name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
            "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"],
        });
        assert_eq!(scale, &wanted);
        assert_eq!(discovery().resources("apps", "v9"), None);
        assert_eq!(discovery().group("none.example.com"), None);
    }

    #[test]
    fn versions_come_in_upstreams_order() {
        let mut versions =
            ["foo10", "v1", "v3beta1", "v12alpha1", "v10", "foo1", "v11beta2", "v2", "v10beta3", "v11alpha2"];
        versions.sort_by_key(|version| (priority(version), *version));
        let wanted = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        assert_eq!(versions, wanted);
    }

    #[test]
    fn etags() {
        let tag = etag(b"x");
        assert!(not_modified(Some(&tag), &tag));
        assert!(not_modified(Some(&format!("\"a\", W/{tag}")), &tag));
        assert!(!not_modified(Some("\"a\""), &tag));
        assert!(!not_modified(None, &tag));
    }
}
