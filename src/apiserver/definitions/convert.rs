//! Custom resources from one version of their definition into another.
//!
//! Objects are stored in the version that the definition names for storing, and carry the version that
//! they were written in, which may be an older one. Without a webhook all versions are the same object
//! under another name, and decoding does all there is to do. With one, this file brings stored bytes into
//! the version that a request is about, before anything looks at them, and what is written back into the
//! version that is stored. An object that is stored in the version asked for takes no conversion: it can
//! be read while the webhook is away.
//!
//! Objects that a list shows are converted in batches. What has been converted is kept for a while
//! ([`Converted`]), by the store's revision, which names one state of one object: so a change is converted
//! once for all who watch a version, and a list that is asked for again costs no webhook.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::review::{Review, VERSIONS};
use super::versions::Known;
use crate::apiserver::registry::encoding::{self, Stored, api_version};
use crate::apiserver::registry::{Place, Registry};
use crate::apiserver::status::ApiError;
use crate::kinds::custom::Custom;
use crate::kinds::{Kind, meta};
use crate::store::Change;

/// How long a webhook may take to convert one batch: upstream's.
const TIMEOUT: Duration = Duration::from_secs(30);
/// One batch: so many objects, or so many bytes as they are stored. The answer may be a few times longer,
/// and what a webhook may answer is bounded.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// What has been converted is kept up to so many objects and bytes.
const KEPT: usize = 8192;
const KEPT_BYTES: usize = 32 << 20;

/// How the objects of one definition get from version to version.
pub struct Converter {
    /// Another one for each state of a definition: what an earlier one has converted does not count.
    pub epoch: u64,
    /// Every version, served or not.
    versions: Vec<&'static Custom>,
    /// The version that objects are stored in from now on.
    storage: &'static Custom,
    hook: Option<Hook>,
}

struct Hook {
    client_config: Value,
    /// Of the review.
    version: &'static str,
}

impl Converter {
    pub fn new(definition: &Value, versions: Vec<&'static Custom>, storage: &'static Custom, epoch: u64) -> Self {
        let conversion = &definition["spec"]["conversion"];
        let webhook = &conversion["webhook"];
        let speaks = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let version = speaks.filter_map(|said| VERSIONS.into_iter().find(|known| said == known)).next();
        let hook = (conversion["strategy"] == "Webhook")
            .then(|| Hook { client_config: webhook["clientConfig"].clone(), version: version.unwrap_or(VERSIONS[0]) });
        Self { epoch, versions, storage, hook }
    }

    /// Whether it converts between these very kinds: those of a definition change with its names, too.
    pub fn is_between(&self, versions: &[&'static Custom]) -> bool {
        self.versions.len() == versions.len() && self.versions.iter().zip(versions).all(|(a, b)| std::ptr::eq(*a, *b))
    }

    /// The version that an object was written in.
    fn written(&self, stored: &[u8]) -> &'static Custom {
        let version = encoding::version(stored);
        self.versions.iter().find(|known| version == Some(known.info().version)).copied().unwrap_or(self.storage)
    }

    /// Objects, each of some version of the definition, as those of the version `to`.
    async fn convert(&self, registry: &Registry, objects: Vec<Value>, to: &Custom) -> Result<Vec<Value>, ApiError> {
        let desired = api_version(to.info());
        let mut converted = match &self.hook {
            None => objects,
            Some(hook) => {
                let uid = uuid::Uuid::new_v4().to_string();
                let is_list = objects.len() > 1;
                let review = Review { version: hook.version, uid: &uid, desired: &desired, objects: &objects, is_list };
                let asked = registry.webhooks.call(&hook.client_config, &review.question(), TIMEOUT).await;
                let failed = |why: String| ApiError::new(500, "", why);
                let answer = asked
                    .map_err(|error| failed(format!("conversion webhook for {} failed: {error}", review.subject())))?;
                review.converted(answer).map_err(failed)?
            }
        };
        for object in &mut converted {
            object["apiVersion"] = desired.as_str().into();
            to.prune(object);
        }
        Ok(converted)
    }

    /// Stored objects of other versions, as bytes of the version `to`.
    async fn convert_stored(
        &self,
        registry: &Registry,
        stored: &[&Stored],
        to: &Custom,
    ) -> Result<Vec<Bytes>, ApiError> {
        let mut converted = Vec::with_capacity(stored.len());
        let sizes: Vec<usize> = stored.iter().map(|stored| stored.bytes.len()).collect();
        for batch in batches(&sizes) {
            let decoded: Result<Vec<Value>, _> = stored[batch]
                .iter()
                .map(|stored| encoding::decode(self.written(&stored.bytes), &stored.bytes, stored.revision))
                .collect();
            let objects = self.convert(registry, decoded.map_err(ApiError::internal)?, to).await?;
            converted.extend(objects.iter().map(|object| encoding::encode(to, object)));
        }
        Ok(converted)
    }
}

