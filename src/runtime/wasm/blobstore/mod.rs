//! `wasi:blobstore`: objects in a directory of one of the pod's volumes, where the pod asks for it.
//!
//! | file | owns |
//! |---|---|
//! | `directory` | containers and objects as directories and files |
//! | `value` | what is written and read, and the streams for it |
//! | `host` | the interfaces `types`, `container` and `blobstore` |
//!
//! An object is a file with its name, so that whoever else has the volume finds it there. It comes to be
//! whole, when the guest finishes it, or not at all. Until then, and while it is read, it is held in memory
//! and charged to the container.

mod directory;
mod host;
mod value;

use std::sync::Arc;

use tokio::sync::Semaphore;

use self::directory::Blobs;
pub use self::host::add_to_linker;
use super::super::{Mount, StartError};
use super::place::Place;

/// The draft that is offered.
pub const VERSION: &str = "0.2.0-draft";
/// Bytes that are written or read at a time; of a larger file a part can be read.
const MAX_VALUE_BYTES: usize = 64 << 20;
/// Operations of a container at a time; each takes a thread.
const MAX_AT_ONCE: usize = 4;

/// As the interface has it: words.
type Result<T> = std::result::Result<T, String>;

/// A store that a container may use.
pub struct BlobStore {
    blobs: Blobs,
    places: Semaphore,
}

impl BlobStore {
    /// In `directory` as a container with these mounts sees it.
    pub fn open(directory: &str, mounts: &[Mount]) -> std::result::Result<Arc<Self>, StartError> {
        let place = Place::of("blob store", directory, mounts).map_err(StartError::Other)?;
        Ok(Arc::new(Self { blobs: Blobs::new(place), places: Semaphore::new(MAX_AT_ONCE) }))
    }

    /// Does `work` beside the serving threads.
    async fn on<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Blobs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store.blobs)).await;
        done.unwrap_or_else(|_| Err("the store failed in the middle of it".to_owned()))
    }
}
