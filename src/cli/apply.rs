//! `coracle apply`: manifests in, objects as they say.
//!
//! What an earlier apply set and the manifest no longer says is removed: the difference is kept, as
//! kubectl keeps it, in the annotation `kubectl.kubernetes.io/last-applied-configuration`, so that both
//! tools may be used on the same objects. The change is sent as a JSON merge patch: maps are merged,
//! lists are taken whole from the manifest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::connect::{Connection, connect};
use super::resource;

/// Create what the manifests describe, or change it to what they say.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, a directory (its .yaml, .yml and .json files), or - for standard input; may be given several times.
    #[arg(short, long, value_name = "FILE", required = true)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// One object of a manifest file.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Where it stands, for messages: `shop.yaml`, the third document.
    pub source: String,
    pub object: Value,
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "coracle";
/// A manifest larger than this is refused unread: the API takes 3 MB an object.
const MAX_FILE: u64 = 64 << 20;

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let manifests = read_files(&args.file)?;
        let (client, namespace) = connect(&args.connection).await?;
        for manifest in &manifests {
            println!("{}", apply(&client, manifest, Some(&namespace)).await?);
        }
        Ok(())
    })
}

/// Reads all objects of all files, in order.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        for file in files(path)? {
            let (name, text) = read_text(&file)?;
            manifests.extend(parse(&name, &text)?);
        }
    }
    Ok(manifests)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the directory {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"));
    files.sort();
    if files.is_empty() {
        bail!("{} has no .yaml, .yml or .json files", path.display());
    }
    Ok(files)
}

