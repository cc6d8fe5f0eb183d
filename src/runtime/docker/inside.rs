//! Connections from within a pod's network, where servers that listen on the loopback alone are reached.
//!
//! A thread enters the network namespace of the pod's infrastructure container, connects there, and ends: the
//! socket stays of that namespace wherever it is used. That takes root on the engine's machine; elsewhere the
//! pod is reached by its address.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a port of the loopback of the container `id`, whose first process is `pid`; `None`: this
/// process cannot enter its network.
pub async fn connect(pid: i64, id: &str, port: u16) -> Option<io::Result<TcpStream>> {
    // The engine may count another machine's processes.
    let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?.contains(id);
    let namespace = File::open(format!("/proc/{pid}/ns/net")).ok().filter(|_| theirs)?;
    let (sender, receiver) = oneshot::channel();
    let enter = move || {
        let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let _ = sender.send(entered.ok().map(|()| dial(port)));
    };
    std::thread::Builder::new().name("inside".to_owned()).spawn(enter).ok()?;
    let stream = receiver.await.ok()??;
    Some(stream.and_then(TcpStream::from_std))
}

fn dial(port: u16) -> io::Result<std::net::TcpStream> {
    let [first, second] = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
    let stream = std::net::TcpStream::connect_timeout(&first, TIMEOUT)
        .or_else(|error| std::net::TcpStream::connect_timeout(&second, TIMEOUT).map_err(|_| error))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
