//! Pulling: from a reference to a module on this machine's disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use oci_client::client::{BlobResponse, Client, SizedStream};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::credentials::fingerprint;
use super::error::{Error, ErrorKind};
use super::layers::{self, ImageConfig, Plan, Startup};
use super::store::{Record, Store, Usage, is_digest};
use super::{Credentials, MAX_MODULE_BYTES, Trust, access};

/// Blobs that come in at the same time: enough to fill a line, few enough that each gets somewhere.
const DOWNLOADS: usize = 8;
/// How often a blob whose connection breaks is continued before the pull fails (and is tried again by
/// whoever wants it, from where it ended).
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A manifest is a few KiB; a registry that dribbles is given up.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The whole of one pull, so that a slow registry does not hold a pod's start for ever.
const PULL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// An archive of an ordinary image, packed.
const MAX_LAYER_BYTES: u64 = 1 << 30;
const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_LAYERS: usize = 128;

/// An image that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The module's file.
    pub path: PathBuf,
    /// `sha256:…` of the module.
    pub module: String,
    /// `sha256:…` of the manifest, by which the registry knows the image.
    pub manifest: String,
    pub bytes: u64,
    pub startup: Startup,
}

/// Pulls images and keeps them in a directory. Cheap to clone.
#[derive(Clone)]
pub struct Puller {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    trust: Trust,
    downloads: Semaphore,
}

/// Where a blob comes from.
struct Source<'a> {
    client: &'a Client,
    reference: &'a Reference,
    /// Bytes that have come from there.
    came: &'a AtomicU64,
}

impl Puller {
    /// Opens the directory, making it if need be.
    pub fn open(dir: &Path, trust: Trust) -> std::io::Result<Puller> {
        let inner = Inner { store: Arc::new(Store::open(dir)?), trust, downloads: Semaphore::new(DOWNLOADS) };
        Ok(Puller { inner: Arc::new(inner) })
    }

    /// The image, if it was pulled before and the registry gave it to one of these accounts, or gives it
    /// to anybody.
    pub fn present(&self, reference: &Reference, credentials: &Credentials) -> Option<Pulled> {
        let store = &self.inner.store;
        let record = store.record(&reference.to_string())?;
        let path = store.blob(&record.module);
        let held = || credentials.matching(reference);
        let registry = reference.resolve_registry();
        let granted = record.grants.is_empty()
            || held().iter().filter_map(|auth| fingerprint(registry, auth)).any(|one| record.grants.contains(&one));
        let whole = std::fs::metadata(&path).is_ok_and(|about| about.len() == record.bytes);
        (granted && whole).then(|| {
            store.touch(&record.reference);
            Pulled {
                path,
                module: record.module,
                manifest: record.manifest,
                bytes: record.bytes,
                startup: record.startup,
            }
        })
    }

    /// Asks the registry for the image, and brings what is not here yet; `came` counts its bytes meanwhile.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        came: &Arc<AtomicU64>,
    ) -> Result<Pulled, Error> {
        let (inner, reference, accounts) = (self.inner.clone(), reference.clone(), credentials.matching(reference));
        let registry = reference.resolve_registry().to_owned();
        // A task of its own: what a strange answer makes panic is this pull's failure alone.
        let came = came.clone();
        let task = tokio::spawn(async move { inner.pull(&reference, &accounts, &came).await });
        match tokio::time::timeout(PULL_TIMEOUT, AbortOnDropHandle::new(task)).await {
            Ok(Ok(pulled)) => pulled,
            Ok(Err(_)) => Err(Error::new(ErrorKind::Invalid, format!("registry {registry} gave a senseless answer"))),
            Err(_) => Err(Error::new(
                ErrorKind::Unreachable,
                format!("registry {registry} took longer than {} s; it is continued", PULL_TIMEOUT.as_secs()),
            )),
        }
    }

    /// Asks the registry whether what it has is a module, or else an ordinary image of processes.
    pub async fn is_module(&self, reference: &Reference, credentials: &Credentials) -> Result<bool, Error> {
        let (inner, reference, accounts) = (self.inner.clone(), reference.clone(), credentials.matching(reference));
        let task = tokio::spawn(async move { inner.is_module(&reference, &accounts).await });
        let senseless = |_| Error::new(ErrorKind::Invalid, "the registry gave a senseless answer");
        AbortOnDropHandle::new(task).await.map_err(senseless)?
    }

    /// What has been pulled. Blocks.
    pub fn list(&self) -> Vec<Usage> {
        self.inner.store.list()
    }

    /// Removes an image; returns the bytes that this freed. Blocks.
    pub fn remove(&self, usage: &Usage) -> std::io::Result<u64> {
        self.inner.store.remove(usage)
    }

    /// Removes the remains of pulls that never ended. Blocks.
    pub fn sweep(&self) {
        self.inner.store.sweep(SystemTime::now());
    }
}

