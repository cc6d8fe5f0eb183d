//! What other servers serve, told with what this one serves.

use serde_json::{Value, json};

use super::super::codec::join_group;
use crate::apiserver::ApiServer;
use crate::apiserver::registry::encoding;
use crate::kinds::Kind;
use crate::kinds::api_service::APIService;
use crate::kinds::common::{list, text};

/// A group version of another server that is available.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub group: String,
    pub version: String,
    /// As the server lists them.
    pub resources: Vec<Value>,
}

/// All that are available and have been asked for their resources.
pub fn versions(server: &ApiServer) -> Vec<Version> {
    let prefix = encoding::prefix(APIService.info(), "");
    let page = server.registry.store.list(&prefix, None, 0, None).unwrap_or_default();
    let services = page.entries.iter();
    let services = services.filter_map(|e| encoding::decode(&APIService, &e.value, e.mod_revision).ok());
    let mut found: Vec<(i64, Version)> = services
        .filter(|service| service["spec"]["service"].is_object() && is_available(service))
        .filter_map(|service| {
            let (group, version) = (text(&service, "/spec/group"), text(&service, "/spec/version"));
            let known = server.aggregate.resources(group, version)?;
            let resources = list(&known, "/resources").to_vec();
            let priority = service["spec"]["versionPriority"].as_i64().unwrap_or(0);
            Some((-priority, Version { group: group.to_owned(), version: version.to_owned(), resources }))
        })
        .collect();
    found.sort_by(|(a, one), (b, other)| (&one.group, a).cmp(&(&other.group, b)));
    found.into_iter().map(|(_, version)| version).collect()
}

fn is_available(service: &Value) -> bool {
    let conditions = list(service, "/status/conditions");
    conditions.iter().any(|condition| condition["type"] == "Available" && condition["status"] == "True")
}

/// Adds the groups to `/apis` in the older form.
pub fn add_to_groups(document: &mut Value, versions: &[Version]) {
    let Some(groups) = document["groups"].as_array_mut() else { return };
    for found in versions {
        match groups.iter_mut().find(|group| group["name"] == *found.group) {
            Some(group) => {
                if let Some(known) = group["versions"].as_array_mut() {
                    known.push(named(found));
                }
            }
            None => groups.push(group(found)),
        }
    }
}

/// `/apis/GROUP` of a group that only others serve.
pub fn of_group(versions: &[Version], name: &str) -> Option<Value> {
    let mut own = versions.iter().filter(|version| version.group == name);
    let mut document = group(own.next()?);
    document["apiVersion"] = "v1".into();
    document["kind"] = "APIGroup".into();
    if let Some(known) = document["versions"].as_array_mut() {
        known.extend(own.map(named));
    }
    Some(document)
}

fn named(version: &Version) -> Value {
    json!({"groupVersion": join_group(&version.group, &version.version), "version": version.version})
}

fn group(version: &Version) -> Value {
    json!({"name": version.group, "versions": [named(version)], "preferredVersion": named(version)})
}

/// Adds the groups to `/apis` in the aggregated form.
pub fn add_to_aggregated(document: &mut Value, versions: &[Version]) {
    let Some(items) = document["items"].as_array_mut() else { return };
    for found in versions {
        let shown =
            json!({"version": found.version, "freshness": "Current", "resources": aggregated(&found.resources)});
        match items.iter_mut().find(|item| item["metadata"]["name"] == *found.group) {
            Some(item) => {
                if let Some(known) = item["versions"].as_array_mut() {
                    known.push(shown);
                }
            }
            None => items.push(json!({"metadata": {"name": found.group}, "versions": [shown]})),
        }
    }
}

/// An APIResourceList's entries as the aggregated form has them: subresources within their resource.
fn aggregated(resources: &[Value]) -> Vec<Value> {
    let kind = |entry: &Value| json!({"group": text(entry, "/group"), "version": text(entry, "/version"), "kind": entry["kind"]});
    let mains = resources.iter().filter(|entry| !text(entry, "/name").contains('/'));
    let shown = mains.map(|main| {
        let name = text(main, "/name");
        let mut entry = json!({
            "resource": name, "responseKind": kind(main), "singularResource": text(main, "/singularName"),
            "scope": if main["namespaced"] == true { "Namespaced" } else { "Cluster" }, "verbs": main["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if main[list].is_array() {
                entry[list] = main[list].clone();
            }
        }
        let own = resources.iter().filter_map(|other| {
            let sub = text(other, "/name").strip_prefix(name)?.strip_prefix('/')?;
            Some(json!({"subresource": sub, "responseKind": kind(other), "verbs": other["verbs"]}))
        });
        let own: Vec<Value> = own.collect();
        if !own.is_empty() {
            entry["subresources"] = own.into();
        }
        entry
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_servers_groups_stand_beside_our_own() {
        let resources = vec![
            json!({"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]}),
            json!({"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]}),
        ];
        let version = |version: &str| Version {
            group: "ext.example.com".to_owned(),
            version: version.to_owned(),
            resources: resources.clone(),
        };
        let versions = [version("v2"), version("v1")];
        let mut older = json!({"groups": [{"name": "apps"}]});
        add_to_groups(&mut older, &versions);
        assert_eq!(older["groups"][1]["preferredVersion"]["groupVersion"], "ext.example.com/v2");
        assert_eq!(older["groups"][1]["versions"].as_array().map(Vec::len), Some(2));
        let mut newer = json!({"items": []});
        add_to_aggregated(&mut newer, &versions);
        let first = &newer["items"][0]["versions"][0]["resources"][0];
        assert_eq!(
            (&first["scope"], &first["subresources"][0]["subresource"]),
            (&json!("Namespaced"), &json!("status"))
        );
        assert_eq!(of_group(&versions, "ext.example.com").expect("it")["kind"], "APIGroup");
        assert_eq!(of_group(&versions, "other"), None);
    }
}
