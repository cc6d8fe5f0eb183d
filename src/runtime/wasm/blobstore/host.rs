//! The interfaces `wasi:blobstore/types`, `container` and `blobstore`, over the directory that the pod
//! asked for.

use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::super::guest::Guest;
use super::directory::{About, Blobs};
use super::value::{Body, IncomingValue, Names, OutgoingValue};
use super::{Result, VERSION};

/// An open container.
struct Container {
    name: String,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ContainerMetadata {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectMetadata {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Handle = Resource<Container>;
type Told<T> = wasmtime::Result<(Result<T>,)>;

/// Defines all three.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:blobstore/types@{VERSION}"))?;
    outgoing(&mut types)?;
    incoming(&mut types)?;
    let mut container = linker.instance(&format!("wasi:blobstore/container@{VERSION}"))?;
    objects(&mut container)?;
    listings(&mut container)?;
    containers(&mut linker.instance(&format!("wasi:blobstore/blobstore@{VERSION}"))?)
}

fn outgoing(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource("outgoing-value", ResourceType::host::<OutgoingValue>(), |mut store, handle| {
        store.data_mut().blobstore().table.delete(Resource::<OutgoingValue>::new_own(handle))?;
        Ok(())
    })?;
    types.func_wrap("[static]outgoing-value.new-outgoing-value", |mut store: Store<'_>, (): ()| {
        let guest = store.data_mut().blobstore();
        let value = OutgoingValue { body: Body::new(guest.limiter), taken: false, target: None };
        Ok((guest.table.push(value)?,))
    })?;
    types.func_wrap(
        "[method]outgoing-value.outgoing-value-write-body",
        |mut store: Store<'_>, (value,): (Resource<OutgoingValue>,)| {
            let table = store.data_mut().blobstore().table;
            let outgoing = table.get_mut(&value)?;
            if std::mem::replace(&mut outgoing.taken, true) {
                return Ok((Err(()),));
            }
            let stream: DynOutputStream = Box::new(outgoing.body.clone());
            Ok((Ok::<_, ()>(table.push_child(stream, &value)?),))
        },
    )?;
    types.func_wrap_async(
        "[static]outgoing-value.finish",
        |mut store: Store<'_>, (value,): (Resource<OutgoingValue>,)| {
            Box::new(async move {
                let value = store.data_mut().blobstore().table.delete(value)?;
                // Of a value that is written to no container nothing is left.
                let Some((container, object)) = value.target else { return Ok((Ok(()),)) };
                let (body, bytes) = (value.body.clone(), value.body.take());
                let done = on(store, move |blobs| blobs.write(&container, &object, &bytes)).await;
                drop(body);
                done
            })
        },
    )
}

fn incoming(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Value = Resource<IncomingValue>;
    types.resource("incoming-value", ResourceType::host::<IncomingValue>(), |mut store, handle| {
        store.data_mut().blobstore().table.delete(Value::new_own(handle))?;
        Ok(())
    })?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-sync",
        |mut store: Store<'_>, (value,): (Value,)| -> Told<Vec<u8>> {
            Ok((Ok(store.data_mut().blobstore().table.delete(value)?.bytes.to_vec()),))
        },
    )?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        |mut store: Store<'_>, (value,): (Value,)| -> Told<Resource<DynInputStream>> {
            let table = store.data_mut().blobstore().table;
            let stream: DynInputStream = Box::new(table.delete(value)?);
            Ok((Ok(table.push(stream)?),))
        },
    )?;
    types.func_wrap("[method]incoming-value.size", |mut store: Store<'_>, (value,): (Value,)| {
        Ok((store.data_mut().blobstore().table.get(&value)?.bytes.len() as u64,))
    })
}

fn objects(container: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    container.resource("container", ResourceType::host::<Container>(), |mut store, handle| {
        store.data_mut().blobstore().table.delete(Handle::new_own(handle))?;
        Ok(())
    })?;
    container.func_wrap("[method]container.name", |mut store: Store<'_>, (at,): (Handle,)| -> Told<String> {
        Ok((Ok(store.data_mut().blobstore().table.get(&at)?.name.clone()),))
    })?;
    container.func_wrap_async("[method]container.info", |store: Store<'_>, (at,): (Handle,)| {
        Box::new(within(store, at, |blobs, name| {
            let About { created_at, .. } = blobs.container(name)?;
            Ok(ContainerMetadata { name: name.to_owned(), created_at })
        }))
    })?;
    container.func_wrap_async(
        "[method]container.get-data",
        |mut store: Store<'_>, (at, object, start, end): (Handle, String, u64, u64)| {
            Box::new(async move {
                let name = store.data_mut().blobstore().table.get(&at)?.name.clone();
                let (read,) = on(store.as_context_mut(), move |blobs| blobs.read(&name, &object, start, end)).await?;
                let guest = store.data_mut().blobstore();
                match read {
                    Ok(bytes) => Ok((Ok(guest.table.push(IncomingValue::new(bytes, guest.limiter)?)?),)),
                    Err(why) => Ok((Err(why),)),
                }
            })
        },
    )?;
    container.func_wrap(
        "[method]container.write-data",
        |mut store: Store<'_>, (at, object, value): (Handle, String, Resource<OutgoingValue>)| -> Told<()> {
            let table = store.data_mut().blobstore().table;
            let name = table.get(&at)?.name.clone();
            table.get_mut(&value)?.target = Some((name, object));
            Ok((Ok(()),))
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-object",
        |store: Store<'_>, (at, object): (Handle, String)| {
            Box::new(within(store, at, move |blobs, name| blobs.remove(name, &[object])))
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-objects",
        |store: Store<'_>, (at, objects): (Handle, Vec<String>)| {
            Box::new(within(store, at, move |blobs, name| blobs.remove(name, &objects)))
        },
    )?;
    container.func_wrap_async("[method]container.has-object", |store: Store<'_>, (at, object): (Handle, String)| {
        Box::new(within(store, at, move |blobs, name| Ok(blobs.object(name, &object)?.is_some())))
    })?;
    container.func_wrap_async(
        "[method]container.object-info",
        |store: Store<'_>, (at, object): (Handle, String)| {
            Box::new(within(store, at, move |blobs, name| {
                let about = blobs.object(name, &object)?;
                let About { created_at, size } =
                    about.ok_or_else(|| format!("container {name:?} has no object {object:?}"))?;
                Ok(ObjectMetadata { name: object, container: name.to_owned(), created_at, size })
            }))
        },
    )?;
    container.func_wrap_async("[method]container.clear", |store: Store<'_>, (at,): (Handle,)| {
        Box::new(within(store, at, |blobs, name| blobs.clear(name)))
    })
}

