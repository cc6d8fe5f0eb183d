//! The volumes behind a pod's claims, as directories of this machine.
//!
//! A volume of the class `local` is a directory here, named after the volume and made when the first pod
//! comes with it. It outlives pods and restarts. When its PersistentVolume is gone and was to be deleted,
//! the directory is removed; what was to be retained stays until somebody removes it by hand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Client;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::payload::is_inside;
use crate::kinds::storage_class::DRIVER;
use crate::reconcile::{ObjectKey, ResourceType, Watched};

/// Beside a directory: what becomes of it without its volume.
const POLICY: &str = "policy";
/// How often directories are looked through whose volume may be gone.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Removes what deleted volumes have left, from time to time, until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    loop {
        context.volumes.sweep_claims().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

/// Where a claim's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub path: PathBuf,
    /// The volume offers reading only.
    pub read_only: bool,
}

/// Finds and makes the directories of claims.
pub struct Claims {
    client: Client,
    /// `<root>/<volume>/data`, and beside it the policy.
    root: PathBuf,
}

impl Claims {
    pub fn new(client: Client, root: PathBuf) -> Self {
        Self { client, root }
    }

    /// The directory of a claim; says what is missing otherwise.
    pub async fn directory(&self, namespace: &str, claim: &str) -> Result<Directory, String> {
        let key = ObjectKey::new(namespace, claim);
        let found: PersistentVolumeClaim =
            self.get(&key).await?.ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" not found"))?;
        let spec = found.spec.unwrap_or_default();
        let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
        let Some(name) = spec.volume_name.filter(|name| !name.is_empty() && phase == "Bound") else {
            return Err(format!("PVC is not bound: persistentvolumeclaim \"{claim}\" is {phase}"));
        };
        let volume: PersistentVolume = self
            .get(&ObjectKey::cluster(name.as_str()))
            .await?
            .ok_or_else(|| format!("persistentvolume \"{name}\" not found"))?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if reference.and_then(|r| r.uid.as_ref()) != found.metadata.uid.as_ref() {
            return Err(format!("persistentvolume \"{name}\" is bound to another claim"));
        }
        self.of_volume(&name, &volume).await
    }

    async fn of_volume(&self, name: &str, volume: &PersistentVolume) -> Result<Directory, String> {
        let spec = volume.spec.clone().unwrap_or_default();
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err("a Wasm node cannot give block devices to pods".to_owned());
        }
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
        if let Some(csi) = spec.csi.filter(|csi| csi.driver == DRIVER) {
            let (root, handle) = (self.root.clone(), csi.volume_handle);
            let policy = spec.persistent_volume_reclaim_policy.unwrap_or_default();
            let made = tokio::task::spawn_blocking(move || make(&root, &handle, &policy)).await;
            let path = made.map_err(io::Error::other).flatten();
            let path = path.map_err(|error| format!("cannot make the directory of volume {name}: {error}"))?;
            return Ok(Directory { path, read_only: read_only || csi.read_only == Some(true) });
        }
        if let Some(host) = spec.host_path {
            return super::volumes::host_path(&host).map(|path| Directory { path, read_only });
        }
        if let Some(local) = spec.local {
            let path = PathBuf::from(local.path);
            if path.is_dir() {
                return Ok(Directory { path, read_only });
            }
            return Err(format!("the local volume {name} has no directory {} on this node", path.display()));
        }
        Err(format!(
            "persistentvolume \"{name}\" is of a kind that a Wasm node does not support; supported are the class \
             local, hostPath and local"
        ))
    }

    /// `None` where there is no such object.
    async fn get<K: Watched + DeserializeOwned>(&self, key: &ObjectKey) -> Result<Option<K>, String> {
        let path = ResourceType::of::<K>().object_path(key);
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        match self.client.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(format!("reading {} {key}: {error}", K::kind(&()).to_lowercase())),
        }
    }

    /// Removes the directories whose volumes are gone and were to be deleted.
    pub async fn sweep(&self) {
        let root = self.root.clone();
        let doomed = tokio::task::spawn_blocking(move || deletable(&root)).await.unwrap_or_default();
        for name in doomed {
            if let Ok(None) = self.get::<PersistentVolume>(&ObjectKey::cluster(name.as_str())).await {
                tracing::info!(volume = name, "removing the directory of a deleted volume");
                let dir = self.root.join(&name);
                let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await;
            }
        }
    }
}

/// Makes a volume's directory and notes what is to become of it.
fn make(root: &Path, handle: &str, policy: &str) -> io::Result<PathBuf> {
    if !is_inside(handle) || handle.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{handle:?} cannot be a directory's name")));
    }
    let data = root.join(handle).join("data");
    fs::create_dir_all(&data)?;
    fs::write(root.join(handle).join(POLICY), policy)?;
    Ok(data)
}

/// The volumes whose directories may go when they do.
fn deletable(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let deletes = |dir: &Path| fs::read_to_string(dir.join(POLICY)).is_ok_and(|policy| policy == "Delete");
    entries.filter(|entry| deletes(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_once_and_only_some_may_go() {
        let root = tempfile::tempdir().expect("a directory");
        let data = make(root.path(), "pvc-1", "Delete").expect("it is made");
        fs::write(data.join("f"), "kept").expect("a file");
        make(root.path(), "pvc-2", "Retain").expect("it is made");
        assert_eq!(make(root.path(), "pvc-1", "Delete").expect("it is there"), data);
        assert_eq!(fs::read_to_string(data.join("f")).expect("the file"), "kept");
        assert_eq!(deletable(root.path()), ["pvc-1"]);
        assert!(make(root.path(), "../x", "Delete").is_err() && make(root.path(), "a/b", "Delete").is_err());
    }
}
