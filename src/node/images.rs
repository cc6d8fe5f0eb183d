//! From an image reference to something a runtime can start.
//!
//! An image is a file below the images directory ([`super::reference`] says which). It is read and
//! prepared once, however many pods use it, and stays prepared as long as it is among the
//! [`MAX_PREPARED`] or a pod holds it. A file is the same as long as its size and time of change are;
//! so replacing `hello/1.wasm` gives the next pod the new one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::pod::{Refusal, RefusalKind};
use super::reference::{Reference, near_misses};
use crate::runtime::{Image, ImageSource, Runtime};

/// Prepared images kept although no pod uses them: each holds its machine code mapped.
const MAX_PREPARED: usize = 256;
/// How many files are looked at for a near miss; the directory may be anything.
const MAX_LISTED: usize = 2000;

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub fn of(text: Option<&str>) -> PullPolicy {
        match text {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// An image that is ready, and how it came.
pub struct Obtained {
    pub image: Arc<dyn Image>,
    /// What preparing it took, if it was not ready before.
    pub pulled: Option<Pulled>,
}

pub struct Pulled {
    pub took: Duration,
    pub bytes: u64,
}

/// The images of one node.
pub struct Images {
    /// Looked through in order; the first that has the file wins.
    dirs: Vec<PathBuf>,
    prepared: Mutex<HashMap<Key, Entry>>,
}

/// A runtime and a file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    runtime: &'static str,
    path: PathBuf,
    bytes: u64,
    changed: Option<SystemTime>,
}

#[derive(Clone)]
struct Entry {
    cell: Arc<OnceCell<Arc<dyn Image>>>,
    used: SystemTime,
}

impl Images {
    pub fn new(dirs: Vec<PathBuf>) -> Images {
        Images { dirs, prepared: Mutex::default() }
    }

    /// Finds and prepares the image that `reference` names.
    pub async fn obtain(
        &self,
        runtime: &Arc<dyn Runtime>,
        reference: &str,
        policy: PullPolicy,
    ) -> Result<Obtained, Refusal> {
        let Some(parsed) = Reference::parse(reference) else {
            return Err(invalid_name(reference));
        };
        let Some((path, meta)) = self.find(&parsed) else {
            return Err(self.missing(reference, &parsed, policy));
        };
        let key = Key { runtime: runtime.name(), path: path.clone(), bytes: meta.len(), changed: meta.modified().ok() };
        let entry = self.entry(&key);
        let began = std::time::Instant::now();
        let mut fresh = false;
        let prepare = async {
            fresh = true;
            let digest = digest_of(path.clone()).await.map_err(|error| pull_failed(reference, &error.to_string()))?;
            let source = ImageSource { reference: reference.to_owned(), path, digest };
            runtime.prepare(&source).await.map_err(|error| pull_failed(reference, &error.to_string()))
        };
        let image = entry.cell.get_or_try_init(|| prepare).await?.clone();
        if let Some(wanted) = parsed.digest.filter(|wanted| wanted != image.digest()) {
            let why = format!("the file has the digest {}, not {wanted}", image.digest());
            return Err(pull_failed(reference, &why));
        }
        let pulled = fresh.then(|| Pulled { took: began.elapsed(), bytes: meta.len() });
        Ok(Obtained { image, pulled })
    }

    fn find(&self, reference: &Reference) -> Option<(PathBuf, std::fs::Metadata)> {
        let candidates = reference.candidates();
        let paths = self.dirs.iter().flat_map(|dir| candidates.iter().map(|relative| dir.join(relative)));
        paths.into_iter().find_map(|path| {
            let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
            Some((path, meta))
        })
    }

    fn entry(&self, key: &Key) -> Entry {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() >= MAX_PREPARED && !prepared.contains_key(key) {
            // Pods hold their own handle on an image: what is dropped here is only prepared again.
            let oldest = prepared.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            oldest.map(|key| prepared.remove(&key));
        }
        let fresh = || Entry { cell: Arc::default(), used: SystemTime::now() };
        let entry = prepared.entry(key.clone()).or_insert_with(fresh);
        entry.used = SystemTime::now();
        entry.clone()
    }

    fn missing(&self, text: &str, reference: &Reference, policy: PullPolicy) -> Refusal {
        if policy == PullPolicy::Never {
            return Refusal {
                kind: RefusalKind::Image,
                reason: "ErrImageNeverPull",
                message: format!("Container image \"{text}\" is not present with pull policy of Never"),
            };
        }
        let near = near_misses(reference, &self.dirs.iter().flat_map(|dir| listed(dir)).collect::<Vec<_>>());
        let hint = match near.as_slice() {
            [] => String::new(),
            near => format!("; did you mean {}?", near.join(" or ")),
        };
        let looked = reference.candidates().into_iter().rev().find(|path| path.ends_with(last_file(reference)));
        let example = looked.unwrap_or_default();
        let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        let why = format!("no such file below {} (for example {}){hint}", dirs.join(" or "), example.display());
        pull_failed(text, &why)
    }
}

fn last_file(reference: &Reference) -> PathBuf {
    let short = reference.name.rsplit('/').next().unwrap_or_default();
    PathBuf::from(format!("{short}/{}.wasm", reference.tag))
}

fn pull_failed(reference: &str, why: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::Image,
        reason: "ErrImagePull",
        message: format!("failed to pull image \"{reference}\": {why}"),
    }
}

