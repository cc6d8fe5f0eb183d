//! A store in memory: as long as the pod lives, and within its memory limit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::limits::Account;
use super::{Backend, Change, Error, PAGE, Result, check, check_key, incremented};

/// The most that one pod's store holds, whatever its limit: it is the host's memory.
const MAX_BYTES: u64 = 64 << 20;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 96;

pub struct MemoryStore {
    account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By bucket and key.
    values: BTreeMap<(String, String), Vec<u8>>,
    charged: u64,
}

impl MemoryStore {
    pub fn new(account: Arc<Account>) -> Self {
        Self { account, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges what all changes together add before any is made, and gives back afterwards what went.
    fn apply(&self, state: &mut State, bucket: &str, changes: Vec<Change>) -> Result<()> {
        let added: usize = changes.iter().filter_map(|(key, value)| Some(size(bucket, key, value.as_ref()?))).sum();
        let added = added as u64;
        if state.charged.saturating_add(added) > MAX_BYTES {
            return Err(Error::Other(format!("the store is full: it may hold {MAX_BYTES} bytes")));
        }
        self.account.charge(added).map_err(Error::other)?;
        let mut gone = 0;
        for (key, value) in changes {
            let at = (bucket.to_owned(), key);
            let old = match value {
                Some(value) => state.values.insert(at.clone(), value),
                None => state.values.remove(&at),
            };
            gone += old.map_or(0, |old| size(&at.0, &at.1, &old)) as u64;
        }
        state.charged = state.charged + added - gone;
        self.account.release(gone);
        Ok(())
    }
}

fn size(bucket: &str, key: &str, value: &[u8]) -> usize {
    bucket.len() + key.len() + value.len() + ENTRY_BYTES
}

impl Backend for MemoryStore {
    fn waits(&self) -> bool {
        false
    }

    fn read(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.values.get(&(bucket.to_owned(), key.clone())).cloned()).collect())
    }

    fn write(&self, bucket: &str, changes: Vec<Change>) -> Result<()> {
        check(&changes)?;
        self.apply(&mut self.state(), bucket, changes)
    }

    fn keys(&self, bucket: &str, skip: usize) -> Result<Vec<String>> {
        let state = self.state();
        let from = Bound::Included((bucket.to_owned(), String::new()));
        let all = state.values.range((from, Bound::Unbounded)).take_while(|((of, _), _)| of == bucket);
        Ok(all.skip(skip).take(PAGE).map(|((_, key), _)| key.clone()).collect())
    }

    fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64> {
        check_key(key)?;
        let mut state = self.state();
        let old = state.values.get(&(bucket.to_owned(), key.to_owned()));
        let number = incremented(old.map(Vec::as_slice), delta)?;
        let change = (key.to_owned(), Some(number.to_string().into_bytes()));
        self.apply(&mut state, bucket, vec![change])?;
        Ok(number)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.account.release(self.state().charged);
    }
}
