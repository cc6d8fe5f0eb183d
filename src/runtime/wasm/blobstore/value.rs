//! What a guest writes and reads: bytes in memory, charged to its container.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::super::limits::Limiter;
use super::{MAX_VALUE_BYTES, Result};

/// Bytes a guest may write or read at a time.
const PERMIT: usize = 64 << 10;

/// An object to be: `outgoing-value`.
pub struct OutgoingValue {
    pub body: Body,
    /// Whether its one stream has been given away.
    pub taken: bool,
    /// The container and the object that it is to become.
    pub target: Option<(String, String)>,
}

/// The bytes that a value's stream writes.
#[derive(Clone)]
pub struct Body(Arc<Mutex<Written>>);

struct Written {
    bytes: Vec<u8>,
    held: Limiter,
}

impl Body {
    pub fn new(held: Limiter) -> Self {
        Self(Arc::new(Mutex::new(Written { bytes: Vec::new(), held })))
    }

    /// All of them; the limiter gives back what they were charged when it is dropped.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes)
    }
}

#[async_trait::async_trait]
impl Pollable for Body {
    async fn ready(&mut self) {}
}

impl OutputStream for Body {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.bytes.len() + bytes.len() > MAX_VALUE_BYTES {
            let why = format!("an object has at most {MAX_VALUE_BYTES} bytes");
            return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(why)));
        }
        written.held.charge(bytes.len() as u64).map_err(|error| StreamError::Trap(error.into()))?;
        written.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

/// What was read of an object: `incoming-value`, and its stream.
pub struct IncomingValue {
    pub bytes: Bytes,
    _held: Limiter,
}

impl IncomingValue {
    /// Charged like all that the container holds; too much is the container's end.
    pub fn new(bytes: Vec<u8>, mut held: Limiter) -> wasmtime::Result<Self> {
        held.charge(bytes.len() as u64)?;
        Ok(Self { bytes: bytes.into(), _held: held })
    }
}

#[async_trait::async_trait]
impl Pollable for IncomingValue {
    async fn ready(&mut self) {}
}

impl InputStream for IncomingValue {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.bytes.is_empty() {
            return Err(StreamError::Closed);
        }
        Ok(self.bytes.split_to(size.min(PERMIT).min(self.bytes.len())))
    }
}

/// The names of a listing that have not been read: `stream-object-names`.
pub struct Names(std::vec::IntoIter<String>);

impl Names {
    pub fn new(names: Vec<String>) -> Self {
        Self(names.into_iter())
    }

    /// The next so many, and whether those were the last.
    pub fn read(&mut self, count: u64) -> Result<(Vec<String>, bool)> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let names = self.0.by_ref().take(count).collect();
        Ok((names, self.0.len() == 0))
    }

    /// Leaves out so many; how many there were, and whether those were the last.
    pub fn skip(&mut self, count: u64) -> Result<(u64, bool)> {
        self.read(count).map(|(names, last)| (names.len() as u64, last))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::{Account, Scope};
    use super::*;

    fn limiter(limit: u64) -> (Limiter, Arc<Account>) {
        let account = Arc::new(Account::new(Scope::Container, Some(limit)));
        (Limiter::new(account.clone(), Arc::new(Account::new(Scope::Pod, None))), account)
    }

    #[test]
    fn what_is_written_and_read_is_charged() {
        let (held, account) = limiter(10);
        let mut body = Body::new(held);
        assert!(body.write(Bytes::from_static(b"hello")).is_ok() && account.used() == 5);
        assert!(matches!(body.write(Bytes::from_static(b"too much")), Err(StreamError::Trap(_))));
        assert_eq!(body.take(), b"hello");
        drop(body);
        assert_eq!(account.used(), 0);

        let (held, account) = limiter(10);
        let mut value = IncomingValue::new(b"hello".to_vec(), held).expect("room");
        assert_eq!(account.used(), 5);
        assert!(value.read(2).is_ok_and(|bytes| bytes == "he") && value.read(9).is_ok_and(|bytes| bytes == "llo"));
        assert!(matches!(value.read(1), Err(StreamError::Closed)));
        assert!(IncomingValue::new(vec![0; 20], limiter(10).0).is_err());
    }

    #[test]
    fn names_are_read_and_skipped() {
        let mut names = Names::new(["a", "b", "c"].map(str::to_owned).to_vec());
        assert_eq!(names.skip(1), Ok((1, false)));
        assert_eq!(names.read(5), Ok((vec!["b".to_owned(), "c".to_owned()], true)));
        assert_eq!((names.read(1), names.skip(9)), (Ok((Vec::new(), true)), Ok((0, true))));
    }
}