fn invalid_name(reference: &str) -> Refusal {
    let message = format!(
        "Failed to apply default image tag \"{reference}\": couldn't parse image name \"{reference}\": invalid reference format"
    );
    Refusal { kind: RefusalKind::Image, reason: "InvalidImageName", message }
}

async fn digest_of(path: PathBuf) -> std::io::Result<String> {
    let hash = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher)?;
        Ok::<_, std::io::Error>(hasher.finalize())
    });
    let hash = hash.await.map_err(std::io::Error::other)??;
    Ok(format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// The images of the directory, as `name:tag`.
fn listed(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut dirs = vec![(dir.to_owned(), String::new())];
    while let Some((dir, prefix)) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && prefix.matches('/').count() < 3 {
                dirs.push((entry.path(), format!("{prefix}{name}/")));
            } else if let Some(stem) = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".wat")) {
                names.push(match prefix.strip_suffix('/') {
                    Some(image) => format!("{image}:{stem}"),
                    None => format!("{stem}:latest"),
                });
            }
            if names.len() >= MAX_LISTED {
                return names;
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    fn images() -> (tempfile::TempDir, Images, Arc<dyn Runtime>) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("hello")).expect("a directory");
        std::fs::write(dir.path().join("hello/1.wasm"), b"one").expect("a file");
        let images = Images::new(vec![dir.path().to_owned()]);
        (dir, images, Arc::new(FakeRuntime::serving()))
    }

    #[tokio::test]
    async fn an_image_is_prepared_once_until_its_file_changes() {
        let (dir, images, runtime) = images();
        let obtain = || images.obtain(&runtime, "registry.local/team/hello:1", PullPolicy::IfNotPresent);
        let first = obtain().await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert!(first.pulled.is_some());
        assert!(obtain().await.is_ok_and(|second| second.pulled.is_none()));
        std::fs::write(dir.path().join("hello/1.wasm"), b"another").expect("a file");
        let third = obtain().await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert!(third.pulled.is_some());
        assert_ne!(first.image.digest(), third.image.digest());
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_as_upstream_says_it() {
        let (_dir, images, runtime) = images();
        let cases = [
            ("Hello:1", PullPolicy::Always, "InvalidImageName", "invalid reference format"),
            ("hello:2", PullPolicy::Never, "ErrImageNeverPull", "is not present with pull policy of Never"),
            ("helo:1", PullPolicy::Always, "ErrImagePull", "did you mean hello:1?"),
        ];
        for (reference, policy, reason, words) in cases {
            let Err(refusal) = images.obtain(&runtime, reference, policy).await else { panic!("{reference}") };
            assert_eq!(refusal.reason, reason);
            assert!(refusal.message.contains(words), "{}", refusal.message);
        }
    }

    #[tokio::test]
    async fn a_digest_must_match() {
        let (_dir, images, runtime) = images();
        let wrong = format!("hello:1@sha256:{}", "0".repeat(64));
        let Err(refusal) = images.obtain(&runtime, &wrong, PullPolicy::Always).await else { panic!("accepted") };
        assert!(refusal.message.contains("not sha256:000"), "{}", refusal.message);
    }
}
