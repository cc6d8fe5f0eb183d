//! From an image reference to something a runtime can start.
//!
//! An image is a file below the images directories ([`super::local_images`]) or, if none answers, what a
//! registry has ([`crate::oci`]). It is read and prepared once, however many pods use it, and stays
//! prepared as long as it is among the [`MAX_PREPARED`] or a pod holds it. A file is the same as long as
//! its size and time of change are; so replacing `hello/1.wasm` gives the next pod the new one.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OnceCell};

use super::image_gc::InUse;
use super::local_images::LocalImages;
use super::pod::{Refusal, RefusalKind};
use super::reference::Reference;
use crate::oci::{self, Credentials, Puller, Startup, Usage};
use crate::runtime::{Image, ImageSource, Runtime};

/// Prepared images kept although no pod uses them: each holds its machine code mapped.
const MAX_PREPARED: usize = 256;

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
    /// What a status calls it: a digest, after the repository's name if it came from one.
    pub id: String,
    /// How the image wants to be started.
    pub startup: Arc<Startup>,
    /// What bringing it took, if it was not here before.
    pub pulled: Option<Pulled>,
}

pub struct Pulled {
    pub took: Duration,
    pub bytes: u64,
}

/// An image's file, for who wants no more than that.
pub struct ImageFile {
    pub source: ImageSource,
    pub id: String,
    pub startup: Arc<Startup>,
    pub pulled: Option<Pulled>,
}

/// Where an image is.
struct Located {
    path: PathBuf,
    /// Of its module, if it is known.
    digest: Option<String>,
    /// What a status calls it, if that is not its digest.
    id: Option<String>,
    startup: Arc<Startup>,
    pulled: Option<Pulled>,
}

/// Who wants an image, and how.
pub struct Wanted<'a, C> {
    pub reference: &'a str,
    pub policy: PullPolicy,
    /// See [`ImageSource::snapshot`].
    pub snapshot: bool,
    /// Looked up only if a registry may have to be asked.
    pub credentials: C,
    /// Counts the bytes that have come from it.
    pub came: Arc<AtomicU64>,
}

/// The images of one node.
pub struct Images {
    local: LocalImages,
    /// `None`: files are all there is.
    puller: Option<Puller>,
    prepared: Mutex<HashMap<Key, Entry>>,
    /// The module that each reference meant when it was last obtained; only of what pods name.
    meant: Mutex<HashMap<String, String>>,
    pulled: Notify,
}

/// A runtime and a file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    runtime: &'static str,
    path: PathBuf,
    bytes: u64,
    changed: Option<SystemTime>,
    snapshot: bool,
}

#[derive(Clone)]
struct Entry {
    cell: Arc<OnceCell<Arc<dyn Image>>>,
    used: SystemTime,
}

impl Images {
    pub fn new(dirs: Vec<PathBuf>, puller: Option<Puller>) -> Images {
        let local = LocalImages::new(dirs);
        Images { local, puller, prepared: Mutex::default(), meant: Mutex::default(), pulled: Notify::new() }
    }

    /// Something has been pulled since this was asked last.
    pub async fn pulled(&self) {
        self.pulled.notified().await;
    }

    /// An engine has pulled something.
    pub fn engine_pulled(&self) {
        self.pulled.notify_one();
    }

    /// What the references that pods name stand for; forgets the others.
    pub fn in_use(&self, named: &HashSet<String>) -> InUse {
        let mut meant = self.meant.lock().unwrap_or_else(PoisonError::into_inner);
        meant.retain(|reference, _| named.contains(reference));
        let parsed = named.iter().filter_map(|text| text.parse::<oci::Reference>().ok());
        InUse { references: parsed.map(|one| one.to_string()).collect(), digests: meant.values().cloned().collect() }
    }

    /// Whether the reference means a module, as far as is known here without asking anybody.
    pub fn is_known_module(&self, reference: &str, credentials: &Credentials) -> bool {
        let is_file = Reference::parse(reference).is_some_and(|parsed| self.local.find(&parsed).is_some());
        let was_pulled = || {
            let parsed: oci::Reference = reference.parse().ok()?;
            self.puller.as_ref()?.present(&parsed, credentials)
        };
        is_file || was_pulled().is_some()
    }

    /// Whether a registry has a module under the reference; `None` if there is no answer.
    pub async fn is_module_elsewhere(&self, reference: &str, credentials: &Credentials) -> Option<bool> {
        let parsed: oci::Reference = reference.parse().ok()?;
        self.puller.as_ref()?.is_module(&parsed, credentials).await.ok()
    }

