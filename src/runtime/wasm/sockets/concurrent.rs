//! The functions of `wasi:sockets` 0.3 that differ from wasmtime's own, as [`super::host`] has those of 0.2.
//!
//! Sockets that a listener accepts are wasmtime's to make; they are bounded with the instance's other
//! resources, and not counted here.

use std::net::SocketAddr;

use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode as Refusal;
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookupError;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpAddress,
    IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::SocketResult;
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView};

use super::super::guest::Guest;
use super::super::imports::WASI_3_VERSION;
use super::{Sockets, bind_address, names};
use crate::wire::Transport;

type Store<'a> = StoreContextMut<'a, Guest>;
type WithAddress<T> = (Resource<T>, IpSocketAddress);
type Datagram = (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>);
type Told<T, E = ErrorCode> = wasmtime::Result<(Result<T, E>,)>;

/// Replaces wasmtime's functions; the linker must allow shadowing.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:sockets/types@{WASI_3_VERSION}"))?;
    types.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, handle| {
        let (mut view, sockets) = store.data_mut().sockets();
        sockets.closed(handle);
        HostTcpSocket::drop(&mut view, Resource::new_own(handle))
    })?;
    types.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, handle| {
        let (mut view, sockets) = store.data_mut().sockets();
        sockets.closed(handle);
        HostUdpSocket::drop(&mut view, Resource::new_own(handle))
    })?;
    types.func_wrap("[static]tcp-socket.create", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        told(create_tcp(store.data_mut(), family))
    })?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: Store<'_>, (socket, to): WithAddress<TcpSocket>| {
            Box::new(async move { told(bind_tcp(store.data_mut(), socket, to.into()).await) })
        },
    )?;
    types.func_wrap_concurrent("[method]tcp-socket.connect", |guest, (socket, to): WithAddress<TcpSocket>| {
        Box::pin(async move { told(connect_tcp(guest, socket, to.into()).await) })
    })?;
    types.func_wrap_async("[static]udp-socket.create", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        Box::new(async move { told(create_udp(store.data_mut(), family).await) })
    })?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: Store<'_>, (socket, to): WithAddress<UdpSocket>| {
            Box::new(async move { told(bind_udp(store.data_mut(), socket, to.into()).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: Store<'_>, (socket, to): WithAddress<UdpSocket>| {
            Box::new(async move { told(connect_udp(store.data_mut(), socket, to).await) })
        },
    )?;
    types.func_wrap_concurrent("[method]udp-socket.send", |guest: &Accessor<Guest>, datagram: Datagram| {
        Box::pin(async move { told(send_udp(guest, datagram).await) })
    })?;
    let mut lookup = linker.instance(&format!("wasi:sockets/ip-name-lookup@{WASI_3_VERSION}"))?;
    lookup.func_wrap_concurrent("resolve-addresses", |guest: &Accessor<Guest>, (name,): (String,)| {
        Box::pin(async move {
            let network = guest.with(|mut store| store.data_mut().sockets().1.network.clone());
            let found = names::look_up(&network, name).await.map_err(lookup_error);
            Ok((found.map(|found| found.into_iter().map(IpAddress::from).collect::<Vec<_>>()),)) as Told<_, _>
        })
    })
}

fn told<T>(result: SocketResult<T>) -> Told<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn create_tcp(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
    let (mut view, sockets) = guest.sockets();
    sockets.room().map_err(error_code)?;
    let socket = HostTcpSocket::create(&mut view, family)?;
    sockets.opened(socket.rep(), false);
    Ok(socket)
}

async fn bind_tcp(guest: &mut Guest, socket: Resource<TcpSocket>, asked: SocketAddr) -> SocketResult<()> {
    let (mut view, sockets) = guest.sockets();
    let address = own_address(sockets, asked)?;
    HostTcpSocket::bind(&mut view, socket, address.into()).await
}

async fn connect_tcp(guest: &Accessor<Guest>, socket: Resource<TcpSocket>, asked: SocketAddr) -> SocketResult<()> {
    let network = guest.with(|mut store| store.data_mut().sockets().1.network.clone());
    let to = network.route(asked, Transport::Tcp).await.map_err(error_code)?;
    let sockets = guest.with_getter::<WasiSockets>(<Guest as WasiSocketsView>::sockets);
    let again = || Resource::new_borrow(socket.rep());
    let unbound = guest.with(|mut store| {
        let (mut view, _) = store.data_mut().sockets();
        HostTcpSocket::get_local_address(&mut view, again()).is_err()
    });
    if let Some(local) = network.source_for(to).filter(|_| unbound) {
        let local = local.into();
        guest
            .with(|mut store| {
                let (mut view, _) = store.data_mut().sockets();
                // Binding waits for nothing but the check of the address, which is at hand.
                futures::FutureExt::now_or_never(HostTcpSocket::bind(&mut view, again(), local))
            })
            .unwrap_or(Err(ErrorCode::InvalidState.into()))?;
    }
    <WasiSockets as HostTcpSocketWithStore<Guest>>::connect(&sockets, socket, to.into()).await
}