/// Cuts a list into batches, given the sizes of its items in bytes.
fn batches(sizes: &[usize]) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, size) in sizes.iter().enumerate() {
        if at > start && (at - start == BATCH || bytes + size > BATCH_BYTES) {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        batches.push(start..sizes.len());
    }
    batches
}

impl Registry {
    fn converter(&self, kind: &dyn Kind) -> Option<Arc<Converter>> {
        kind.custom()?;
        self.definitions.current().of_kind(kind).map(|served| served.converter.clone())
    }

    /// The versions of an object's kind, for those who own its fields.
    pub fn versions(&self, kind: &dyn Kind) -> Known {
        let versions = self.converter(kind).map(|converter| converter.versions.clone()).unwrap_or_default();
        Known::new(if versions.len() > 1 { versions } else { Vec::new() })
    }

    /// The version that a stored object was written in, where it is another one than `kind`, whose
    /// objects a webhook converts.
    pub fn as_written(&self, kind: &dyn Kind, stored: &[u8]) -> Option<&'static dyn Kind> {
        let converter = self.converter(kind).filter(|converter| converter.hook.is_some())?;
        let written = converter.written(stored);
        (written.info().version != kind.info().version).then_some(written as &'static dyn Kind)
    }

    /// Stored objects, as bytes of the version that `kind` is.
    pub async fn shown(&self, kind: &dyn Kind, mut stored: Vec<Stored>) -> Result<Vec<Stored>, ApiError> {
        let Some(to) = kind.custom() else { return Ok(stored) };
        let Some(converter) = self.converter(kind).filter(|converter| converter.hook.is_some()) else {
            return Ok(stored);
        };
        let version = kind.info().version;
        let foreign = stored.iter_mut().filter(|stored| encoding::version(&stored.bytes) != Some(version));
        let mut wanted: Vec<(&mut Stored, Arc<Cell>)> = foreign
            .map(|stored| {
                let cell = self.definitions.converted.cell(key(&converter, to, stored.revision));
                (stored, cell)
            })
            .collect();
        if let [(stored, cell)] = wanted.as_mut_slice() {
            // Whoever asks for it meanwhile waits for the same answer.
            let convert = async {
                let bytes = converter.convert_stored(self, &[&**stored], to).await;
                bytes.and_then(|bytes| bytes.into_iter().next().ok_or_else(|| ApiError::internal("nothing converted")))
            };
            let answer = cell.get_or_init(|| convert).await.clone();
            self.definitions.converted.settled(key(&converter, to, stored.revision), cell);
            stored.bytes = answer?;
        } else {
            let (missing, known): (Vec<_>, Vec<_>) =
                wanted.into_iter().partition(|(_, cell)| !matches!(cell.get(), Some(Ok(_))));
            for (stored, cell) in known {
                if let Some(Ok(bytes)) = cell.get() {
                    stored.bytes = bytes.clone();
                }
            }
            let question: Vec<&Stored> = missing.iter().map(|(stored, _)| &**stored).collect();
            let converted = converter.convert_stored(self, &question, to).await?;
            for ((stored, cell), bytes) in missing.into_iter().zip(converted) {
                // Somebody may have been quicker.
                let _ = cell.set(Ok(bytes.clone()));
                self.definitions.converted.settled(key(&converter, to, stored.revision), &cell);
                stored.bytes = bytes;
            }
        }
        Ok(stored)
    }

    /// The same for one object.
    pub async fn shown_one(&self, kind: &dyn Kind, stored: Stored) -> Result<Stored, ApiError> {
        if kind.custom().is_none() {
            return Ok(stored);
        }
        let mut shown = self.shown(kind, vec![stored]).await?;
        shown.pop().ok_or_else(|| ApiError::internal("nothing converted"))
    }

    /// The same for what has been written, or would have been: its revision may be another state's.
    pub async fn shown_as_written(&self, kind: &dyn Kind, stored: Stored) -> Result<Stored, ApiError> {
        let Some(to) = kind.custom() else { return Ok(stored) };
        let Some(converter) = self.converter(kind).filter(|converter| converter.hook.is_some()) else {
            return Ok(stored);
        };
        if encoding::version(&stored.bytes) == Some(kind.info().version) {
            return Ok(stored);
        }
        let converted = converter.convert_stored(self, &[&stored], to).await?;
        Ok(Stored { bytes: converted.into_iter().next().unwrap_or_default(), ..stored })
    }