fn read_text(path: &Path) -> Result<(String, String)> {
    if path.as_os_str() == "-" {
        let text = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
        return Ok(("standard input".to_owned(), text));
    }
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_FILE {
        bail!("{} has {size} bytes; manifests of up to {MAX_FILE} are read", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((path.display().to_string(), text))
}

/// The objects of a YAML or JSON text; Lists are taken apart. Errors name the line.
pub fn parse(name: &str, text: &str) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let source = if index == 0 { name.to_owned() } else { format!("{name}, document {}", index + 1) };
        let value = serde_yaml::Value::deserialize(document).with_context(|| format!("{source} is not valid YAML"))?;
        let object = serde_json::to_value(value).with_context(|| format!("{source} cannot be written as JSON"))?;
        flatten(&source, object, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(source: &str, mut object: Value, manifests: &mut Vec<Manifest>) -> Result<()> {
    if object.is_null() {
        return Ok(());
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind.is_empty() || version.is_empty() {
        bail!("{source}: an object needs `apiVersion` and `kind`");
    }
    if kind.ends_with("List")
        && let Some(Value::Array(items)) = object.get_mut("items").map(Value::take)
    {
        return items.into_iter().try_for_each(|item| flatten(source, item, manifests));
    }
    let manifest = Manifest { source: source.to_owned(), object };
    if manifest.name().is_empty() {
        bail!("{source}: the {kind} has no metadata.name");
    }
    manifests.push(manifest);
    Ok(())
}

impl Manifest {
    pub fn name(&self) -> &str {
        self.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }

    fn namespace(&self) -> Option<&str> {
        self.object.pointer("/metadata/namespace").and_then(Value::as_str)
    }

    fn text(&self, field: &str) -> &str {
        self.object.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// The API of its kind, in its namespace or the default one.
    pub async fn api(&self, client: &Client, default_namespace: Option<&str>) -> Result<(Api<DynamicObject>, String)> {
        let (group, version) = self.text("apiVersion").split_once('/').unwrap_or(("", self.text("apiVersion")));
        let gvk = GroupVersionKind::gvk(group, version, self.text("kind"));
        let namespace = self.namespace().or(default_namespace).unwrap_or("default");
        let found = resource::of_kind(client, &gvk).await.with_context(|| self.source.clone())?;
        let plural =
            if group.is_empty() { found.kind.to_lowercase() } else { format!("{}.{group}", found.kind.to_lowercase()) };
        Ok((found.api(client, Some(namespace)), plural))
    }
}

/// Applies one object; the line says what became of it.
pub async fn apply(client: &Client, manifest: &Manifest, default_namespace: Option<&str>) -> Result<String> {
    let (api, kind) = manifest.api(client, default_namespace).await?;
    let name = manifest.name();
    let context = || format!("{}: {kind}/{name}", manifest.source);
    let wanted = with_last_applied(&manifest.object)?;
    let Some(live) = api.get_opt(name).await.with_context(context)? else {
        let object: DynamicObject = serde_json::from_value(wanted).with_context(context)?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        api.create(&params, &object).await.with_context(context)?;
        return Ok(format!("{kind}/{name} created"));
    };
    let earlier = live.metadata.annotations.as_ref().and_then(|annotations| annotations.get(LAST_APPLIED));
    let earlier: Value = earlier.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let patch = with_removals(&earlier, wanted);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch(name, &params, &Patch::Merge(&patch)).await.with_context(context)?;
    let same = patched.metadata.resource_version == live.metadata.resource_version;
    Ok(format!("{kind}/{name} {}", if same { "unchanged" } else { "configured" }))
}

/// The object with itself, as text, in the annotation.
fn with_last_applied(object: &Value) -> Result<Value> {
    let mut plain = object.clone();
    if let Some(annotations) = plain.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", serde_json::to_string(&plain)?);
    let metadata = plain.get_mut("metadata").and_then(Value::as_object_mut).context("the object has no metadata")?;
    match metadata.entry("annotations").or_insert_with(|| json!({})) {
        Value::Object(annotations) => annotations.insert(LAST_APPLIED.to_owned(), text.into()),
        empty => {
            *empty = json!({ LAST_APPLIED: text });
            None
        }
    };
    Ok(plain)
}

/// `wanted`, with a null for each key that `earlier` had and `wanted` does not.
fn with_removals(earlier: &Value, wanted: Value) -> Value {
    let (Value::Object(before), Value::Object(now)) = (earlier, wanted.clone()) else { return wanted };
    let mut patch = Map::new();
    for (key, value) in now {
        let value = match before.get(&key) {
            Some(old) => with_removals(old, value),
            None => value,
        };
        patch.insert(key, value);
    }
    for key in before.keys() {
        patch.entry(key.clone()).or_insert(Value::Null);
    }
    Value::Object(patch)
}

/// Waits until every Deployment among the manifests is available; the names of those that are not in time.
pub async fn wait_until_available(client: &Client, manifests: &[Manifest], patience: Duration) -> Result<Vec<String>> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut late = Vec::new();
    for manifest in manifests.iter().filter(|manifest| manifest.text("kind") == "Deployment") {
        let api: Api<Deployment> = Api::namespaced(client.clone(), manifest.namespace().unwrap_or("default"));
        let available = kube::runtime::wait::await_condition(api, manifest.name(), is_available);
        if tokio::time::timeout_at(deadline, available).await.is_err() {
            late.push(format!("deployment/{} -n {}", manifest.name(), manifest.namespace().unwrap_or("default")));
        }
    }
    Ok(late)
}

fn is_available(deployment: Option<&Deployment>) -> bool {
    let Some((spec, status)) = deployment.and_then(|d| Some((d.spec.as_ref()?, d.status.as_ref()?))) else {
        return false;
    };
    let observed = status.observed_generation >= deployment.and_then(|d| d.metadata.generation);
    let wanted = spec.replicas.unwrap_or(1);
    observed && status.updated_replicas.unwrap_or(0) >= wanted && status.available_replicas.unwrap_or(0) >= wanted
}

/// What to curl: the URL of each Ingress rule that names no host, or any.
pub fn ingress_urls(manifests: &[Manifest], ingress: SocketAddr) -> Vec<String> {
    let mut urls = Vec::new();
    for manifest in manifests.iter().filter(|manifest| manifest.text("kind") == "Ingress") {
        let rules = manifest.object.pointer("/spec/rules").and_then(Value::as_array);
        for rule in rules.into_iter().flatten() {
            let host = rule.get("host").and_then(Value::as_str).map(|host| host.replacen('*', "any", 1));
            let header = host.map(|host| format!("-H 'Host: {host}' ")).unwrap_or_default();
            let paths = rule.pointer("/http/paths").and_then(Value::as_array);
            for path in paths.into_iter().flatten() {
                let path = path.get("path").and_then(Value::as_str).unwrap_or("/");
                urls.push(format!("{header}http://{ingress}{path}"));
            }
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_documents_are_taken_apart() {
        let text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: List\napiVersion: v1\nitems:\n- kind: Secret\n  apiVersion: v1\n  metadata: {name: b}\n";
        let names: Vec<String> = parse("x", text).expect("parsed").iter().map(|m| m.name().to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let error = format!("{:#}", parse("shop.yaml", "kind: Pod\n  bad: indent\n").expect_err("refused"));
        assert!(error.contains("shop.yaml") && error.contains("line 2"), "{error}");
        let error = format!("{:#}", parse("shop.yaml", "kind: Pod\n").expect_err("refused"));
        assert!(error.contains("apiVersion"), "{error}");
    }

    #[test]
    fn what_is_no_longer_said_is_removed() {
        let earlier = json!({"data": {"a": "1", "b": "2"}, "spec": {"x": {"y": 1}}});
        let wanted = json!({"data": {"a": "9"}, "spec": {"x": {}}, "new": true});
        let expected = json!({"data": {"a": "9", "b": null}, "spec": {"x": {"y": null}}, "new": true});
        assert_eq!(with_removals(&earlier, wanted), expected);
    }

    #[test]
    fn the_last_applied_text_does_not_contain_itself() {
        let once = with_last_applied(&json!({"kind": "A", "metadata": {"name": "n", "annotations": null}}))
            .expect("annotated");
        let twice = with_last_applied(&once).expect("annotated");
        let text = |v: &Value| v.pointer("/metadata/annotations").and_then(|a| a[LAST_APPLIED].as_str().map(str::len));
        assert!(text(&twice) <= text(&once).map(|n| n + 20));
    }

    #[test]
    fn urls_follow_the_rules() {
        let text = "kind: Ingress\napiVersion: networking.k8s.io/v1\nmetadata: {name: i}\nspec:\n  rules:\n  - http: {paths: [{path: /, pathType: Prefix}]}\n  - host: '*.example.org'\n    http: {paths: [{path: /x}]}\n";
        let urls = ingress_urls(&parse("x", text).expect("parsed"), "127.0.0.1:8080".parse().expect("address"));
        assert_eq!(urls, ["http://127.0.0.1:8080/", "-H 'Host: any.example.org' http://127.0.0.1:8080/x"]);
    }
}