impl Inner {
    async fn pull(&self, reference: &Reference, accounts: &[RegistryAuth], came: &AtomicU64) -> Result<Pulled, Error> {
        let (client, manifest, digest, auth) = self.manifest(reference, accounts).await?;
        let source = Source { client: &client, reference, came };
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        let (module, bytes, startup) = match layers::plan(&manifest).map_err(invalid)? {
            Plan::Module(layer) => {
                self.blob(&source, layer, MAX_MODULE_BYTES).await?;
                (layer.digest.clone(), u64::try_from(layer.size).unwrap_or(0), Startup::default())
            }
            Plan::Archives(archives) => self.in_archives(&source, &manifest.config, &archives).await?,
        };
        let grants = fingerprint(reference.resolve_registry(), auth).into_iter().collect();
        let record = Record {
            reference: reference.to_string(),
            manifest: digest.clone(),
            module: module.clone(),
            bytes,
            grants,
            startup: startup.clone(),
        };
        let store = self.store.clone();
        let kept = blocking(move || store.keep(record)).await;
        kept.map_err(|error| Error::disk("the image's record", &error))?;
        Ok(Pulled { path: self.store.blob(&module), module, manifest: digest, bytes, startup })
    }

    async fn is_module(&self, reference: &Reference, accounts: &[RegistryAuth]) -> Result<bool, Error> {
        let (client, manifest, ..) = self.manifest(reference, accounts).await?;
        if !matches!(layers::plan(&manifest), Ok(layers::Plan::Archives(_))) {
            return Ok(true);
        }
        let source = Source { client: &client, reference, came: &AtomicU64::new(0) };
        let file = self.blob(&source, &manifest.config, MAX_CONFIG_BYTES).await?;
        let text = std::fs::read(&file).map_err(|error| Error::disk("the image's configuration", &error))?;
        Ok(layers::is_of_module(&text))
    }

