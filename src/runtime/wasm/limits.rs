//! How much memory guests hold, and the line beyond which a container ends.
//!
//! Every memory and table of every instance is charged to two accounts before it grows: its
//! container's and its pod's. What an instance was charged is given back when it is dropped, so the
//! sum charged is never less than the sum held. Going beyond an account's limit is no failed
//! allocation that the guest may survive: the container ends as `OOMKilled`, as it would under
//! Kubernetes with any other runtime, and the message says which limit it was and by how much.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasmtime::ResourceLimiter;

use super::engine::MAX_MEMORY_BYTES;

/// A table's element is a pointer in the host.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// Core instances, memories and tables in one store. Far above what tools produce; a component
/// made of thousands of instances would cost the host memory that no limit sees.
const MAX_ITEMS: usize = 64;

/// Bytes charged against a limit, by everyone who shares it.
#[derive(Debug)]
pub struct Account {
    scope: Scope,
    limit: u64,
    used: AtomicU64,
    /// The most that was ever used at a time.
    peak: AtomicU64,
}

/// Whose limit it is; for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Container,
    Pod,
}

impl Account {
    pub fn new(scope: Scope, limit: Option<u64>) -> Self {
        Self { scope, limit: limit.unwrap_or(u64::MAX), used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Counts what somebody holds, within the limit.
    pub fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let charged =
            self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|&sum| sum <= self.limit));
        match charged {
            Ok(before) => {
                // Mostly a read: the line is written only when a record is broken.
                if before + bytes > self.peak.load(Relaxed) {
                    self.peak.fetch_max(before + bytes, Relaxed);
                }
                Ok(())
            }
            Err(used) => Err(OutOfMemory { scope: self.scope, limit: self.limit, used, asked: bytes }),
        }
    }

    /// Gives back what was charged.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// A limit was passed: the container must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    pub scope: Scope,
    pub limit: u64,
    pub used: u64,
    pub asked: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.scope {
            Scope::Container => "container",
            Scope::Pod => "pod",
        };
        let beyond = self.used.saturating_add(self.asked).saturating_sub(self.limit);
        write!(
            f,
            "memory limit of the {whose} exceeded: {} in use, {} more asked for, limit {} ({} too much)",
            Bytes(self.used),
            Bytes(self.asked),
            Bytes(self.limit),
            Bytes(beyond)
        )
    }
}

impl std::error::Error for OutOfMemory {}

/// Bytes for people: whole units exactly, others with one decimal.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1u64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")] {
            if self.0 >= unit {
                return if self.0.is_multiple_of(unit) {
                    write!(f, "{}{name}", self.0 / unit)
                } else {
                    write!(f, "{:.1}{name}", self.0 as f64 / unit as f64)
                };
            }
        }
        write!(f, "{}", self.0)
    }
}

/// What one instance was charged; gives it back when dropped.
pub struct Limiter {
    container: Arc<Account>,
    pod: Arc<Account>,
    charged: u64,
}

impl Limiter {
    pub fn new(container: Arc<Account>, pod: Arc<Account>) -> Self {
        Self { container, pod, charged: 0 }
    }

    /// Charges what is held on the instance's behalf.
    pub fn charge(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.container.charge(bytes)?;
        self.pod.charge(bytes).inspect_err(|_| self.container.release(bytes))?;
        self.charged += bytes;
        Ok(())
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.container.release(self.charged);
        self.pod.release(self.charged);
    }
}

impl ResourceLimiter for Limiter {
    /// Growth that fails after this call (the system refuses the pages) stays charged: that is rare,
    /// and the instance's end gives it back.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > maximum.unwrap_or(usize::MAX).min(MAX_MEMORY_BYTES) {
            return Ok(false);
        }
        self.charge(desired.saturating_sub(current) as u64)?;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > maximum.unwrap_or(usize::MAX) {
            return Ok(false);
        }
        self.charge((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES))?;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_ITEMS
    }

    fn tables(&self) -> usize {
        MAX_ITEMS
    }

    fn memories(&self) -> usize {
        MAX_ITEMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(container: Option<u64>, pod: Option<u64>) -> (Arc<Account>, Arc<Account>) {
        (Arc::new(Account::new(Scope::Container, container)), Arc::new(Account::new(Scope::Pod, pod)))
    }

    #[test]
    fn instances_share_the_limit_and_give_back_what_they_held() {
        let (container, pod) = accounts(Some(100), Some(150));
        let mut one = Limiter::new(container.clone(), pod.clone());
        let mut two = Limiter::new(container.clone(), pod.clone());
        assert!(one.memory_growing(0, 60, None).unwrap());
        let error = two.memory_growing(0, 60, None).unwrap_err();
        assert_eq!(
            error.downcast_ref::<OutOfMemory>(),
            Some(&OutOfMemory { scope: Scope::Container, limit: 100, used: 60, asked: 60 })
        );
        drop(one);
        assert!(two.memory_growing(0, 60, None).unwrap());
        assert!(two.table_growing(0, 5, None).unwrap());
        assert_eq!((container.used(), pod.used()), (100, 100));
        drop(two);
        assert_eq!((container.used(), pod.used()), (0, 0));
        assert_eq!((container.peak(), pod.peak()), (100, 100));
    }

    #[test]
    fn the_pods_limit_holds_over_its_containers() {
        let (web, pod) = accounts(None, Some(100));
        let job = Arc::new(Account::new(Scope::Container, None));
        let mut one = Limiter::new(web.clone(), pod.clone());
        let mut two = Limiter::new(job.clone(), pod.clone());
        assert!(one.memory_growing(0, 70, None).unwrap());
        assert!(two.memory_growing(0, 40, None).is_err());
        assert_eq!((web.used(), job.used(), pod.used()), (70, 0, 70));
    }

    #[test]
    fn growth_beyond_the_memorys_own_maximum_only_fails() {
        let (container, pod) = accounts(Some(100), None);
        let mut limiter = Limiter::new(container.clone(), pod);
        assert!(!limiter.memory_growing(0, 60, Some(50)).unwrap());
        assert!(!limiter.memory_growing(0, MAX_MEMORY_BYTES + 1, None).unwrap());
        assert!(!limiter.table_growing(0, 60, Some(50)).unwrap());
        assert_eq!(container.used(), 0);
    }

    #[test]
    fn the_message_says_which_limit_and_by_how_much() {
        let error = OutOfMemory { scope: Scope::Container, limit: 64 << 20, used: 60 << 20, asked: 8 << 20 };
        assert_eq!(
            error.to_string(),
            "memory limit of the container exceeded: 60Mi in use, 8Mi more asked for, limit 64Mi (4Mi too much)"
        );
    }
}