fn listings(container: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Listing = Resource<Names>;
    container.resource("stream-object-names", ResourceType::host::<Names>(), |mut store, handle| {
        store.data_mut().blobstore().table.delete(Listing::new_own(handle))?;
        Ok(())
    })?;
    container.func_wrap_async("[method]container.list-objects", |mut store: Store<'_>, (at,): (Handle,)| {
        Box::new(async move {
            let (names,) = within(store.as_context_mut(), at, |blobs, name| blobs.names(name)).await?;
            let table = store.data_mut().blobstore().table;
            match names {
                Ok(names) => Ok((Ok(table.push(Names::new(names))?),)),
                Err(why) => Ok((Err(why),)),
            }
        })
    })?;
    container.func_wrap(
        "[method]stream-object-names.read-stream-object-names",
        |mut store: Store<'_>, (names, count): (Listing, u64)| {
            Ok((store.data_mut().blobstore().table.get_mut(&names)?.read(count),))
        },
    )?;
    container.func_wrap(
        "[method]stream-object-names.skip-stream-object-names",
        |mut store: Store<'_>, (names, count): (Listing, u64)| {
            Ok((store.data_mut().blobstore().table.get_mut(&names)?.skip(count),))
        },
    )
}

fn containers(blobstore: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    blobstore.func_wrap_async("create-container", |store: Store<'_>, (name,): (String,)| {
        Box::new(opened(store, name, |blobs, name| blobs.create(name)))
    })?;
    blobstore.func_wrap_async("get-container", |store: Store<'_>, (name,): (String,)| {
        Box::new(opened(store, name, |blobs, name| blobs.container(name).map(drop)))
    })?;
    blobstore.func_wrap_async("delete-container", |store: Store<'_>, (name,): (String,)| {
        Box::new(on(store, move |blobs| blobs.delete(&name)))
    })?;
    blobstore.func_wrap_async("container-exists", |store: Store<'_>, (name,): (String,)| {
        Box::new(on(store, move |blobs| blobs.exists(&name)))
    })?;
    blobstore.func_wrap_async("copy-object", |store: Store<'_>, (from, to): (ObjectId, ObjectId)| {
        Box::new(on(store, move |blobs| blobs.copy((&from.container, &from.object), (&to.container, &to.object))))
    })?;
    blobstore.func_wrap_async("move-object", |store: Store<'_>, (from, to): (ObjectId, ObjectId)| {
        Box::new(on(store, move |blobs| blobs.rename((&from.container, &from.object), (&to.container, &to.object))))
    })
}

/// A handle to a container, once `work` has made or found it.
async fn opened(
    mut store: Store<'_>,
    name: String,
    work: impl FnOnce(&Blobs, &str) -> Result<()> + Send + 'static,
) -> Told<Handle> {
    let theirs = name.clone();
    let (done,) = on(store.as_context_mut(), move |blobs| work(blobs, &theirs)).await?;
    match done {
        Ok(()) => Ok((Ok(store.data_mut().blobstore().table.push(Container { name })?),)),
        Err(why) => Ok((Err(why),)),
    }
}

/// Does `work` in a container.
async fn within<T: Send + 'static>(
    mut store: Store<'_>,
    container: Handle,
    work: impl FnOnce(&Blobs, &str) -> Result<T> + Send + 'static,
) -> Told<T> {
    let name = store.data_mut().blobstore().table.get(&container)?.name.clone();
    on(store, move |blobs| work(blobs, &name)).await
}

async fn on<T: Send + 'static>(
    mut store: Store<'_>,
    work: impl FnOnce(&Blobs) -> Result<T> + Send + 'static,
) -> Told<T> {
    let Some(blobs) = store.data_mut().blobstore().blobs.cloned() else {
        return Ok((Err("the pod has no blob store".to_owned()),));
    };
    Ok((blobs.on(work).await,))
}
