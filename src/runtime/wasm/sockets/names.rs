//! `wasi:sockets/ip-name-lookup`: the names that a pod's resolver would know, as the node says them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};

use super::super::guest::Guest;
use super::host::told;
use super::{PodNetwork, error_code};

/// As long as a name can be.
const MAX_NAME_BYTES: usize = 253;
/// Resolvers give up by themselves; a guest shall not wait for one that does not.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A lookup and what is left of its answer: `resolve-address-stream`.
enum Lookup {
    Running(oneshot::Receiver<Found>),
    Done(Result<vec::IntoIter<IpAddr>, ErrorCode>),
}

pub type Found = Result<Vec<IpAddr>, ErrorCode>;
type Store<'a> = StoreContextMut<'a, Guest>;

/// Defines the whole interface: wasmtime's own asks the machine's resolver.
pub fn add_to_linker(lookup: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    lookup.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut store, handle| {
        let (view, _) = store.data_mut().sockets();
        view.table.delete(Resource::<Lookup>::new_own(handle))?;
        Ok(())
    })?;
    lookup.func_wrap("resolve-addresses", |mut store: Store<'_>, (network, name): (Resource<Network>, String)| {
        told(begin(store.data_mut(), &network, name))
    })?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (lookup,): (Resource<Lookup>,)| told(next(store.data_mut(), &lookup)),
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Store<'_>, (lookup,): (Resource<Lookup>,)| -> wasmtime::Result<(Resource<DynPollable>,)> {
            let (view, _) = store.data_mut().sockets();
            Ok((subscribe(view.table, lookup)?,))
        },
    )
}

fn begin(guest: &mut Guest, network: &Resource<Network>, name: String) -> SocketResult<Resource<Lookup>> {
    let (view, sockets) = guest.sockets();
    view.table.get(network)?;
    let lookup = start(&sockets.network, name)?;
    Ok(view.table.push(lookup)?)
}

/// The addresses of a name, waited for.
pub async fn look_up(network: &Arc<PodNetwork>, name: String) -> Found {
    match start(network, name)? {
        Lookup::Running(told) => told.await.unwrap_or(Err(ErrorCode::TemporaryResolverFailure)),
        Lookup::Done(found) => found.map(Iterator::collect),
    }
}

fn start(network: &Arc<PodNetwork>, name: String) -> Result<Lookup, ErrorCode> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(ErrorCode::InvalidArgument);
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        // To know an address allows nothing: connecting is asked about by itself.
        return Ok(Lookup::Done(Ok(vec![ip].into_iter())));
    }
    let place = network.lookups.clone().try_acquire_owned().map_err(|_| ErrorCode::TemporaryResolverFailure)?;
    let (tell, told) = oneshot::channel();
    let pod = network.clone();
    // By itself: a guest that lets go of its lookup keeps the place until the resolver is done.
    tokio::spawn(async move {
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, find(&pod, &name)).await;
        drop(place);
        let _ = tell.send(found.unwrap_or(Err(ErrorCode::TemporaryResolverFailure)));
    });
    Ok(Lookup::Running(told))
}

async fn find(pod: &Arc<PodNetwork>, name: &str) -> Found {
    let named = pod.outbound.resolve(&pod.caller, name).await.map_err(|error| error_code(&error))?;
    if named.outside {
        pod.learn(&named.addresses);
    }
    Ok(named.addresses)
}

fn next(guest: &mut Guest, lookup: &Resource<Lookup>) -> SocketResult<Option<IpAddress>> {
    let (view, _) = guest.sockets();
    let lookup = view.table.get_mut(lookup)?;
    if let Lookup::Running(told) = lookup {
        *lookup = Lookup::Done(match told.try_recv() {
            Ok(found) => found.map(Vec::into_iter),
            Err(TryRecvError::Empty) => return Err(ErrorCode::WouldBlock.into()),
            Err(TryRecvError::Closed) => Err(ErrorCode::TemporaryResolverFailure),
        });
    }
    match lookup {
        Lookup::Done(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
        Lookup::Done(Err(code)) => Err((*code).into()),
        Lookup::Running(_) => Err(ErrorCode::WouldBlock.into()),
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Self::Running(told) = self {
            let found = told.await.unwrap_or(Err(ErrorCode::TemporaryResolverFailure));
            *self = Self::Done(found.map(Vec::into_iter));
        }
    }
}
