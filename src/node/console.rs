//! What a container says and hears, for its log and for those who are attached to it.
//!
//! The log always gets everything. Somebody attached gets what is said from then on, as far as their
//! connection keeps up; a container is never slowed by who looks at it. Input exists only where the pod
//! asks for it (`stdin: true`): a pipe that lives as long as the container, which one client at a time
//! may write to. With `stdinOnce` it ends with the first of them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use tokio::io::DuplexStream;
use tokio::sync::broadcast;

use super::logs::ContainerLog;
use crate::runtime::{Output, Reader, Stream};

/// Pieces of output that an attached client may be behind; then it misses some and is told so.
const PIECES: usize = 256;
/// Input that the container has not read yet.
const PIPE: usize = 64 << 10;

/// One life of a container, as far as it is talked to.
pub struct Console {
    log: Arc<ContainerLog>,
    /// Made when somebody first attaches: most containers are never attached to.
    said: OnceLock<broadcast::Sender<(Stream, Bytes)>>,
    input: Mutex<Option<DuplexStream>>,
    keyboard: tokio::sync::Mutex<Option<DuplexStream>>,
    once: bool,
}

impl Console {
    pub fn new(log: Arc<ContainerLog>, container: &core::Container) -> Arc<Self> {
        let (input, keyboard) = match container.stdin {
            Some(true) => {
                let (input, keyboard) = tokio::io::duplex(PIPE);
                (Some(input), Some(keyboard))
            }
            _ => (None, None),
        };
        let once = container.stdin_once == Some(true);
        let (input, keyboard) = (Mutex::new(input), tokio::sync::Mutex::new(keyboard));
        Arc::new(Self { log, said: OnceLock::new(), input, keyboard, once })
    }

    /// What is said from now on.
    pub fn listen(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.said.get_or_init(|| broadcast::Sender::new(PIECES)).subscribe()
    }

    /// Passes a client's input on until it ends; at once if the container takes none, or none any more.
    ///
    /// # Errors
    /// If another client has the keyboard.
    pub async fn type_in(&self, mut from: Reader) -> Result<(), String> {
        let Ok(mut keyboard) = self.keyboard.try_lock() else {
            return Err("another client is attached to the container's input".to_owned());
        };
        let guard = End { keyboard: &mut keyboard, once: self.once };
        // The container may have closed its input; then there is nobody to type for.
        let _ = match guard.keyboard.as_mut() {
            Some(pipe) => tokio::io::copy(&mut from, pipe).await,
            None => Ok(0),
        };
        Ok(())
    }
}

/// Ends the input with its first client, however that ends, where the pod wants it so.
struct End<'a> {
    keyboard: &'a mut Option<DuplexStream>,
    once: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.once {
            *self.keyboard = None;
        }
    }
}

impl Output for Console {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.tell(stream, bytes);
        self.log.write(stream, bytes);
    }

    fn write_at(&self, stream: Stream, bytes: &[u8], at: SystemTime) {
        self.tell(stream, bytes);
        self.log.write_at(stream, bytes, at);
    }

    fn heard_until(&self) -> Option<SystemTime> {
        self.log.heard_until()
    }

    fn input(&self) -> Option<Reader> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Box::new(input))
    }
}

impl Console {
    /// Tells those who are attached.
    fn tell(&self, stream: Stream, bytes: &[u8]) {
        if let Some(said) = self.said.get().filter(|said| said.receiver_count() > 0) {
            // The last receiver may have gone this moment.
            let _ = said.send((stream, Bytes::copy_from_slice(bytes)));
        }
    }
}
