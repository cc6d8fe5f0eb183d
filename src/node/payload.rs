//! What files a volume shows: ConfigMaps, Secrets, fields of the pod, or several of them together.
//! Pure: the objects have been looked up before.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;

use super::env::{Found, not_found};
use super::fields::Fields;
use super::objects::{Data, Kind, Name};

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, FileBody>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBody {
    pub bytes: Bytes,
    /// Permission bits.
    pub mode: u32,
}

/// The ConfigMap that the controllers keep in every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Upstream's `defaultMode`.
const DEFAULT_MODE: i32 = 0o644;

/// A token that a projected volume asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWish {
    pub path: String,
    pub audience: Option<String>,
    pub seconds: i64,
    pub mode: u32,
}

/// Whether a volume's content comes from here, rather than being a directory as it is.
pub fn is_made_of_files(volume: &core::Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether a volume may be made when somebody first looks into it: it shows a token, and beside it only what
/// is always there (the cluster's certificate, fields of the pod that do not change). A ConfigMap or Secret
/// of the user's may be missing, which has to be seen before the pod starts.
pub fn may_wait(pod: &core::Pod, volume: &core::Volume) -> bool {
    let waits = |source: &core::VolumeProjection| {
        let root = source.config_map.as_ref().is_none_or(|map| map.name == ROOT_CA);
        let fields = source.downward_api.iter().flat_map(|fields| fields.items.iter().flatten());
        let fixed = |item: &core::DownwardAPIVolumeFile| {
            item.field_ref
                .as_ref()
                .is_some_and(|field| !field.field_path.contains("labels") && !field.field_path.contains("annotations"))
        };
        root && source.secret.is_none() && source.cluster_trust_bundle.is_none() && fields.into_iter().all(fixed)
    };
    let spec = pod.spec.as_ref();
    // Containers that are added later can have no part of a volume.
    let containers = spec.map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut mounts = containers.into_iter().flatten().flat_map(|container| container.volume_mounts.iter().flatten());
    let whole =
        mounts.all(|mount| mount.name != volume.name || (mount.sub_path.is_none() && mount.sub_path_expr.is_none()));
    whole && !tokens(volume).is_empty() && projections(volume).iter().all(waits)
}

/// Whether a volume shows fields of the pod itself.
pub fn shows_fields(volume: &core::Volume) -> bool {
    volume.downward_api.is_some() || projections(volume).iter().any(|source| source.downward_api.is_some())
}

/// The objects that a volume shows.
pub fn references(namespace: &str, volume: &core::Volume) -> Vec<Name> {
    let named = |kind, name: &str| Name { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    let mut names = Vec::new();
    names.extend(volume.config_map.iter().map(|map| named(Kind::ConfigMap, &map.name)));
    let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
    names.extend(secret.map(|name| named(Kind::Secret, name)));
    for source in projections(volume) {
        names.extend(source.config_map.iter().map(|map| named(Kind::ConfigMap, &map.name)));
        names.extend(source.secret.iter().map(|secret| named(Kind::Secret, &secret.name)));
    }
    names
}

/// The tokens that a volume shows.
pub fn tokens(volume: &core::Volume) -> Vec<TokenWish> {
    let mode = mode(None, volume.projected.as_ref().and_then(|projected| projected.default_mode));
    let wishes = projections(volume).iter().filter_map(|source| source.service_account_token.as_ref());
    wishes
        .map(|token| TokenWish {
            path: token.path.clone(),
            audience: token.audience.clone().filter(|audience| !audience.is_empty()),
            seconds: token.expiration_seconds.unwrap_or(3600),
            mode,
        })
        .collect()
}

fn projections(volume: &core::Volume) -> &[core::VolumeProjection] {
    volume.projected.as_ref().and_then(|projected| projected.sources.as_deref()).unwrap_or_default()
}

/// The files of a volume but for its tokens, or what is missing, in upstream's words.
pub fn files(volume: &core::Volume, fields: &Fields<'_>, found: &Found) -> Result<Payload, String> {
    let namespace = fields.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut payload = Payload::new();
    if let Some(map) = &volume.config_map {
        let wanted = Wanted { kind: Kind::ConfigMap, name: &map.name, items: &map.items, optional: map.optional };
        wanted.add(namespace, found, map.default_mode, &mut payload)?;
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let wanted = Wanted { kind: Kind::Secret, name, items: &secret.items, optional: secret.optional };
        wanted.add(namespace, found, secret.default_mode, &mut payload)?;
    }
    if let Some(downward) = &volume.downward_api {
        add_fields(downward.items.as_deref(), downward.default_mode, fields, &mut payload)?;
    }
    let default = volume.projected.as_ref().and_then(|projected| projected.default_mode);
    for source in projections(volume) {
        if let Some(map) = &source.config_map {
            let wanted = Wanted { kind: Kind::ConfigMap, name: &map.name, items: &map.items, optional: map.optional };
            wanted.add(namespace, found, default, &mut payload)?;
        }
        if let Some(secret) = &source.secret {
            let wanted =
                Wanted { kind: Kind::Secret, name: &secret.name, items: &secret.items, optional: secret.optional };
            wanted.add(namespace, found, default, &mut payload)?;
        }
        if let Some(downward) = &source.downward_api {
            add_fields(downward.items.as_deref(), default, fields, &mut payload)?;
        }
    }
    Ok(payload)
}

/// One ConfigMap or Secret that a volume shows.
struct Wanted<'a> {
    kind: Kind,
    name: &'a str,
    items: &'a Option<Vec<core::KeyToPath>>,
    optional: Option<bool>,
}

impl Wanted<'_> {
    fn add(&self, namespace: &str, found: &Found, default: Option<i32>, payload: &mut Payload) -> Result<(), String> {
        let name = Name { kind: self.kind, namespace: namespace.to_owned(), name: self.name.to_owned() };
        let optional = self.optional == Some(true);
        match found.get(&name) {
            Some(data) => self.add_data(data, default, optional, payload),
            None if optional => Ok(()),
            None => Err(not_found(self.kind, self.name)),
        }
    }

    fn add_data(&self, data: &Data, default: Option<i32>, optional: bool, payload: &mut Payload) -> Result<(), String> {
        let Some(items) = self.items.as_deref().filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                add(payload, key, bytes.clone(), mode(None, default))?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => add(payload, &item.path, bytes.clone(), mode(item.mode, default))?,
                None if optional => {}
                None => {
                    return Err(format!(
                        "references non-existent {} key: {}",
                        self.kind.to_string().to_lowercase(),
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }
}

fn add_fields(
    items: Option<&[core::DownwardAPIVolumeFile]>,
    default: Option<i32>,
    fields: &Fields<'_>,
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let own = core::Container::default();
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields.field(&field.field_path),
            (None, Some(resource)) => fields.resource(resource, &own),
            (None, None) => None,
        };
        let value = value.ok_or_else(|| format!("the downward API has no value for the file {}", item.path))?;
        add(payload, &item.path, Bytes::from(value), mode(item.mode, default))?;
    }
    Ok(())
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

fn add(payload: &mut Payload, path: &str, bytes: Bytes, mode: u32) -> Result<(), String> {
    if !is_inside(path) {
        return Err(format!("the file name {path:?} leads out of its volume"));
    }
    payload.insert(path.to_owned(), FileBody { bytes, mode });
    Ok(())
}

/// Whether `path` stays below where it starts, and does not begin like the names that are used for
/// the volume's own directories.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::node::fields::Allocatable;

    fn made(volume: Value, found: &Found) -> Result<Vec<(String, String, u32)>, String> {
        let volume: core::Volume = serde_json::from_value(volume).expect("a volume");
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "labels": { "app": "web" } }, "spec": { "containers": [] },
        }))
        .expect("a pod");
        let allocatable = Allocatable { cpu_millis: 1000, memory_bytes: 1, storage_bytes: 1 };
        let ip = IpAddr::from([127, 0, 0, 1]);
        let fields = Fields { pod: &pod, pod_ip: ip, host_ip: ip, allocatable };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        files(&volume, &fields, found)
            .map(|files| files.into_iter().map(|(path, file)| (path, text(&file.bytes), file.mode)).collect())
    }

    fn found() -> Found {
        let data = |pairs: &[(&str, &str)]| {
            Arc::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), Bytes::from((*v).to_owned()))).collect::<Data>())
        };
        let name = |kind, name: &str| Name { kind, namespace: "ns".into(), name: name.into() };
        [
            (name(Kind::ConfigMap, "m"), data(&[("a", "1"), ("b", "2")])),
            (name(Kind::Secret, "s"), data(&[("key", "secret")])),
        ]
        .into()
    }

    fn row(path: &str, text: &str, mode: u32) -> (String, String, u32) {
        (path.into(), text.into(), mode)
    }

    #[test]
    fn volumes_show_their_sources() {
        let cases = [
            (json!({ "name": "v", "configMap": { "name": "m" } }), vec![row("a", "1", 0o644), row("b", "2", 0o644)]),
            (
                json!({ "name": "v", "secret": { "secretName": "s", "defaultMode": 256, "items": [
                    { "key": "key", "path": "deep/file", "mode": 384 }] } }),
                vec![row("deep/file", "secret", 0o600)],
            ),
            (json!({ "name": "v", "configMap": { "name": "none", "optional": true } }), vec![]),
            (
                json!({ "name": "v", "projected": { "sources": [
                    { "configMap": { "name": "m", "items": [{ "key": "a", "path": "x" }] } },
                    { "downwardAPI": { "items": [{ "path": "ns", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
                    { "serviceAccountToken": { "path": "token" } },
                ] } }),
                vec![row("ns", "ns", 0o644), row("x", "1", 0o644)],
            ),
        ];
        for (volume, files) in cases {
            assert_eq!(made(volume, &found()), Ok(files));
        }
    }

    #[test]
    fn what_is_missing_or_hostile_is_refused() {
        let cases = [
            (json!({ "name": "v", "configMap": { "name": "none" } }), "configmap \"none\" not found"),
            (
                json!({ "name": "v", "secret": { "secretName": "s", "items": [{ "key": "k", "path": "p" }] } }),
                "references non-existent secret key: k",
            ),
            (
                json!({ "name": "v", "configMap": { "name": "m", "items": [{ "key": "a", "path": "../x" }] } }),
                "the file name \"../x\" leads out of its volume",
            ),
            (
                json!({ "name": "v", "configMap": { "name": "m", "items": [{ "key": "a", "path": "/etc/x" }] } }),
                "the file name \"/etc/x\" leads out of its volume",
            ),
        ];
        for (volume, message) in cases {
            assert_eq!(made(volume, &found()), Err(message.to_owned()));
        }
    }
}
