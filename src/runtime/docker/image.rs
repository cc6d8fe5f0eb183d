//! The engine's images: found, pulled, and those removed again that were pulled for this node.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::super::{Account, Image, ImageError, ImageStore, KeptImage, StoredImage};
use super::engine::{Engine, Failure};
use super::pause;
use super::spec::ImageFacts;

/// The whole of one pull, so that a slow registry does not hold a pod's start for ever.
const PULL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The image of infrastructure containers, made here.
pub const PAUSE: &str = "coracle/pause:1";
/// How far the time of an image's last use may be out of date on the disk.
const USE_GRAIN: Duration = Duration::from_secs(60);

/// An image of the engine.
pub struct DockerImage {
    pub facts: ImageFacts,
}

impl Image for DockerImage {
    fn digest(&self) -> &str {
        &self.facts.id
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The images of an engine, as one node uses them.
pub struct Images {
    engine: Arc<Engine>,
    /// What was pulled for this node, by id; kept in a file, for others may have pulled the rest.
    pulled: Mutex<BTreeMap<String, Record>>,
    file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    references: Vec<String>,
    bytes: u64,
    /// Seconds since 1970.
    used: u64,
}

impl Images {
    pub fn open(engine: Arc<Engine>, file: PathBuf) -> Images {
        let kept = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Images { engine, pulled: Mutex::new(kept.unwrap_or_default()), file }
    }

    /// Makes the image of infrastructure containers if the engine has none.
    pub async fn ensure_pause(&self) -> Result<(), Failure> {
        let client = self.engine.client().await?;
        match client.inspect_image(PAUSE).await.map_err(|error| self.engine.failure(error)) {
            Ok(_) => return Ok(()),
            Err(Failure::NotFound(_)) => {}
            Err(failure) => return Err(failure),
        }
        let version = client.version().await.map_err(|error| self.engine.failure(error))?;
        let architecture = version.arch.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let root = pause::root(&architecture).ok_or_else(|| {
            Failure::Refused(format!("there is no infrastructure container for the architecture {architecture}"))
        })?;
        let (repository, tag) = PAUSE.split_once(':').unwrap_or((PAUSE, "latest"));
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).build();
        let made = client.create_image(Some(options), Some(bollard::body_full(root.into())), None);
        made.try_collect::<Vec<_>>().await.map(drop).map_err(|error| self.engine.failure(error))
    }

    async fn inspect(&self, reference: &str) -> Result<Option<StoredImage>, Failure> {
        let client = self.engine.client().await?;
        match client.inspect_image(reference).await.map_err(|error| self.engine.failure(error)) {
            Ok(image) => Ok(Some(stored(reference, image))),
            Err(Failure::NotFound(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn bring(&self, reference: &str, account: Option<&Account>, came: &AtomicU64) -> Result<(), Failure> {
        let client = self.engine.client().await?;
        let options = CreateImageOptionsBuilder::new().from_image(&tagged(reference)).build();
        let credentials = account.map(|account| DockerCredentials {
            username: Some(account.user.clone()),
            password: Some(account.password.clone()),
            ..Default::default()
        });
        // What has come of each layer.
        let mut layers = HashMap::new();
        let pull = client.create_image(Some(options), None, credentials).try_for_each(|told| {
            if let (Some(layer), Some(bytes), "Downloading") = (
                told.id,
                told.progress_detail.and_then(|told| told.current),
                told.status.as_deref().unwrap_or_default(),
            ) {
                layers.insert(layer, u64::try_from(bytes).unwrap_or(0));
                came.store(layers.values().sum(), Ordering::Relaxed);
            }
            std::future::ready(Ok(()))
        });
        match tokio::time::timeout(PULL_TIMEOUT, pull).await {
            Ok(pulled) => pulled.map_err(|error| self.engine.failure(error)),
            Err(_) => Err(Failure::Refused(format!("it took longer than {} s", PULL_TIMEOUT.as_secs()))),
        }
    }

    fn note(&self, reference: &str, image: &StoredImage, brought: bool) {
        let id = image.image.digest();
        let now = seconds(SystemTime::now());
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match pulled.get_mut(id) {
            Some(record) => {
                let known = record.references.iter().any(|known| known == reference);
                if !known {
                    record.references.push(reference.to_owned());
                }
                let stale = now.saturating_sub(record.used) >= USE_GRAIN.as_secs();
                record.used = now;
                !known || stale
            }
            None if brought => {
                let record = Record { references: vec![reference.to_owned()], bytes: image.bytes, used: now };
                pulled.insert(id.to_owned(), record);
                true
            }
            None => false,
        };
        if changed {
            self.write(&pulled);
        }
    }

    /// A record that is lost only means that an image stays.
    fn write(&self, pulled: &BTreeMap<String, Record>) {
        let written = serde_json::to_vec(pulled).map_err(std::io::Error::other).and_then(|bytes| {
            let fresh = self.file.with_extension("new");
            std::fs::write(&fresh, bytes)?;
            std::fs::rename(&fresh, &self.file)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the list of pulled images could not be kept");
        }
    }
}

#[async_trait::async_trait]
impl ImageStore for Images {
    async fn find(&self, reference: &str) -> Result<Option<StoredImage>, ImageError> {
        let found = self.inspect(reference).await.map_err(unavailable)?;
        if let Some(image) = &found {
            self.note(reference, image, false);
        }
        Ok(found)
    }

    async fn pull(&self, reference: &str, accounts: &[Account], came: &AtomicU64) -> Result<StoredImage, ImageError> {
        let before = self.inspect(reference).await.map_err(unavailable)?.map(|image| image.image.digest().to_owned());
        let mut accounts = accounts.iter();
        let mut outcome = self.bring(reference, accounts.next(), came).await;
        while let (Err(Failure::Refused(_) | Failure::NotFound(_)), Some(account)) = (&outcome, accounts.next()) {
            outcome = self.bring(reference, Some(account), came).await;
        }
        outcome.map_err(unavailable)?;
        let image = self.inspect(reference).await.map_err(unavailable)?;
        let image = image.ok_or_else(|| {
            ImageError::Unavailable("the engine pulled it, and does not have it: it was removed meanwhile".to_owned())
        })?;
        self.note(reference, &image, before.as_deref() != Some(image.image.digest()));
        Ok(image)
    }

    async fn list(&self) -> Vec<KeptImage> {
        let pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pulled.iter().map(|(id, record)| KeptImage {
            id: id.clone(),
            references: record.references.clone(),
            bytes: record.bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(record.used),
        });
        kept.collect()
    }

    async fn remove(&self, image: &KeptImage) -> u64 {
        let Ok(client) = self.engine.client().await else { return 0 };
        // By name: names that others gave it stay, and with them the image.
        let mut gone = true;
        for reference in &image.references {
            let options = RemoveImageOptionsBuilder::new().build();
            let removed = client.remove_image(reference, Some(options), None).await;
            match removed.map_err(|error| self.engine.failure(error)) {
                Ok(_) | Err(Failure::NotFound(_)) => {}
                Err(failure) => {
                    tracing::debug!(%failure, reference, "an image stays");
                    gone = false;
                }
            }
        }
        if !gone {
            return 0;
        }
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        pulled.remove(&image.id);
        self.write(&pulled);
        image.bytes
    }
}

fn unavailable(failure: Failure) -> ImageError {
    ImageError::Unavailable(failure.to_string())
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn stored(reference: &str, image: ImageInspect) -> StoredImage {
    let id = image.id.unwrap_or_default();
    let config = image.config.unwrap_or_default();
    let repository = repository(reference);
    let digests = image.repo_digests.unwrap_or_default();
    let named = digests.iter().find(|digest| digest.split('@').next() == Some(repository.as_str()));
    let split = |pair: String| {
        let (name, value) = pair.split_once('=').unwrap_or((pair.as_str(), ""));
        (name.to_owned(), value.to_owned())
    };
    StoredImage {
        id: named.or(digests.first()).unwrap_or(&id).clone(),
        bytes: u64::try_from(image.size.unwrap_or(0)).unwrap_or(0),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default().into_iter().map(split).collect(),
        image: Arc::new(DockerImage {
            facts: ImageFacts {
                id,
                user: config.user.unwrap_or_default(),
                stop_signal: config.stop_signal.unwrap_or_default(),
            },
        }),
    }
}

/// A reference without its tag and digest.
fn repository(reference: &str) -> String {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => name.to_owned(),
    }
}

/// A reference that says which image: the engine takes a bare name for all tags of it.
fn tagged(reference: &str) -> String {
    let bare = !reference.contains('@') && repository(reference) == reference;
    if bare { format!("{reference}:latest") } else { reference.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bare_name_means_latest() {
        for (reference, whole) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("127.0.0.1:5000/team/app", "127.0.0.1:5000/team/app:latest"),
            ("127.0.0.1:5000/team/app:2", "127.0.0.1:5000/team/app:2"),
            ("app@sha256:00", "app@sha256:00"),
        ] {
            assert_eq!(tagged(reference), whole);
        }
    }

    #[test]
    fn what_the_engine_says_of_an_image_is_read() {
        let inspected = json!({
            "Id": "sha256:1", "Size": 42, "RepoDigests": ["other@sha256:2", "h:5000/app@sha256:3"],
            "Config": { "User": "1000:5", "StopSignal": "SIGINT", "Env": ["A=b=c"], "Cmd": ["x"], "Entrypoint": ["/e"] },
        });
        let image = stored("h:5000/app:1", serde_json::from_value(inspected).expect("an image"));
        assert_eq!((image.id.as_str(), image.bytes, image.image.digest()), ("h:5000/app@sha256:3", 42, "sha256:1"));
        assert_eq!(image.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!((image.entrypoint, image.cmd), (vec!["/e".to_owned()], vec!["x".to_owned()]));
        let bare = stored("made-here", serde_json::from_value(json!({ "Id": "sha256:1" })).expect("an image"));
        assert_eq!(bare.id, "sha256:1");
    }
}
