//! A program of WASI 0.3 that is run rather than called.
//!
//! Without arguments it answers one call by CGI: what was asked, and the body in capitals. `herald listen PORT`
//! is a server on sockets: it sends back what it gets, to as many as come, each as it comes.

use wasip3::cli::environment::{get_arguments, get_environment};
use wasip3::cli::{stdin, stdout};
use wasip3::sockets::types::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen;
use wasip3::wit_stream;

wasip3::cli::command::export!(Herald);

struct Herald;

impl wasip3::exports::cli::run::Guest for Herald {
    async fn run() -> Result<(), ()> {
        match get_arguments().as_slice() {
            [_, listen, port] if listen == "listen" => {
                let ended = serve(port.parse().unwrap_or(0)).await;
                ended.map_err(|code| eprintln!("herald: {code:?}"))
            }
            _ => {
                answer().await;
                Ok(())
            }
        }
    }
}

async fn answer() {
    let said: Vec<(String, String)> = get_environment();
    let of = |name: &str| said.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
    let (body, _end) = stdin::read_via_stream();
    let body = body.collect().await.to_ascii_uppercase();
    let head = format!(
        "Content-Type: text/plain\n\n{} {}?{} for {}\n",
        of("REQUEST_METHOD"),
        of("PATH_INFO"),
        of("QUERY_STRING"),
        of("SERVER_NAME"),
    );
    let (mut out, reader) = wit_stream::new();
    let sent = stdout::write_via_stream(reader);
    out.write_all([head.into_bytes(), body].concat()).await;
    drop(out);
    let _ = sent.await;
}

async fn serve(port: u16) -> Result<(), ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(IpSocketAddress::Ipv4(Ipv4SocketAddress { address: (0, 0, 0, 0), port }))?;
    let mut connections = socket.listen()?;
    if let IpSocketAddress::Ipv4(own) = socket.get_local_address()? {
        println!("listening on port {}", own.port);
    }
    while let Some(connection) = connections.next().await {
        wit_bindgen::spawn_local(async move {
            let (heard, _end) = connection.receive();
            let _ = connection.send(heard).await;
        });
    }
    Ok(())
}