    /// The images that registries gave. Blocks.
    pub fn list_pulled(&self) -> Vec<Usage> {
        let Some(puller) = &self.puller else { return Vec::new() };
        puller.sweep();
        puller.list()
    }

    /// Removes one of them; returns the bytes that this freed. Blocks.
    pub fn remove_pulled(&self, image: &Usage) -> std::io::Result<u64> {
        self.puller.as_ref().map_or(Ok(0), |puller| puller.remove(image))
    }

    /// Finds and prepares the image that is wanted; calls `announce` before a registry is asked for it.
    pub async fn obtain<C>(
        &self,
        runtime: &Arc<dyn Runtime>,
        wanted: Wanted<'_, C>,
        announce: impl Fn() + Send,
    ) -> Result<Obtained, Refusal>
    where
        C: Future<Output = Credentials> + Send,
    {
        let (reference, snapshot, began) = (wanted.reference, wanted.snapshot, Instant::now());
        let located = self.locate(wanted, announce).await?;
        let (image, fresh, bytes) = self.prepare(runtime, reference, located.path, located.digest, snapshot).await?;
        match located.id {
            Some(id) => Ok(Obtained { image, id, startup: located.startup, pulled: located.pulled }),
            None => {
                check_digest(reference, image.digest())?;
                let pulled = fresh.then(|| Pulled { took: began.elapsed(), bytes });
                Ok(Obtained { id: image.digest().to_owned(), image, startup: located.startup, pulled })
            }
        }
    }

