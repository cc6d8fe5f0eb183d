//! `fsGroup`: volumes that a group of the pod's may read, and write where the pod may.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use k8s_openapi::api::core::v1 as core;
use rustix::fs::{AtFlags, CWD, Gid, chownat};

/// The group that the pod asks for.
pub fn of(pod: &core::Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Gives a volume's directory, and all below it, to the group: files may be read and written by it, and what
/// is made in directories is the group's again. A node that is not root cannot, and leaves it as it is.
pub fn give(path: &Path, group: u32) -> io::Result<()> {
    let about = fs::symlink_metadata(path)?;
    chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)?;
    if about.is_symlink() {
        return Ok(());
    }
    let more = if about.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(about.permissions().mode() | more))?;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn all_of_a_volume_is_the_groups_and_nothing_beyond_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("below")).expect("made");
        fs::write(volume.join("below/file"), "x").expect("written");
        fs::write(&outside, "x").expect("written");
        symlink(&outside, volume.join("link")).expect("a link");
        let before = fs::metadata(&outside).expect("there");
        if give(&volume, 4242).is_err() {
            // Only root may.
            return;
        }
        let of = |path: &str| fs::metadata(volume.join(path)).expect("there");
        assert_eq!((of("below").gid(), of("below").mode() & 0o2070), (4242, 0o2070));
        assert_eq!((of("below/file").gid(), of("below/file").mode() & 0o060), (4242, 0o060));
        let after = fs::metadata(&outside).expect("there");
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }

    #[test]
    fn the_group_is_the_pods() {
        let pod = serde_json::json!({ "spec": { "containers": [], "securityContext": { "fsGroup": 7 } } });
        assert_eq!(of(&serde_json::from_value(pod).expect("a pod")), Some(7));
        assert_eq!(of(&core::Pod::default()), None);
    }
}
