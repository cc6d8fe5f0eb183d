//! What a user means by `deploy`, `pods` or `svc/cart`: the server's discovery says.

use anyhow::{Context, Result, bail};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

/// A resource that the server serves.
#[derive(Debug, Clone)]
pub struct Resource {
    pub api: ApiResource,
    pub kind: String,
    pub namespaced: bool,
}

impl Resource {
    /// Its API in `namespace`; `None` or a cluster-scoped resource means the whole cluster.
    pub fn api(&self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.api),
            None => Api::all_with(client.clone(), &self.api),
        }
    }

    /// `deployment.apps/cart`, as kubectl prints names.
    pub fn named(&self, name: &str) -> String {
        let kind = self.kind.to_lowercase();
        if self.api.group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{}/{name}", self.api.group) }
    }
}

/// The resource of a kind, by the server's discovery.
pub async fn of_kind(client: &Client, gvk: &GroupVersionKind) -> Result<Resource> {
    let (api, capabilities) = kube::discovery::pinned_kind(client, gvk)
        .await
        .with_context(|| format!("this cluster does not know the kind {} of {}", gvk.kind, gvk.api_version()))?;
    let namespaced = capabilities.scope == kube::discovery::Scope::Namespaced;
    Ok(Resource { kind: api.kind.clone(), api, namespaced })
}

/// The resource that `word` names: plural, singular, short name or kind, perhaps with `.group` behind.
pub async fn find(client: &Client, word: &str) -> Result<Resource> {
    let lower = word.to_lowercase();
    let (wanted, group) = lower.split_once('.').map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
    let mut known = Vec::new();
    for (prefix, resource) in served(client).await? {
        if group.is_some_and(|group| !prefix.0.starts_with(group)) {
            continue;
        }
        if names(&resource).any(|name| name == wanted) {
            return build(&prefix, &resource);
        }
        known.extend(names(&resource));
    }
    let near = nearest(wanted, &known).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
    bail!("this cluster has no resource type {word:?}{near}")
}

/// Group and version.
type Prefix = (String, String);

/// All resources with their group and version, core first, from aggregated discovery.
async fn served(client: &Client) -> Result<Vec<(Prefix, Value)>> {
    const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let mut all = Vec::new();
    for path in ["/api", "/apis"] {
        let request = http::Request::get(path).header("Accept", ACCEPT).body(Vec::new())?;
        let list: Value =
            client.request(request).await.with_context(|| format!("cannot read the discovery at {path}"))?;
        for group in array(&list, "items") {
            let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            for version in array(group, "versions") {
                let prefix = (name.to_owned(), text(version, "version").to_owned());
                all.extend(array(version, "resources").iter().map(|resource| (prefix.clone(), resource.clone())));
            }
        }
    }
    Ok(all)
}

fn names(resource: &Value) -> impl Iterator<Item = String> + '_ {
    let kind = resource.pointer("/responseKind/kind").and_then(Value::as_str).unwrap_or_default();
    let own = [text(resource, "resource"), text(resource, "singularResource"), kind];
    let short = array(resource, "shortNames").iter().filter_map(Value::as_str);
    own.into_iter().chain(short).filter(|name| !name.is_empty()).map(str::to_lowercase)
}

fn build(prefix: &Prefix, resource: &Value) -> Result<Resource> {
    let kind = resource.pointer("/responseKind/kind").and_then(Value::as_str).context("the discovery names no kind")?;
    let gvk = GroupVersionKind::gvk(&prefix.0, &prefix.1, kind);
    let api = ApiResource::from_gvk_with_plural(&gvk, text(resource, "resource"));
    Ok(Resource { kind: kind.to_owned(), api, namespaced: text(resource, "scope") == "Namespaced" })
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The known name that is nearest to what was typed, if any is near.
pub fn nearest<'a>(typed: &str, known: &'a [String]) -> Option<&'a str> {
    let distance = |name: &String| edits(typed, name);
    known
        .iter()
        .min_by_key(|name| distance(name))
        .filter(|name| distance(name) <= 1 + typed.len() / 3)
        .map(String::as_str)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let known: Vec<String> = ["pods", "deployments", "svc"].map(str::to_owned).into();
        assert_eq!(nearest("podz", &known), Some("pods"));
        assert_eq!(nearest("deploymnts", &known), Some("deployments"));
        assert_eq!(nearest("zebra", &known), None);
    }
}