async fn create_udp(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
    let (mut view, sockets) = guest.sockets();
    sockets.room().map_err(error_code)?;
    let socket = HostUdpSocket::create(&mut view, family).await?;
    sockets.opened(socket.rep(), false);
    Ok(socket)
}

async fn bind_udp(guest: &mut Guest, socket: Resource<UdpSocket>, asked: SocketAddr) -> SocketResult<()> {
    let (mut view, sockets) = guest.sockets();
    let address = own_address(sockets, asked)?;
    HostUdpSocket::bind(&mut view, socket, address.into()).await
}

async fn connect_udp(guest: &mut Guest, socket: Resource<UdpSocket>, to: IpSocketAddress) -> SocketResult<()> {
    let (mut view, sockets) = guest.sockets();
    if let Some(own) = source_of(&mut view, sockets, &socket, Some(to.into())) {
        HostUdpSocket::bind(&mut view, Resource::new_borrow(socket.rep()), own).await?;
    }
    HostUdpSocket::connect(&mut view, socket, to).await
}

async fn send_udp(guest: &Accessor<Guest>, (socket, data, to): Datagram) -> SocketResult<()> {
    guest.with(|mut store| {
        let (mut view, sockets) = store.data_mut().sockets();
        match source_of(&mut view, sockets, &socket, to.map(SocketAddr::from)) {
            // Binding waits for nothing but the check of the address, which is at hand.
            Some(own) => {
                let bound = HostUdpSocket::bind(&mut view, Resource::new_borrow(socket.rep()), own);
                futures::FutureExt::now_or_never(bound).unwrap_or(Err(ErrorCode::InvalidState.into()))
            }
            None => Ok(()),
        }
    })?;
    let sockets = guest.with_getter::<WasiSockets>(<Guest as WasiSocketsView>::sockets);
    <WasiSockets as HostUdpSocketWithStore<Guest>>::send(&sockets, socket, data, to).await
}

/// What an unbound socket is to be bound to before it sends, so that the other side sees the pod's address.
fn source_of(
    view: &mut WasiSocketsCtxView<'_>,
    sockets: &Sockets,
    socket: &Resource<UdpSocket>,
    to: Option<SocketAddr>,
) -> Option<IpSocketAddress> {
    let unbound = HostUdpSocket::get_local_address(view, Resource::new_borrow(socket.rep())).is_err();
    sockets.network.source_for(to?).filter(|_| unbound).map(IpSocketAddress::from)
}

/// What is bound for an address that was asked for: of the same version, or none.
fn own_address(sockets: &Sockets, asked: SocketAddr) -> SocketResult<SocketAddr> {
    let address = bind_address(sockets.network.own(), asked).map_err(error_code)?;
    if asked.is_ipv4() == address.is_ipv4() { Ok(address) } else { Err(ErrorCode::AddressNotBindable.into()) }
}

/// What a refusal is called in 0.3.
fn error_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::AccessDenied => ErrorCode::AccessDenied,
        Refusal::ConnectionRefused => ErrorCode::ConnectionRefused,
        Refusal::AddressNotBindable => ErrorCode::AddressNotBindable,
        Refusal::InvalidArgument => ErrorCode::InvalidArgument,
        other => ErrorCode::Other(Some(format!("{other:?}"))),
    }
}

fn lookup_error(refusal: Refusal) -> LookupError {
    match refusal {
        Refusal::AccessDenied => LookupError::AccessDenied,
        Refusal::InvalidArgument => LookupError::InvalidArgument,
        Refusal::NameUnresolvable => LookupError::NameUnresolvable,
        Refusal::TemporaryResolverFailure => LookupError::TemporaryResolverFailure,
        other => LookupError::Other(Some(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_names_in_both_versions() {
        assert!(matches!(error_code(Refusal::AccessDenied), ErrorCode::AccessDenied));
        assert!(matches!(error_code(Refusal::NewSocketLimit), ErrorCode::Other(Some(_))));
        assert!(matches!(lookup_error(Refusal::NameUnresolvable), LookupError::NameUnresolvable));
    }
}
