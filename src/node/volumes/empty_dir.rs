//! `emptyDir`: a directory of the pod's own, on the disk or in memory.
//!
//! In memory it is a tmpfs as large as the volume may be, where the node may mount one, which is as root.
//! Elsewhere it is a directory on the machine's shared memory, a tmpfs that everybody may write to: there
//! nothing stops a writer at the limit, and its pod is let go when it is seen beyond it
//! ([`super::super::local_storage`]). Both are directories of this machine, so that a guest and the
//! processes of a container see them alike.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1 as core;
use sha2::{Digest as _, Sha256};

use super::super::fields::limit_units;
use crate::kinds::quantity::Quantity;

/// Where Linux has its shared memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// `statfs`'s name of a tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// The directories in memory of one node.
pub struct InMemory {
    /// Below the machine's shared memory: `<shared>/<uid>/<name>`.
    shared: PathBuf,
}

impl InMemory {
    /// For the node that has its volumes below `root`.
    pub fn new(root: &Path) -> Self {
        Self::below(Path::new(SHARED_MEMORY), root)
    }

    fn below(memory: &Path, root: &Path) -> Self {
        let mark: String =
            Sha256::digest(root.as_os_str().as_encoded_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { shared: memory.join(format!("coracle-{mark}")) }
    }

    /// Makes the volume's directory at `dir`, or says where it is instead.
    ///
    /// # Errors
    /// In words: what was tried, and why it failed.
    pub fn make(&self, dir: PathBuf, uid: &str, name: &str, bytes: u64) -> Result<PathBuf, String> {
        let failed = |error: io::Error| format!("cannot make {}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(failed)?;
        if is_mount_point(&dir) {
            // A process of the node before this one has mounted it.
            return Ok(dir);
        }
        let why = match mount(&dir, bytes) {
            Ok(()) => return Ok(dir),
            Err(why) => why,
        };
        if is_tmpfs(&dir) {
            return Ok(dir);
        }
        self.make_shared(uid, name).map_err(|error| {
            format!(
                "cannot make a directory in memory: {why}; and {} cannot be used: {error}; run the node as root, or give \
                 it a shared memory that it may write to",
                self.shared.display()
            )
        })
    }

    fn make_shared(&self, uid: &str, name: &str) -> io::Result<PathBuf> {
        let memory = self.shared.parent().unwrap_or(Path::new(SHARED_MEMORY));
        if !is_tmpfs(memory) {
            return Err(io::Error::other(format!("{} is no tmpfs", memory.display())));
        }
        if let Err(error) = DirBuilder::new().mode(0o700).create(&self.shared)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        // Anybody may make directories there, and wait for others to use them.
        let facts = fs::symlink_metadata(&self.shared)?;
        if !facts.is_dir() || facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        let dir = self.shared.join(uid).join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Where the volume is, if it is not at its usual place.
    pub fn elsewhere(&self, uid: &str, name: &str) -> Option<PathBuf> {
        Some(self.shared.join(uid).join(name)).filter(|dir| dir.is_dir())
    }

    /// Removes what a pod had in memory; `volumes` is where its volumes are.
    pub fn remove(&self, uid: &str, volumes: &Path) {
        unmount_in(volumes);
        let _ = fs::remove_dir_all(self.shared.join(uid));
    }

    /// The pods that have something on the shared memory.
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.shared).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Lets go of everything in memory: the node stops, and nobody of its pods goes on. `root` as in [`InMemory::new`].
    pub fn let_go(&self, root: &Path) {
        for pod in fs::read_dir(root).into_iter().flatten().flatten() {
            unmount_in(&pod.path().join("volumes"));
        }
        let _ = fs::remove_dir_all(&self.shared);
    }
}

/// Bytes that a volume in memory may hold: its limit, or else what its pod, or else the machine, may.
pub fn capacity(source: &core::EmptyDirVolumeSource, pod: &core::Pod, machine: u64) -> u64 {
    [size_limit(source), memory_limit(pod)].into_iter().flatten().fold(machine, u64::min)
}

/// The limit of a volume, in bytes; `None`, or 0: none.
pub fn size_limit(source: &core::EmptyDirVolumeSource) -> Option<u64> {
    u64::try_from(source.size_limit.as_ref()?.0.parse::<Quantity>().ok()?.units()).ok().filter(|limit| *limit > 0)
}

/// What the pod's containers may hold together, as far as it is said.
fn memory_limit(pod: &core::Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().filter_map(|container| limit_units(container, "memory"));
    limit_units(spec, "memory").or_else(|| containers.reduce(u64::saturating_add)).filter(|limit| *limit > 0)
}

/// Gives it to whoever a container's user is, as upstream has it.
pub fn open_to_all(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

/// Mounts a tmpfs; by the machine's `mount`, as the kubelet does.
fn mount(dir: &Path, bytes: u64) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may mount".to_owned());
    }
    let options = format!("size={bytes},mode=0777,nosuid,nodev");
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir);
    let output = command.output().map_err(|error| format!("mount: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Unmounts whatever is mounted on an entry of `dir`. Who still has it open keeps it until he closes it.
fn unmount_in(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_mount_point(&path)
            && let Err(error) = Command::new("umount").arg("--lazy").arg(&path).output()
        {
            tracing::warn!(path = %path.display(), %error, "a volume in memory stays mounted");
        }
    }
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir).map(|facts| facts.dev());
    let (own, above) = (device(dir), dir.parent().and_then(device));
    own.is_some() && above.is_some() && own != above
}

fn is_tmpfs(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|facts| facts.f_type == TMPFS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_in_memory_is_as_large_as_what_is_said_first() {
        let of = |source: serde_json::Value, spec: serde_json::Value| {
            let pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).expect("a pod");
            capacity(&serde_json::from_value(source).expect("a source"), &pod, 1 << 30)
        };
        let limited = json!({ "containers": [
            { "name": "a", "resources": { "limits": { "memory": "64Mi" } } },
            { "name": "b", "resources": { "limits": { "memory": "32Mi" } } },
        ] });
        let whole = json!({ "containers": [{ "name": "a" }], "resources": { "limits": { "memory": "16Mi" } } });
        assert_eq!(of(json!({ "medium": "Memory" }), json!({ "containers": [{ "name": "a" }] })), 1 << 30);
        assert_eq!(of(json!({ "medium": "Memory" }), limited.clone()), 96 << 20);
        assert_eq!(of(json!({ "medium": "Memory" }), whole), 16 << 20);
        assert_eq!(of(json!({ "sizeLimit": "8Mi" }), limited.clone()), 8 << 20);
        assert_eq!(of(json!({ "sizeLimit": "0" }), limited), 96 << 20, "none at all");
    }

