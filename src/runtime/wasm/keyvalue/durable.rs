//! A store in a file of one of the pod's volumes.
//!
//! A file that is no store, or none any more, is an error of this pod.

use std::fs::File;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rustix::fs::OFlags;

use super::super::place::Place;
use super::{Backend, Change, Error, PAGE, Result, check, check_key, incremented};

/// The file, in the directory that the pod names.
const FILE: &str = "keyvalue.redb";
/// By bucket and key.
const VALUES: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("values");
/// A store that has grown to this takes nothing more: a volume is not always limited.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// redb's own cache of pages; the system has one as well.
const CACHE_BYTES: usize = 4 << 20;

pub struct DurableStore {
    database: Database,
    file: File,
}

impl DurableStore {
    /// Opens the store, or makes it; the error says why not.
    pub fn open(place: &Place) -> std::result::Result<Self, String> {
        let file = place.directory().and_then(|at| at.file(FILE, OFlags::RDWR | OFlags::CREATE));
        let file = file.map_err(|error| error.to_string())?;
        let theirs = file.try_clone().map_err(|error| error.to_string())?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = FileBackend::new(theirs)
            .and_then(|backend| builder.create_with_backend(backend))
            .map_err(|error| error.to_string())?;
        let store = Self { database, file };
        // The table is there from now on, so that reading need not ask.
        store.transact(|_| Ok(())).map_err(|error| format!("{error:?}"))?;
        Ok(store)
    }

    /// One transaction on disk when this returns; none if `change` fails.
    fn transact<T>(&self, change: impl FnOnce(&mut Values<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.database.begin_write().map_err(Error::other)?;
        let mut table = transaction.open_table(VALUES).map_err(Error::other)?;
        let done = change(&mut table)?;
        drop(table);
        transaction.commit().map_err(Error::other)?;
        Ok(done)
    }

    fn room(&self) -> Result<()> {
        let length = self.file.metadata().map_err(Error::other)?.len();
        if length < MAX_FILE_BYTES { Ok(()) } else { Err(Error::other("the store is full")) }
    }
}

type Values<'t> = redb::Table<'t, (&'static str, &'static str), &'static [u8]>;

impl Backend for DurableStore {
    fn waits(&self) -> bool {
        true
    }

    fn read(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let transaction = self.database.begin_read().map_err(Error::other)?;
        let table = transaction.open_table(VALUES).map_err(Error::other)?;
        let value = |key: &String| {
            let found = table.get((bucket, key.as_str())).map_err(Error::other)?;
            Ok(found.map(|value| value.value().to_vec()))
        };
        keys.iter().map(value).collect()
    }

    fn write(&self, bucket: &str, changes: Vec<Change>) -> Result<()> {
        check(&changes)?;
        if changes.iter().any(|(_, value)| value.is_some()) {
            self.room()?;
        }
        self.transact(|table| {
            for (key, value) in &changes {
                let at = (bucket, key.as_str());
                match value {
                    Some(value) => drop(table.insert(at, value.as_slice()).map_err(Error::other)?),
                    None => drop(table.remove(at).map_err(Error::other)?),
                }
            }
            Ok(())
        })
    }

    fn keys(&self, bucket: &str, skip: usize) -> Result<Vec<String>> {
        let transaction = self.database.begin_read().map_err(Error::other)?;
        let table = transaction.open_table(VALUES).map_err(Error::other)?;
        let mut keys = Vec::new();
        for entry in table.range((bucket, "")..).map_err(Error::other)?.skip(skip) {
            let (at, _) = entry.map_err(Error::other)?;
            let (of, key) = at.value();
            if of != bucket || keys.len() == PAGE {
                break;
            }
            keys.push(key.to_owned());
        }
        Ok(keys)
    }

    fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64> {
        check_key(key)?;
        self.room()?;
        self.transact(|table| {
            let old = table.get((bucket, key)).map_err(Error::other)?.map(|value| value.value().to_vec());
            let number = incremented(old.as_deref(), delta)?;
            table.insert((bucket, key), number.to_string().as_bytes()).map_err(Error::other)?;
            Ok(number)
        })
    }
}
