//! A directory whose files change all at once, the way the kubelet lays it out:
//!
//! ```text
//! volume/..1764000000123_0/key     the files
//! volume/..data → ..1764000000123_0    replaced by one rename
//! volume/key → ..data/key              what the container opens
//! ```
//!
//! A reader that opens `..data` once sees one version; programs that watch for the rename of
//! `..data` work as they do elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_next";

/// Makes the directory show `payload`. `version` must differ from the one before.
pub fn write(dir: &Path, payload: &Payload, version: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let before = fs::read_link(dir.join(DATA)).ok();
    let name = format!("..{version}");
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent().filter(|parent| *parent != fresh) {
            fs::create_dir_all(parent)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut opened = options.write(true).create_new(true).mode(file.mode | 0o200).open(&target)?;
        io::Write::write_all(&mut opened, &file.bytes)?;
        // The process's umask may have taken bits away, and write permission was only for now.
        if file.mode != 0o644 {
            fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
        }
    }
    let next = dir.join(DATA_NEXT);
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link_entries(dir, payload)?;
    if let Some(before) =
        before.filter(|before| before.to_str().is_some_and(|old| old.starts_with("..") && old != name))
    {
        let _ = fs::remove_dir_all(dir.join(before));
    }
    Ok(())
}

/// One link for each first segment of a path; links that lead nowhere any more go.
fn link_entries(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &wanted {
        match symlink(format!("{DATA}/{name}"), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|name| !name.starts_with("..") && !wanted.contains(name));
        if stale && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::FileBody;
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let body = |text: &str, mode| FileBody { bytes: text.to_owned().into(), mode };
        files.iter().map(|(path, text, mode)| ((*path).to_owned(), body(text, *mode))).collect()
    }

    #[test]
    fn a_new_version_replaces_the_old_one_whole() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("volume");
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        write(&dir, &payload(&[("a", "1", 0o644), ("sub/b", "2", 0o600)]), "v1").expect("written");
        assert_eq!((read("a").as_deref(), read("sub/b").as_deref()), (Some("1"), Some("2")));
        let mode = fs::metadata(dir.join("sub/b")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write(&dir, &payload(&[("a", "3", 0o644), ("c", "4", 0o400)]), "v2").expect("written");
        assert_eq!((read("a").as_deref(), read("c").as_deref(), read("sub/b")), (Some("3"), Some("4"), None));
        let mut left: Vec<String> = fs::read_dir(&dir)
            .expect("there")
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["..data", "..v2", "a", "c"]);
    }
}
