//! A pod's volumes as directories of this machine, and a container's mounts of them.
//!
//! A Wasm container can be given directories only (they become preopens). A mount of a single file (`subPath` of a
//! ConfigMap's key, a `hostPath` file) is therefore given as a directory at the file's parent that holds that file
//! and its like; a runtime that mounts files is given the file. ConfigMaps, Secrets, fields and tokens are kept up to
//! date while the pod runs, except in such single files, as upstream.
//!
//! The tokens that every pod is given and few read are fetched when a guest first looks: [`deferred`].
//!
//! An `emptyDir` is a directory on the disk or in memory: [`empty_dir`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{FutureExt as _, select_all};
use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;

use super::atomic_dir;
use super::claims::{Claims, Directory};
use super::env::{Found, expand};
use super::fields::Fields;
use super::fs_group;
use super::objects::{Lookup, Name, Objects, Tracked, next_known};
use super::payload::{self, FileBody, Payload, is_inside};
use super::tokens::Tokens;
use crate::runtime::{DeferredMounts, Mount, Propagation};

mod deferred;
pub mod empty_dir;

use deferred::Deferred;
use empty_dir::InMemory;

/// Tokens are fetched anew after this part of their life, as upstream does.
const TOKEN_RENEWAL: f64 = 0.8;

/// Makes and removes the volumes of a node's pods.
pub struct Volumes {
    /// `<root>/<uid>/volumes/<name>`
    root: PathBuf,
    objects: Arc<Objects>,
    tokens: Tokens,
    claims: Claims,
    memory: Arc<InMemory>,
    versions: AtomicU64,
}

/// Where the volumes of one pod are.
pub struct PodVolumes {
    dir: PathBuf,
    by_name: HashMap<String, PathBuf>,
    /// Those that nobody writes to but the node, as upstream has it: what shows the API's state, and
    /// claims that offer reading only.
    read_only: HashSet<String>,
    /// Those that are made when somebody looks into them.
    deferred: Vec<Deferred>,
}

/// What keeps the volumes of one pod up to date.
#[derive(Default)]
pub struct Sources {
    tracked: HashMap<Name, (Arc<Tracked>, watch::Receiver<Lookup>)>,
    /// Until tokens must be renewed.
    renew_after: Option<Duration>,
}

impl Volumes {
    pub fn new(root: PathBuf, objects: Arc<Objects>, tokens: Tokens, claims: Claims) -> Volumes {
        let memory = Arc::new(InMemory::new(&root));
        Volumes { root, objects, tokens, claims, memory, versions: AtomicU64::new(0) }
    }

    /// Removes what deleted PersistentVolumes have left.
    pub async fn sweep_claims(&self) {
        self.claims.sweep().await;
    }