    #[test]
    fn without_a_mount_it_is_on_the_machines_shared_memory_and_goes_with_its_pod() {
        let root = tempfile::tempdir().expect("a directory");
        let memory = InMemory::new(root.path());
        if !is_tmpfs(Path::new(SHARED_MEMORY)) {
            eprintln!("SKIPPED: this machine has no tmpfs at {SHARED_MEMORY}");
            return;
        }
        let dir = memory.make_shared("u", "data").expect("made");
        assert!(is_tmpfs(&dir) && memory.elsewhere("u", "data") == Some(dir.clone()));
        assert_eq!(memory.pods(), ["u"]);
        memory.remove("u", root.path());
        assert!(!dir.exists() && memory.elsewhere("u", "data").is_none());
        memory.let_go(root.path());
        assert!(!memory.shared.exists());
    }

    #[test]
    fn what_is_no_memory_or_somebody_elses_is_not_used() {
        let (disk, root) = (tempfile::tempdir().expect("a directory"), Path::new("/root"));
        if is_tmpfs(disk.path()) {
            return;
        }
        let why = InMemory::below(disk.path(), root).make_shared("u", "data").expect_err("refused");
        assert!(why.to_string().ends_with("is no tmpfs"), "{why}");
        let memory = tempfile::tempdir_in(SHARED_MEMORY).expect("a directory");
        let planted = InMemory::below(memory.path(), root);
        std::os::unix::fs::symlink(disk.path(), &planted.shared).expect("a link");
        let why = planted.make_shared("u", "data").expect_err("refused");
        assert!(why.to_string().contains("somebody else"), "{why}");
    }

    #[test]
    fn root_mounts_a_tmpfs_of_that_size() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this test needs root");
            return;
        }
        let root = tempfile::tempdir().expect("a directory");
        let memory = InMemory::new(root.path());
        let dir = root.path().join("u/volumes/data");
        let made = memory.make(dir.clone(), "u", "data", 1 << 20).expect("made");
        assert!(made == dir && is_mount_point(&dir) && is_tmpfs(&dir));
        assert!(fs::write(dir.join("much"), vec![1; 2 << 20]).is_err(), "it is full at its limit");
        assert_eq!(memory.make(dir.clone(), "u", "data", 1 << 20).as_ref(), Ok(&dir), "found again");
        memory.remove("u", &root.path().join("u/volumes"));
        assert!(!is_mount_point(&dir));
    }
}