    /// Finds the image that is wanted, without preparing it.
    pub async fn find<C>(&self, wanted: Wanted<'_, C>, announce: impl Fn() + Send) -> Result<ImageFile, Refusal>
    where
        C: Future<Output = Credentials> + Send,
    {
        let (reference, snapshot) = (wanted.reference, wanted.snapshot);
        let located = self.locate(wanted, announce).await?;
        let digest = match located.digest {
            Some(digest) => digest,
            None => {
                let digest = digest_of(located.path.clone()).await;
                let digest = digest.map_err(|error| pull_failed(reference, &error.to_string()))?;
                check_digest(reference, &digest)?;
                digest
            }
        };
        let id = located.id.unwrap_or_else(|| digest.clone());
        let source = ImageSource { reference: reference.to_owned(), path: located.path, digest, snapshot };
        Ok(ImageFile { source, id, startup: located.startup, pulled: located.pulled })
    }

    /// Prepares what the runtime has made of images.
    pub async fn prepare_made(
        &self,
        runtime: &Arc<dyn Runtime>,
        source: ImageSource,
    ) -> Result<Arc<dyn Image>, Refusal> {
        let ImageSource { reference, path, digest, snapshot } = source;
        self.prepare(runtime, &reference, path, Some(digest), snapshot).await.map(|(image, ..)| image)
    }

    async fn locate<C>(&self, wanted: Wanted<'_, C>, announce: impl Fn() + Send) -> Result<Located, Refusal>
    where
        C: Future<Output = Credentials> + Send,
    {
        let reference = wanted.reference;
        let Some(parsed) = Reference::parse(reference) else {
            return Err(invalid_name(reference));
        };
        if let Some(path) = self.local.find(&parsed) {
            match parsed.digest.as_deref() {
                Some(digest) if !has_digest(&path, digest).await && self.puller.is_some() => {}
                _ => return Ok(Located { path, digest: None, id: None, startup: Arc::default(), pulled: None }),
            }
        }
        match &self.puller {
            Some(puller) => self.of_registry(puller, wanted, &parsed, announce).await,
            None if wanted.policy == PullPolicy::Never => Err(never_pulled(reference)),
            None => Err(pull_failed(reference, &self.local.missing(&parsed))),
        }
    }

    async fn of_registry<C>(
        &self,
        puller: &Puller,
        wanted: Wanted<'_, C>,
        parsed: &Reference,
        announce: impl Fn(),
    ) -> Result<Located, Refusal>
    where
        C: Future<Output = Credentials>,
    {
        let text = wanted.reference;
        let reference: oci::Reference = text.parse().map_err(|_| invalid_name(text))?;
        let (credentials, came) = (wanted.credentials.await, wanted.came);
        let present = puller.present(&reference, &credentials);
        let (found, pulled) = match (wanted.policy, present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(found)) => (found, None),
            (PullPolicy::Never, None) => return Err(never_pulled(text)),
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => {
                announce();
                let began = Instant::now();
                let found = puller.pull(&reference, &credentials, &came).await;
                let found = found.map_err(|error| self.not_pulled(text, parsed, &error))?;
                self.pulled.notify_one();
                let pulled = Pulled { took: began.elapsed(), bytes: found.bytes };
                (found, Some(pulled))
            }
        };
        let id = format!("{}/{}@{}", reference.registry(), reference.repository(), found.manifest);
        let startup = Arc::new(found.startup);
        Ok(Located { path: found.path, digest: Some(found.module), id: Some(id), startup, pulled })
    }

    /// The image of a file whose digest is known or is found out; whether it was made just now, and its
    /// size.
    async fn prepare(
        &self,
        runtime: &Arc<dyn Runtime>,
        reference: &str,
        path: PathBuf,
        digest: Option<String>,
        snapshot: bool,
    ) -> Result<(Arc<dyn Image>, bool, u64), Refusal> {
        let failed = |error: &dyn std::fmt::Display| pull_failed(reference, &error.to_string());
        let about = std::fs::metadata(&path).map_err(|error| failed(&error))?;
        let (bytes, changed) = (about.len(), about.modified().ok());
        let entry = self.entry(&Key { runtime: runtime.name(), path: path.clone(), bytes, changed, snapshot });
        let mut fresh = false;
        let prepare = async {
            fresh = true;
            let digest = match digest {
                Some(digest) => digest,
                None => digest_of(path.clone()).await.map_err(|error| failed(&error))?,
            };
            let source = ImageSource { reference: reference.to_owned(), path, digest, snapshot };
            runtime.prepare(&source).await.map_err(|error| failed(&error))
        };
        let image = entry.cell.get_or_try_init(|| prepare).await?.clone();
        let mut meant = self.meant.lock().unwrap_or_else(PoisonError::into_inner);
        meant.insert(reference.to_owned(), image.digest().to_owned());
        Ok((image, fresh, bytes))
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

    /// A short name was most likely meant for a file of this machine: then that is said too.
    fn not_pulled(&self, text: &str, reference: &Reference, error: &oci::Error) -> Refusal {
        let mut why = error.to_string();
        if !reference.names_registry() || self.local.near(reference).is_some() {
            why = format!("{why}; and there is {}", self.local.missing(reference));
        }
        pull_failed(text, &why)
    }
}

pub fn never_pulled(reference: &str) -> Refusal {
    let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
    Refusal { kind: RefusalKind::Image, reason: "ErrImageNeverPull", message }
}

pub fn pull_failed(reference: &str, why: &str) -> Refusal {
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

/// A reference may say which file it means.
fn check_digest(reference: &str, found: &str) -> Result<(), Refusal> {
    let wanted = Reference::parse(reference).and_then(|parsed| parsed.digest);
    match wanted.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(pull_failed(reference, &format!("the file has the digest {found}, not {wanted}"))),
        None => Ok(()),
    }
}

async fn has_digest(path: &Path, digest: &str) -> bool {
    digest_of(path.to_owned()).await.is_ok_and(|found| found == digest)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    fn images() -> (tempfile::TempDir, Images, Arc<dyn Runtime>) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("hello")).expect("a directory");
        std::fs::write(dir.path().join("hello/1.wasm"), b"one").expect("a file");
        let images = Images::new(vec![dir.path().to_owned()], None);
        (dir, images, Arc::new(FakeRuntime::serving()))
    }

    async fn obtain(
        images: &Images,
        runtime: &Arc<dyn Runtime>,
        reference: &str,
        policy: PullPolicy,
    ) -> Result<Obtained, Refusal> {
        let credentials = std::future::ready(Credentials::default());
        images
            .obtain(runtime, Wanted { reference, policy, snapshot: false, credentials, came: Arc::default() }, || ())
            .await
    }

    #[tokio::test]
    async fn an_image_is_prepared_once_until_its_file_changes() {
        let (dir, images, runtime) = images();
        let obtain = || obtain(&images, &runtime, "registry.local/team/hello:1", PullPolicy::IfNotPresent);
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
            let Err(refusal) = obtain(&images, &runtime, reference, policy).await else { panic!("{reference}") };
            assert_eq!(refusal.reason, reason);
            assert!(refusal.message.contains(words), "{}", refusal.message);
        }
    }

    #[tokio::test]
    async fn a_digest_must_match() {
        let (_dir, images, runtime) = images();
        let wrong = format!("hello:1@sha256:{}", "0".repeat(64));
        let Err(refusal) = obtain(&images, &runtime, &wrong, PullPolicy::Always).await else { panic!("accepted") };
        assert!(refusal.message.contains("not sha256:000"), "{}", refusal.message);
    }
}