    /// The manifest, by the first account that is given it.
    async fn manifest<'a>(
        &self,
        reference: &Reference,
        accounts: &'a [RegistryAuth],
    ) -> Result<(Client, OciImageManifest, String, &'a RegistryAuth), Error> {
        let mut refused = Error::new(ErrorKind::Unauthorized, "there is no account to ask with");
        for auth in accounts {
            // A client keeps the first account it sees for a registry: each gets its own.
            let client = access::open(&self.trust, reference.resolve_registry()).await?;
            let asked = tokio::time::timeout(MANIFEST_TIMEOUT, client.pull_image_manifest(reference, auth)).await;
            let late = || {
                let why = format!("registry {} gave no manifest in time", reference.resolve_registry());
                Error::new(ErrorKind::Unreachable, why)
            };
            match asked.map_err(|_| late())? {
                Ok((manifest, digest)) => return Ok((client, manifest, digest, auth)),
                Err(error) => {
                    refused = Error::answered(reference, &error);
                    if refused.kind != ErrorKind::Unauthorized {
                        return Err(refused);
                    }
                }
            }
        }
        Err(refused)
    }

    async fn in_archives(
        &self,
        source: &Source<'_>,
        config: &OciDescriptor,
        archives: &[&OciDescriptor],
    ) -> Result<(String, u64, Startup), Error> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        if archives.len() > MAX_LAYERS {
            return Err(invalid(format!("it has {} layers; at most {MAX_LAYERS} are looked through", archives.len())));
        }
        let file = self.blob(source, config, MAX_CONFIG_BYTES).await?;
        let text = std::fs::read(&file).map_err(|error| Error::disk("the image's configuration", &error))?;
        let config: ImageConfig = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("its configuration cannot be read: {error}")))?;
        let wanted = config.file();
        let mut looked = Vec::new();
        for (index, layer) in archives.iter().enumerate() {
            let path = self.blob(source, layer, MAX_LAYER_BYTES).await?;
            let (kind, name) = (layer.media_type.clone(), wanted.clone());
            let contents = blocking(move || layers::look(&path, &kind, name.as_deref())).await;
            looked.push(contents.map_err(|error| invalid(format!("layer {} is damaged: {error}", layer.digest)))?);
            let all = index + 1 == archives.len();
            if let Some((index, name)) = layers::choose(&looked, wanted.as_deref(), all).map_err(invalid)? {
                let (module, bytes) = self.unpack(archives[index], name).await?;
                return Ok((module, bytes, config.startup()));
            }
        }
        Err(invalid("it has no layers".to_owned()))
    }

    /// Keeps the file `name` of a layer as a blob of its own. The archive is left to the sweep: the next
    /// tag of the image may share it.
    async fn unpack(&self, layer: &OciDescriptor, name: String) -> Result<(String, u64), Error> {
        let disk = |error: std::io::Error| Error::disk("the module", &error);
        let (path, kind) = (self.store.blob(&layer.digest), layer.media_type.clone());
        let scratch = self.store.scratch().map_err(disk)?;
        let unpacked = blocking(move || {
            let mut scratch = scratch;
            layers::extract(&path, &kind, &name, scratch.as_file_mut())?;
            Ok(scratch)
        });
        let scratch = unpacked.await.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        let bytes = scratch.as_file().metadata().map_err(disk)?.len();
        let (_, path) = scratch.keep().map_err(|error| disk(error.error))?;
        let hashed = path.clone();
        let digest = blocking(move || super::store::digest_of_file(&hashed)).await.map_err(disk)?;
        let turn = self.store.turn(&digest);
        let _turn = turn.lock().await;
        self.commit(&path, &digest).await?;
        Ok((digest, bytes))
    }

    /// The blob's file: the one that is here, or else brought now. Asked for by several at once, it is
    /// brought once.
    async fn blob(&self, source: &Source<'_>, blob: &OciDescriptor, limit: u64) -> Result<PathBuf, Error> {
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        if !is_digest(&blob.digest) {
            return Err(invalid(format!("it has a blob with the digest {:?}; taken is sha256", blob.digest)));
        }
        let size = u64::try_from(blob.size).unwrap_or(u64::MAX);
        if size > limit {
            return Err(invalid(format!("it has a blob of {} bytes; at most {limit} are taken", blob.size)));
        }
        let turn = self.store.turn(&blob.digest);
        let _turn = turn.lock().await;
        let path = self.store.blob(&blob.digest);
        if std::fs::metadata(&path).is_ok_and(|about| about.len() == size) {
            return Ok(path);
        }
        let _place = self.downloads.acquire().await;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.bring(source, blob, size).await {
                Ok(()) => break,
                Err(error) if error.kind == ErrorKind::Unreachable && attempt < ATTEMPTS => {
                    tracing::info!(image = %source.reference, blob = blob.digest, "pull interrupted, continuing: {error}");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.commit(&self.store.partial(&blob.digest), &blob.digest).await?;
        Ok(path)
    }

    /// Brings the rest of a blob into its partial file.
    async fn bring(&self, source: &Source<'_>, blob: &OciDescriptor, size: u64) -> Result<(), Error> {
        let disk = |error: std::io::Error| Error::disk("a blob", &error);
        let path = self.store.partial(&blob.digest);
        let mut have = tokio::fs::metadata(&path).await.map_or(0, |about| about.len());
        if have == size && size > 0 {
            return Ok(());
        }
        let answered = |error| Error::answered(source.reference, &error);
        let mut stream = if (1..size).contains(&have) {
            match source.client.pull_blob_stream_partial(source.reference, blob, have, None).await.map_err(answered)? {
                BlobResponse::Partial(stream) => stream,
                BlobResponse::Full(stream) => {
                    have = 0;
                    stream
                }
            }
        } else {
            have = 0;
            source.client.pull_blob_stream(source.reference, blob).await.map_err(answered)?
        };
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await.map_err(disk)?;
        file.set_len(have).await.map_err(disk)?;
        let came = copy(&mut stream, &mut file, size - have, source.came).await;
        file.flush().await.map_err(disk)?;
        let registry = source.reference.resolve_registry();
        match came? {
            count if have + count == size => Ok(()),
            count => Err(Error::new(
                ErrorKind::Unreachable,
                format!("registry {registry} broke off after {} of {size} bytes of {}", have + count, blob.digest),
            )),
        }
    }

    async fn commit(&self, file: &Path, digest: &str) -> Result<(), Error> {
        let (store, path, wanted) = (self.store.clone(), file.to_owned(), digest.to_owned());
        let blob = self.store.blob(digest);
        if blob.exists() && file != blob {
            // Somebody was faster, or it came out of another archive.
            let _ = tokio::fs::remove_file(file).await;
            return Ok(());
        }
        let same = blocking(move || store.commit(&path, &wanted)).await;
        match same.map_err(|error| Error::disk("a blob", &error))? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Invalid, format!("what came as {digest} has another digest"))),
        }
    }
}

/// Copies until the end; a stream that breaks is as one that ended early, one that brings too much an
/// error.
async fn copy(stream: &mut SizedStream, file: &mut tokio::fs::File, room: u64, came: &AtomicU64) -> Result<u64, Error> {
    let mut count = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::debug!("a blob broke off: {error}");
                break;
            }
        };
        count += chunk.len() as u64;
        came.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if count > room {
            return Err(Error::new(ErrorKind::Invalid, "a blob is longer than its manifest says"));
        }
        file.write_all(&chunk).await.map_err(|error| Error::disk("a blob", &error))?;
    }
    Ok(count)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// Gets a token for pushing, or says why there is none.
pub(super) async fn authorize(client: &Client, reference: &Reference, auth: &RegistryAuth) -> Result<(), Error> {
    let asked = client.auth(reference, auth, RegistryOperation::Push).await;
    asked.map(drop).map_err(|error| Error::answered(reference, &error))
}