    /// Makes all volumes of a pod, or says what is in the way, naming the volume.
    pub async fn mount(
        self: &Arc<Self>,
        pod: &Arc<core::Pod>,
        fields: &Fields<'_>,
    ) -> Result<(PodVolumes, Sources), String> {
        let uid = fields.pod.metadata.uid.as_deref().unwrap_or_default();
        if !is_inside(uid) || uid.contains('/') {
            return Err(format!("the pod's uid {uid:?} cannot be a directory's name"));
        }
        let mut volumes = PodVolumes {
            dir: self.root.join(uid),
            by_name: HashMap::new(),
            read_only: HashSet::new(),
            deferred: Vec::new(),
        };
        let mut sources = Sources::default();
        for (index, volume) in all(pod).iter().enumerate() {
            if payload::may_wait(pod, volume) {
                let dir = volumes.dir.join("volumes").join(&volume.name);
                volumes.by_name.insert(volume.name.clone(), dir.clone());
                volumes.read_only.insert(volume.name.clone());
                volumes.deferred.push(Deferred::new(self.clone(), pod.clone(), index, fields, dir));
                continue;
            }
            let failed = |why: String| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name);
            let mounted = self.mount_one(volume, fields, &volumes.dir, &mut sources).await.map_err(failed)?;
            volumes.by_name.insert(volume.name.clone(), mounted.path);
            if mounted.read_only {
                volumes.read_only.insert(volume.name.clone());
            }
        }
        Ok((volumes, sources))
    }

    async fn mount_one(
        &self,
        volume: &core::Volume,
        fields: &Fields<'_>,
        pod_dir: &Path,
        sources: &mut Sources,
    ) -> Result<Directory, String> {
        let writable = |path: PathBuf| Directory { path, read_only: false };
        let dir = pod_dir.join("volumes").join(&volume.name);
        if payload::is_made_of_files(volume) {
            self.follow(volume, fields.pod, sources);
            self.write(volume, fields, sources, dir.clone()).await?;
            Ok(Directory { path: dir, read_only: true })
        } else if let Some(source) = &volume.empty_dir {
            self.empty_dir(dir, volume, source, fields).await.map(writable)
        } else if let Some(host) = &volume.host_path {
            host_path(host).map(writable)
        } else if let Some(claim) = &volume.persistent_volume_claim {
            let namespace = fields.pod.metadata.namespace.as_deref().unwrap_or_default();
            let mut found = self.claims.directory(namespace, &claim.claim_name).await?;
            found.read_only |= claim.read_only == Some(true);
            Ok(found)
        } else {
            Err("this kind of volume is not supported by a Wasm node; supported are configMap, secret, \
                        emptyDir, hostPath, persistentVolumeClaim, downwardAPI and projected"
                .to_owned())
        }
    }

    async fn empty_dir(
        &self,
        dir: PathBuf,
        volume: &core::Volume,
        source: &core::EmptyDirVolumeSource,
        fields: &Fields<'_>,
    ) -> Result<PathBuf, String> {
        let failed = |error: io::Error| format!("cannot make {}: {error}", dir.display());
        let made = match source.medium.as_deref().unwrap_or_default() {
            "" => fs::create_dir_all(&dir).map(|()| dir.clone()).map_err(failed)?,
            "Memory" => {
                let bytes = empty_dir::capacity(source, fields.pod, fields.allocatable.memory_bytes);
                let uid = fields.pod.metadata.uid.clone().unwrap_or_default();
                let (memory, dir, name) = (self.memory.clone(), dir.clone(), volume.name.clone());
                let made = tokio::task::spawn_blocking(move || memory.make(dir, &uid, &name, bytes));
                made.await.map_err(|error| error.to_string()).flatten()?
            }
            other => {
                return Err(format!(
                    "the medium {other:?} is not one of this node's; they are \"\", its disk, and \"Memory\""
                ));
            }
        };
        empty_dir::open_to_all(&made).map_err(failed)?;
        give_to_group(&made, fields.pod);
        Ok(made)
    }

    /// Where a pod's `emptyDir` of that name is.
    pub fn empty_dir_of(&self, uid: &str, name: &str) -> PathBuf {
        self.memory.elsewhere(uid, name).unwrap_or_else(|| self.root.join(uid).join("volumes").join(name))
    }

    /// From now on `sources` knows what changes the volume.
    fn follow(&self, volume: &core::Volume, pod: &core::Pod, sources: &mut Sources) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for name in payload::references(namespace, volume) {
            let tracked = self.objects.track(&name);
            let reader = tracked.reader();
            sources.tracked.insert(name, (tracked, reader));
        }
        let shortest = payload::tokens(volume).iter().map(|wish| wish.seconds).min();
        let renewal = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(600)).mul_f64(TOKEN_RENEWAL);
        sources.renew_after = [sources.renew_after, shortest.map(renewal)].into_iter().flatten().min();
    }

    /// Computes what a volume shows and puts it in place.
    async fn write(
        &self,
        volume: &core::Volume,
        fields: &Fields<'_>,
        sources: &mut Sources,
        dir: PathBuf,
    ) -> Result<(), String> {
        let mut payload = payload::files(volume, fields, &sources.found().await)?;
        for wish in payload::tokens(volume) {
            let token = self.tokens.get(fields.pod, &wish).await;
            let token = token.map_err(|error| format!("failed to fetch token: {error}"))?;
            payload.extend(token.map(|bytes| (wish.path.clone(), FileBody { bytes, mode: wish.mode })));
        }
        // Unique in this process and, by the time, across its lives.
        let number = self.versions.fetch_add(1, Ordering::Relaxed);
        let version = format!("{}_{number}", jiff::Timestamp::now().as_millisecond());
        let group = fs_group::of(fields.pod);
        let written = tokio::task::spawn_blocking(move || {
            write_if_new(&dir, &payload, &version)?;
            group.map_or(Ok(()), |group| fs_group::give(&dir, group).or_else(if_not_root))
        });
        match written.await.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("cannot write its files: {error}")),
        }
    }

    /// Brings all volumes up to date; what cannot be brought stays as it was.
    pub async fn refresh(&self, volumes: &PodVolumes, sources: &mut Sources, fields: &Fields<'_>) {
        let made = |volume: &&core::Volume| payload::is_made_of_files(volume) && !payload::may_wait(fields.pod, volume);
        for volume in all(fields.pod).iter().filter(made) {
            let Some(dir) = volumes.by_name.get(&volume.name) else { continue };
            if let Err(error) = self.write(volume, fields, sources, dir.clone()).await {
                tracing::debug!(volume = %volume.name, %error, "a volume stays as it was");
            }
        }
    }

    /// A directory of the pod's own that is none of its volumes.
    pub fn own_dir(&self, uid: &str, name: &str) -> PathBuf {
        self.root.join(uid).join(name)
    }

    /// Removes what a pod had on the disk.
    pub async fn remove(&self, uid: &str) {
        if !is_inside(uid) || uid.contains('/') {
            return;
        }
        let (dir, memory, uid) = (self.root.join(uid), self.memory.clone(), uid.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            memory.remove(&uid, &dir.join("volumes"));
            fs::remove_dir_all(dir)
        });
        let _ = removed.await;
    }

    /// Removes the directories of pods that `known` does not know: they went while nobody was here.
    pub fn sweep(&self, known: impl Fn(&str) -> bool) {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for uid in kept.chain(self.memory.pods()).filter(|uid| !known(uid)) {
            let dir = self.root.join(&uid);
            self.memory.remove(&uid, &dir.join("volumes"));
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Sources {
    /// Waits until something that the volumes show has changed or is about to expire.
    pub async fn changed(&mut self) {
        let renew_after = self.renew_after;
        let renewal = async {
            match renew_after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        if self.tracked.is_empty() {
            return renewal.await;
        }
        let waits = self.tracked.values_mut().map(|(_, reader)| reader.changed().boxed());
        tokio::select! {
            () = renewal => {}
            _ = select_all(waits) => {}
        }
    }

    async fn found(&mut self) -> Found {
        let mut found = Found::new();
        for (name, (_, reader)) in &mut self.tracked {
            if let Lookup::Found(data) = next_known(reader).await {
                found.insert(name.clone(), data);
            }
        }
        found
    }

    /// Whether nothing that the volumes show can change but by the pod itself.
    pub fn is_fixed(&self) -> bool {
        self.tracked.is_empty() && self.renew_after.is_none()
    }
}

impl PodVolumes {
    /// The mounts of a container; `files`: it can be given single files.
    pub fn mounts(
        &self,
        container: &core::Container,
        env: &BTreeMap<String, String>,
        files: bool,
    ) -> Result<Vec<Mount>, String> {
        let mut mounts: Vec<Mount> = Vec::new();
        for wish in container.volume_mounts.iter().flatten() {
            let host = self.by_name.get(&wish.name).ok_or_else(|| format!("no volume is named \"{}\"", wish.name))?;
            let sub = match (&wish.sub_path, &wish.sub_path_expr) {
                (_, Some(expression)) => Some(expand(expression, env)),
                (sub, None) => sub.clone(),
            };
            let host = sub_path(host, sub.as_deref().unwrap_or_default())?;
            let read_only = self.is_read_only(wish);
            if files || self.is_deferred(&host) || host.is_dir() {
                let propagation = propagation(wish);
                mounts.push(Mount { host, guest: wish.mount_path.clone(), read_only, propagation });
            } else {
                self.mount_file(container, wish, &host, &mut mounts)?;
            }
        }
        Ok(mounts)
    }

    /// Whether a container has mounts that are still to be made.
    pub fn has_deferred(&self, mounts: &[Mount]) -> bool {
        mounts.iter().any(|mount| self.is_deferred(&mount.host))
    }

    fn is_deferred(&self, dir: &Path) -> bool {
        self.deferred.iter().any(|deferred| deferred.dir == dir)
    }

    fn is_read_only(&self, wish: &core::VolumeMount) -> bool {
        wish.read_only == Some(true) || self.read_only.contains(&wish.name)
    }

    /// Gives a single file as a directory at its parent.
    fn mount_file(
        &self,
        container: &core::Container,
        wish: &core::VolumeMount,
        host: &Path,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), String> {
        let guest = Path::new(&wish.mount_path);
        let (Some(parent), Some(name)) = (guest.parent().and_then(Path::to_str), guest.file_name()) else {
            return Err(format!("a file cannot be mounted at {}", wish.mount_path));
        };
        let known = mounts.iter().find(|mount| mount.guest == parent);
        let dir = match known {
            Some(mount) => mount.host.clone(),
            None => self.dir.join("files").join(&container.name).join(mounts.len().to_string()),
        };
        let failed = |error: io::Error| format!("cannot give the file {} to the container: {error}", wish.mount_path);
        fs::create_dir_all(&dir).map_err(failed)?;
        let target = dir.join(name);
        let _ = fs::remove_file(&target);
        fs::copy(host, &target).map_err(failed)?;
        if known.is_none() {
            let read_only = self.is_read_only(wish);
            mounts.push(Mount { host: dir, guest: parent.to_owned(), read_only, propagation: propagation(wish) });
        }
        Ok(())
    }
}

fn propagation(wish: &core::VolumeMount) -> Propagation {
    match wish.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    }
}

/// Lets go of what pods have in memory, when the node stops and none of them goes on.
pub fn let_go(data_dir: &Path) {
    let root = data_dir.join("pods");
    InMemory::new(&root).let_go(&root);
}

/// To the pod's `fsGroup`, where it names one.
fn give_to_group(dir: &Path, pod: &core::Pod) {
    if let Some(group) = fs_group::of(pod)
        && let Err(error) = fs_group::give(dir, group)
    {
        tracing::debug!(dir = %dir.display(), %error, "a volume stays as it was");
    }
}

/// A node that is not root cannot give files away; they may be read all the same.
fn if_not_root(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) }
}