    /// A change, with what was before and after it in the version that `kind` is; what was before only
    /// where somebody looks at it.
    pub async fn shown_change(
        &self,
        kind: &dyn Kind,
        change: Arc<Change>,
        with_previous: bool,
    ) -> Result<Arc<Change>, ApiError> {
        if self.converter(kind).is_none_or(|converter| converter.hook.is_none()) {
            return Ok(change);
        }
        let mut shown = (*change).clone();
        if let Some(bytes) = shown.value.take() {
            shown.value = Some(self.shown_one(kind, Stored { bytes, revision: change.revision }).await?.bytes);
        }
        if let Some(entry) = &mut shown.previous
            && (with_previous || shown.value.is_none())
        {
            entry.value = self.shown_one(kind, Stored::from(&*entry)).await?.bytes;
        }
        Ok(Arc::new(shown))
    }

    /// The object at `place`, in the version of the place's kind.
    pub async fn look(&self, place: Place<'_>) -> Result<Option<Value>, ApiError> {
        let Some(entry) = self.store.get(&place.key()) else { return Ok(None) };
        self.read(place, &entry).await.map(|object| Some((*object).clone()))
    }

    /// The bytes to store for an object of `kind`.
    pub async fn stored_form(&self, kind: &dyn Kind, object: &Value) -> Result<Bytes, ApiError> {
        match self.converter(kind) {
            Some(converter) if converter.storage.info().version != kind.info().version => {
                let mut converted = converter.convert(self, vec![object.clone()], converter.storage).await?;
                let object = converted.pop().ok_or_else(|| ApiError::internal("nothing converted"))?;
                Ok(encoding::encode(converter.storage, &object))
            }
            _ => Ok(encoding::encode(kind, object)),
        }
    }

    /// An object of one kind, as another one that is a view of the same stored object.
    pub async fn convert(&self, from: &dyn Kind, to: &dyn Kind, object: &Value) -> Result<Value, ApiError> {
        if std::ptr::eq(from.info(), to.info()) || !object.is_object() {
            return Ok(object.clone());
        }
        if let (Some(to), Some(converter)) = (to.custom(), self.converter(from)) {
            let mut converted = converter.convert(self, vec![object.clone()], to).await?;
            return converted.pop().ok_or_else(|| ApiError::internal("nothing converted"));
        }
        let mut converted = encoding::decode(to, &encoding::encode(from, object), 0).unwrap_or_else(|_| object.clone());
        let version = &object["metadata"]["resourceVersion"];
        if !version.is_null() {
            meta::metadata_mut(&mut converted).insert("resourceVersion".to_owned(), version.clone());
        }
        Ok(converted)
    }
}

/// What has been converted lately, and what is being converted.
#[derive(Default)]
pub struct Converted(Mutex<Kept>);

/// A failure is told to all who wait for it, and then forgotten.
type Cell = OnceCell<Result<Bytes, ApiError>>;

/// Which state of which object, in which version, by which state of its definition.
type Key = (u64, usize, u64);

#[derive(Default)]
struct Kept {
    /// With how many bytes each is counted.
    cells: HashMap<Key, (Arc<Cell>, usize)>,
    /// The oldest first. Those that have failed are no longer in `cells`.
    order: VecDeque<Key>,
    bytes: usize,
}

fn key(converter: &Converter, to: &Custom, revision: u64) -> Key {
    (revision, std::ptr::from_ref(to.info()).addr(), converter.epoch)
}

impl Converted {
    fn cell(&self, key: Key) -> Arc<Cell> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, _)) = kept.cells.get(&key) {
            return known.clone();
        }
        let cell = Arc::<Cell>::default();
        kept.cells.insert(key, (cell.clone(), 0));
        kept.order.push_back(key);
        kept.shrink();
        cell
    }

    /// Takes note that a cell has its answer.
    fn settled(&self, key: Key, cell: &Arc<Cell>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((known, counted)) = kept.cells.get_mut(&key) else { return };
        // Who has waited says so as well.
        if !Arc::ptr_eq(known, cell) || *counted > 0 {
            return;
        }
        match cell.get() {
            Some(Ok(bytes)) => {
                *counted = bytes.len();
                kept.bytes += bytes.len();
                kept.shrink();
            }
            Some(Err(_)) => drop(kept.cells.remove(&key)),
            None => {}
        }
    }
}

impl Kept {
    fn shrink(&mut self) {
        while self.order.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some((_, counted)) = self.cells.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(counted);
            }
        }
    }
}
