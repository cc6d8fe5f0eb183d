//! What keeps one client from taking the server away from the others: a bound on requests in flight and
//! a deadline for each. Bodies are bounded where they are read, headers by the HTTP server.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::status::ApiError;

/// Requests in flight, watches and logs not counted. Each may hold a 3 MiB body and its decoded form;
/// upstream's default is 400 reads and 200 writes.
pub const MAX_IN_FLIGHT: usize = 600;
/// Upstream's deadline for an ordinary request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Watches and logs at a time: ten thousand connections' worth of small streams.
const MAX_LONG_RUNNING: usize = 10_000;

/// The permits.
#[derive(Clone)]
pub struct Limits {
    ordinary: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ordinary: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), long: Arc::new(Semaphore::new(MAX_LONG_RUNNING)) }
    }
}

impl Limits {
    /// Runs a request under its limit; 429 where there is no room, 504 where it takes too long.
    pub async fn run<T>(&self, long_running: bool, request: impl Future<Output = T>) -> Result<T, ApiError> {
        let semaphore = if long_running { &self.long } else { &self.ordinary };
        let Ok(_permit) = semaphore.try_acquire() else {
            return Err(ApiError::too_many_requests("Too many requests, please try again later."));
        };
        if long_running {
            return Ok(request.await);
        }
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout", 1)),
        }
    }
}
