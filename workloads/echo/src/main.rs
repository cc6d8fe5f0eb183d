//! A server on sockets: sends back what it gets, over TCP and UDP, on port 7000 or that of its first
//! argument; with `ECHO_FAMILY=6` in the environment TCP is listened for on `::`. `echo HOST PORT` is the other end: it sends a line there and prints the answer; `echo udp HOST PORT` does so
//! by datagram, again and again until one is answered.
//!
//! It speaks `wasi:sockets` itself and waits in `wasi:io/poll`, so that an idle server costs nothing.

use std::process::ExitCode;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket};
use wasip2::sockets::udp_create_socket::create_udp_socket;

const CHUNK: u64 = 4096;
const ATTEMPTS: u32 = 10;
const PATIENCE_NS: u64 = 100_000_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [transport, host, port] if transport == "udp" => ask_by_datagram(host, port.parse().unwrap_or(7000)),
        [host, port] => ask(host, port.parse().unwrap_or(7000)),
        [port] => serve(port.parse().unwrap_or(7000)),
        _ => serve(7000),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => {
            eprintln!("echo: {code}");
            ExitCode::FAILURE
        }
    }
}

/// Every address there is: to a pod, its own.
fn everywhere(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { address: (0, 0, 0, 0), port })
}

fn serve(port: u16) -> Result<(), ErrorCode> {
    let listener = listen(port)?;
    let datagrams = Datagrams::bind(port)?;
    println!("listening on {}", shown(listener.local_address()?));
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let ready: Vec<Pollable> = [listener.subscribe(), datagrams.input.subscribe()]
            .into_iter()
            .chain(connections.iter().map(|connection| connection.input.subscribe()))
            .collect();
        poll(&ready.iter().collect::<Vec<_>>());
        drop(ready);
        connections.retain(Connection::echo);
        datagrams.echo()?;
        match listener.accept() {
            Ok((socket, input, output)) => {
                println!("connected: {}", shown(socket.remote_address()?));
                connections.push(Connection { input, output, _socket: socket });
            }
            Err(ErrorCode::WouldBlock) => {}
            Err(code) => eprintln!("echo: cannot accept: {code}"),
        }
    }
}

fn listen(port: u16) -> Result<TcpSocket, ErrorCode> {
    let (family, address) = match std::env::var("ECHO_FAMILY").as_deref() {
        Ok("6") => {
            let address = Ipv6SocketAddress { address: (0, 0, 0, 0, 0, 0, 0, 0), port, flow_info: 0, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
        _ => (IpAddressFamily::Ipv4, everywhere(port)),
    };
    let socket = create_tcp_socket(family)?;
    socket.start_bind(&instance_network(), address)?;
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.finish_listen()?;
    Ok(socket)
}

/// A connection; its streams go before its socket.
struct Connection {
    input: InputStream,
    output: OutputStream,
    _socket: TcpSocket,
}

impl Connection {
    /// Whether it goes on.
    fn echo(&self) -> bool {
        match self.input.read(CHUNK) {
            Ok(bytes) => bytes.is_empty() || self.output.blocking_write_and_flush(&bytes).is_ok(),
            Err(_) => false,
        }
    }
}

struct Datagrams {
    input: IncomingDatagramStream,
    output: OutgoingDatagramStream,
    _socket: UdpSocket,
}

impl Datagrams {
    fn bind(port: u16) -> Result<Self, ErrorCode> {
        let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
        socket.start_bind(&instance_network(), everywhere(port))?;
        socket.finish_bind()?;
        let (input, output) = socket.stream(None)?;
        Ok(Self { input, output, _socket: socket })
    }

    fn echo(&self) -> Result<(), ErrorCode> {
        for datagram in self.input.receive(8)? {
            if self.output.check_send()? > 0 {
                let back = OutgoingDatagram { data: datagram.data, remote_address: Some(datagram.remote_address) };
                if let Err(code) = self.output.send(&[back]) {
                    eprintln!("echo: cannot answer a datagram: {code}");
                }
            }
        }
        Ok(())
    }
}

fn ask(host: &str, port: u16) -> Result<(), ErrorCode> {
    let address = first_address(host)?;
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), IpSocketAddress::Ipv4(Ipv4SocketAddress { address, port }))?;
    let (input, output) = loop {
        match socket.finish_connect() {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            connected => break connected?,
        }
    };
    println!("connected from {} to {}", shown(socket.local_address()?), shown(socket.remote_address()?));
    let said = b"hello over there\n";
    output.blocking_write_and_flush(said).map_err(|_| ErrorCode::ConnectionReset)?;
    let mut answer = Vec::new();
    while answer.len() < said.len() {
        match input.blocking_read(CHUNK) {
            Ok(bytes) => answer.extend_from_slice(&bytes),
            Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => return Err(ErrorCode::ConnectionReset),
        }
    }
    println!("{host} answered: {}", String::from_utf8_lossy(&answer).trim_end());
    Ok(())
}

/// Datagrams may be lost; who is not answered at all says so.
fn ask_by_datagram(host: &str, port: u16) -> Result<(), ErrorCode> {
    let to = IpSocketAddress::Ipv4(Ipv4SocketAddress { address: first_address(host)?, port });
    let datagrams = Datagrams::bind(0)?;
    for _ in 0..ATTEMPTS {
        let answer = datagrams.input.subscribe();
        let datagram = OutgoingDatagram { data: b"hello over there".to_vec(), remote_address: Some(to) };
        if datagrams.output.check_send()? > 0 {
            datagrams.output.send(&[datagram])?;
        }
        poll(&[&answer, &subscribe_duration(PATIENCE_NS)]);
        if let Some(heard) = datagrams.input.receive(1)?.into_iter().next() {
            println!("{} answered: {}", shown(heard.remote_address), String::from_utf8_lossy(&heard.data));
            return Ok(());
        }
    }
    println!("no answer from {}", shown(to));
    Ok(())
}

fn first_address(host: &str) -> Result<(u8, u8, u8, u8), ErrorCode> {
    let lookup = resolve_addresses(&instance_network(), host)?;
    loop {
        match lookup.resolve_next_address() {
            Ok(Some(IpAddress::Ipv4(address))) => return Ok(address),
            Ok(Some(IpAddress::Ipv6(_))) => {}
            Ok(None) => return Err(ErrorCode::NameUnresolvable),
            Err(ErrorCode::WouldBlock) => lookup.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}

fn shown(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { address: (a, b, c, d), port }) => format!("{a}.{b}.{c}.{d}:{port}"),
        IpSocketAddress::Ipv6(v6) => {
            let (a, b, c, d, e, f, g, h) = v6.address;
            format!("[{}]:{}", std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h), v6.port)
        }
    }
}
