//! The functions of `wasi:sockets/tcp` and `udp` that differ from wasmtime's own: those that take an
//! address, make a socket or end one. Everything else stays as wasmtime defines it.

use std::net::SocketAddr;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::bindings::sockets::udp::HostUdpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, SocketResult, TcpSocket, UdpSocket};
use wasmtime_wasi::sockets::WasiSocketsCtxView;

use super::super::guest::Guest;
use super::super::imports::WASI_VERSION;
use super::{Sockets, bind_address, names};
use crate::wire::Transport;

type Streams = (Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>);
/// As bindings call a method: the socket, the network and an address.
type WithAddress<T> = (Resource<T>, Resource<Network>, IpSocketAddress);

/// Replaces wasmtime's functions; the linker must allow shadowing.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let instance = |name: &str| format!("wasi:sockets/{name}@{WASI_VERSION}");
    let mut tcp = linker.instance(&instance("tcp"))?;
    tcp.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, handle| {
        let (mut view, sockets) = store.data_mut().sockets();
        sockets.closed(handle);
        HostTcpSocket::drop(&mut view, Resource::new_own(handle))
    })?;
    tcp.func_wrap_async("[method]tcp-socket.start-bind", |mut store, args: WithAddress<TcpSocket>| {
        Box::new(async move { told(bind_tcp(store.data_mut(), args).await) })
    })?;
    tcp.func_wrap_async("[method]tcp-socket.start-connect", |mut store, args: WithAddress<TcpSocket>| {
        Box::new(async move { told(connect_tcp(store.data_mut(), args).await) })
    })?;
    tcp.func_wrap("[method]tcp-socket.accept", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        told(accept(store.data_mut(), socket))
    })?;
    tcp.func_wrap("[method]tcp-socket.local-address", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        told(address(store.data_mut(), socket, |view, socket| HostTcpSocket::local_address(view, socket)))
    })?;
    tcp.func_wrap("[method]tcp-socket.remote-address", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        told(address(store.data_mut(), socket, |view, socket| HostTcpSocket::remote_address(view, socket)))
    })?;
    tcp.func_wrap("[method]tcp-socket.address-family", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        let (mut view, sockets) = store.data_mut().sockets();
        if sockets.mapped.contains(&socket.rep()) {
            return Ok((IpAddressFamily::Ipv6,));
        }
        Ok((HostTcpSocket::address_family(&mut view, socket)?,))
    })?;
    let mut create = linker.instance(&instance("tcp-create-socket"))?;
    create.func_wrap("create-tcp-socket", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        told(create_tcp(store.data_mut(), family))
    })?;

    let mut udp = linker.instance(&instance("udp"))?;
    udp.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, handle| {
        let (mut view, sockets) = store.data_mut().sockets();
        sockets.closed(handle);
        HostUdpSocket::drop(&mut view, Resource::new_own(handle))
    })?;
    udp.func_wrap_async("[method]udp-socket.start-bind", |mut store, args: WithAddress<UdpSocket>| {
        Box::new(async move { told(bind_udp(store.data_mut(), args).await) })
    })?;
    let mut create = linker.instance(&instance("udp-create-socket"))?;
    create.func_wrap_async("create-udp-socket", |mut store, (family,): (IpAddressFamily,)| {
        Box::new(async move { told(create_udp(store.data_mut(), family).await) })
    })?;
    names::add_to_linker(&mut linker.instance(&instance("ip-name-lookup"))?)
}

type Store<'a> = StoreContextMut<'a, Guest>;

/// As the component model has it: the error is a value, unless the guest is to trap.
pub(super) fn told<T>(result: SocketResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

async fn bind_tcp(guest: &mut Guest, (socket, network, asked): WithAddress<TcpSocket>) -> SocketResult<()> {
    let (mut view, sockets) = guest.sockets();
    let asked = SocketAddr::from(asked);
    let address = bind_address(sockets.network.own(), asked)?;
    if asked.is_ipv6() && address.is_ipv4() && !sockets.mapped.contains(&socket.rep()) {
        turn_to_v4(&mut view, &socket)?;
        sockets.mapped.insert(socket.rep());
    }
    HostTcpSocket::start_bind(&mut view, socket, network, address.into()).await
}

/// Makes a fresh socket for version 6 one for version 4.
fn turn_to_v4(view: &mut WasiSocketsCtxView<'_>, socket: &Resource<TcpSocket>) -> SocketResult<()> {
    if HostTcpSocket::address_family(view, again(socket)).map_err(wasmtime_wasi::TrappableError::trap)?
        != IpAddressFamily::Ipv6
    {
        return Err(ErrorCode::InvalidArgument.into());
    }
    if HostTcpSocket::local_address(view, again(socket)).is_ok() {
        return Err(ErrorCode::InvalidState.into());
    }
    let fresh = view.create_tcp_socket(IpAddressFamily::Ipv4)?;
    let fresh = view.table.delete(fresh)?;
    *view.table.get_mut(socket)? = fresh;
    Ok(())
}

async fn connect_tcp(guest: &mut Guest, (socket, network, to): WithAddress<TcpSocket>) -> SocketResult<()> {
    let (mut view, sockets) = guest.sockets();
    let to = sockets.network.clone().route(to.into(), Transport::Tcp).await?;
    let source = sockets.network.source_for(to);
    let unbound = HostTcpSocket::local_address(&mut view, again(&socket)).is_err();
    if let Some(local) = source.filter(|_| unbound) {
        HostTcpSocket::start_bind(&mut view, again(&socket), again(&network), local.into()).await?;
        HostTcpSocket::finish_bind(&mut view, again(&socket))?;
    }
    view.start_connect(socket, network, to.into())
}

fn accept(guest: &mut Guest, socket: Resource<TcpSocket>) -> SocketResult<Streams> {
    let (mut view, sockets) = guest.sockets();
    sockets.room()?;
    let mapped = sockets.mapped.contains(&socket.rep());
    let accepted = view.accept(socket)?;
    sockets.opened(accepted.0.rep(), mapped);
    Ok(accepted)
}

type AddressOf = fn(&mut WasiSocketsCtxView<'_>, Resource<TcpSocket>) -> SocketResult<IpSocketAddress>;

fn address(guest: &mut Guest, socket: Resource<TcpSocket>, of: AddressOf) -> SocketResult<IpSocketAddress> {
    let (mut view, sockets) = guest.sockets();
    let handle = socket.rep();
    let address = of(&mut view, socket)?;
    Ok(sockets.seen(handle, address.into()).into())
}

fn create_tcp(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
    let (mut view, sockets) = guest.sockets();
    sockets.room()?;
    let socket = view.create_tcp_socket(family)?;
    sockets.opened(socket.rep(), false);
    Ok(socket)
}

async fn bind_udp(guest: &mut Guest, (socket, network, asked): WithAddress<UdpSocket>) -> SocketResult<()> {
    let (mut view, Sockets { network: pod, .. }) = guest.sockets();
    let asked = SocketAddr::from(asked);
    let address = bind_address(pod.own(), asked)?;
    // Datagrams carry addresses; to a socket for version 6 those of version 4 would be none.
    if asked.is_ipv4() != address.is_ipv4() {
        return Err(ErrorCode::AddressNotBindable.into());
    }
    HostUdpSocket::start_bind(&mut view, socket, network, address.into()).await
}

async fn create_udp(guest: &mut Guest, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
    let (mut view, sockets) = guest.sockets();
    sockets.room()?;
    let socket = view.create_udp_socket(family).await?;
    sockets.opened(socket.rep(), false);
    Ok(socket)
}