#[async_trait::async_trait]
impl DeferredMounts for PodVolumes {
    fn has(&self, mount: &Mount) -> bool {
        self.is_deferred(&mount.host)
    }

    async fn make(&self) -> Result<(), String> {
        for volume in &self.deferred {
            volume.make().await?;
        }
        Ok(())
    }
}

fn all(pod: &core::Pod) -> &[core::Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// `sub` below `volume`; made if it is not there. Links may not lead out.
fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    if sub.is_empty() {
        return Ok(volume.to_owned());
    }
    if !is_inside(sub) {
        return Err(format!("the subPath {sub:?} leads out of its volume"));
    }
    let path = volume.join(sub);
    let failed = |error: io::Error| format!("cannot use the subPath {sub:?}: {error}");
    if !path.exists() {
        fs::create_dir_all(&path).map_err(failed)?;
    }
    let (real, root) = (path.canonicalize().map_err(failed)?, volume.canonicalize().map_err(failed)?);
    if real.starts_with(&root) { Ok(real) } else { Err(format!("the subPath {sub:?} leads out of its volume")) }
}

/// A directory or file of the machine, checked as `type` asks.
pub fn host_path(host: &core::HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&host.path);
    let make_dir = || fs::create_dir_all(&path);
    let make_file = || fs::OpenOptions::new().create(true).append(true).open(&path).map(drop);
    let (made, ok) = match host.type_.as_deref().unwrap_or_default() {
        "" => (Ok(()), path.exists()),
        "DirectoryOrCreate" => (make_dir(), path.is_dir()),
        "Directory" => (Ok(()), path.is_dir()),
        "FileOrCreate" => (make_file(), path.is_file()),
        "File" => (Ok(()), path.is_file()),
        other => return Err(format!("hostPath type {other} is not supported by a Wasm node")),
    };
    made.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    if ok {
        return Ok(path);
    }
    let wanted = host.type_.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("path");
    Err(format!("hostPath type check failed: {} is not a {}", path.display(), wanted.to_lowercase()))
}

/// Writes only if something differs: a node that comes back finds most volumes as they should be.
fn write_if_new(dir: &Path, payload: &Payload, version: &str) -> io::Result<()> {
    let data = dir.join("..data");
    let same = data.exists()
        && payload.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.bytes))
        && count(&data) == payload.len();
    if same { Ok(()) } else { atomic_dir::write(dir, payload, version) }
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/", dir.path().join("out")).expect("a link");
        assert!(sub_path(dir.path(), "new/dir").is_ok_and(|path| path.is_dir()));
        for bad in ["../x", "/etc", "out", "a/../../x"] {
            assert!(sub_path(dir.path(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let source = |name: &str, kind: &str| core::HostPathVolumeSource {
            path: dir.path().join(name).display().to_string(),
            type_: Some(kind.to_owned()),
        };
        assert!(host_path(&source("none", "Directory")).is_err_and(|why| why.contains("is not a directory")));
        assert!(host_path(&source("made", "DirectoryOrCreate")).is_ok());
        assert!(host_path(&source("file", "FileOrCreate")).is_ok());
        assert!(host_path(&source("file", "Directory")).is_err());
        assert!(host_path(&source("x", "Socket")).is_err());
    }
}
