//! The interfaces `wasi:keyvalue/store`, `atomics` and `batch`, over the store that the pod asked for.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use super::super::guest::Guest;
use super::{Backend, Error, MAX_KEY_BYTES, PAGE, Result, VERSION};

/// An open bucket.
struct Bucket {
    name: String,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeyResponse {
    keys: Vec<String>,
    cursor: Option<u64>,
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Handle = Resource<Bucket>;

/// Defines all three.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    store(linker)?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{VERSION}"))?;
    atomics.func_wrap_async("increment", |store: Store<'_>, (bucket, key, delta): (Handle, String, u64)| {
        Box::new(on(store, bucket, move |backend, bucket| backend.increment(bucket, &key, delta)))
    })?;
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{VERSION}"))?;
    batch.func_wrap_async("get-many", |store: Store<'_>, (bucket, keys): (Handle, Vec<String>)| {
        Box::new(on(store, bucket, move |backend, bucket| {
            let values = backend.read(bucket, &keys)?;
            Ok(keys.into_iter().zip(values).map(|(key, value)| value.map(|value| (key, value))).collect::<Vec<_>>())
        }))
    })?;
    batch.func_wrap_async("set-many", |store: Store<'_>, (bucket, pairs): (Handle, Vec<(String, Vec<u8>)>)| {
        let changes = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
        Box::new(on(store, bucket, move |backend, bucket| backend.write(bucket, changes)))
    })?;
    batch.func_wrap_async("delete-many", |store: Store<'_>, (bucket, keys): (Handle, Vec<String>)| {
        let changes = keys.into_iter().map(|key| (key, None)).collect();
        Box::new(on(store, bucket, move |backend, bucket| backend.write(bucket, changes)))
    })
}

fn store(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut store = linker.instance(&format!("wasi:keyvalue/store@{VERSION}"))?;
    store.resource("bucket", ResourceType::host::<Bucket>(), |mut store, handle| {
        store.data_mut().keyvalue().0.delete(Handle::new_own(handle))?;
        Ok(())
    })?;
    store.func_wrap("open", |mut store: Store<'_>, (name,): (String,)| open(store.data_mut(), name))?;
    store.func_wrap_async("[method]bucket.get", |store: Store<'_>, (bucket, key): (Handle, String)| {
        Box::new(on(store, bucket, move |backend, bucket| Ok(backend.read(bucket, &[key])?.pop().flatten())))
    })?;
    store.func_wrap_async("[method]bucket.exists", |store: Store<'_>, (bucket, key): (Handle, String)| {
        Box::new(on(store, bucket, move |backend, bucket| Ok(backend.read(bucket, &[key])?.pop().flatten().is_some())))
    })?;
    store.func_wrap_async(
        "[method]bucket.set",
        |store: Store<'_>, (bucket, key, value): (Handle, String, Vec<u8>)| {
            Box::new(on(store, bucket, move |backend, bucket| backend.write(bucket, vec![(key, Some(value))])))
        },
    )?;
    store.func_wrap_async("[method]bucket.delete", |store: Store<'_>, (bucket, key): (Handle, String)| {
        Box::new(on(store, bucket, move |backend, bucket| backend.write(bucket, vec![(key, None)])))
    })?;
    store.func_wrap_async("[method]bucket.list-keys", |store: Store<'_>, (bucket, cursor): (Handle, Option<u64>)| {
        Box::new(on(store, bucket, move |backend, bucket| {
            let skip = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
            let keys = backend.keys(bucket, skip)?;
            let cursor = (keys.len() == PAGE).then(|| skip.saturating_add(PAGE) as u64);
            Ok(KeyResponse { keys, cursor })
        }))
    })
}

fn open(guest: &mut Guest, name: String) -> wasmtime::Result<(Result<Handle>,)> {
    let (table, store) = guest.keyvalue();
    if store.is_none() {
        return Ok((Err(Error::AccessDenied),));
    }
    if name.len() > MAX_KEY_BYTES {
        return Ok((Err(Error::NoSuchStore),));
    }
    Ok((Ok(table.push(Bucket { name })?),))
}

/// Does `work` on a bucket; beside the serving threads, if it may wait.
async fn on<T: Send + 'static>(
    mut store: Store<'_>,
    bucket: Handle,
    work: impl FnOnce(&dyn Backend, &str) -> Result<T> + Send + 'static,
) -> wasmtime::Result<(Result<T>,)> {
    let (table, keyvalue) = store.data_mut().keyvalue();
    let name = table.get(&bucket)?.name.clone();
    let Some(keyvalue) = keyvalue else { return Ok((Err(Error::AccessDenied),)) };
    if !keyvalue.backend.waits() {
        return Ok((work(&*keyvalue.backend, &name),));
    }
    let Ok(_place) = keyvalue.places.acquire().await else { return Ok((Err(Error::AccessDenied),)) };
    let theirs = keyvalue.clone();
    let done = tokio::task::spawn_blocking(move || work(&*theirs.backend, &name)).await;
    Ok((done.unwrap_or_else(|_| Err(Error::other("the store failed in the middle of it"))),))
}
