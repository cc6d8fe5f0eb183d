//! A server of WASI 0.3: it waits for several things at a time, and its bodies flow while they come.
//!
//! `GET /` greets; `POST /back` answers with what it is sent, as it comes, without reading it; `POST /upper`
//! reads it and answers in capitals, chunk by chunk; `GET /ticks/N` writes a line every 10 ms, N times;
//! `GET /both/HOST/HOST` asks two others at the same time and gives both answers; `GET /late` answers, and
//! goes on with its work afterwards. `GET /line/HOST/PORT` sends a line there on a socket of its own and gives
//! back what comes; `GET /datagram/HOST/PORT` does so by datagram; `GET /bind/A.B.C.D` tells what binding sockets to that address comes to. `GET /spin` never ends, `GET /hog` takes all memory, `GET /trap` fails.

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4Address, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::{self, FutureReader, StreamReader};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Relay);

struct Relay;

const TICK_NS: u64 = 10_000_000;
const PATIENCE_NS: u64 = 1_000_000_000;
const CHUNK: usize = 16 << 10;

type Trailers = FutureReader<Result<Option<Fields>, ErrorCode>>;

impl wasip3::exports::http::handler::Guest for Relay {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["back"] => {
                let (body, trailers) = body_of(request);
                Ok(answer(body, trailers))
            }
            ["upper"] => Ok(upper(request)),
            ["ticks", count] => Ok(ticks(count.parse().unwrap_or(1))),
            ["both", one, two] => both(one, two).await,
            ["late"] => Ok(late()),
            ["line", host, port] => Ok(text(line(host, port.parse().unwrap_or(0)).await)),
            ["datagram", host, port] => Ok(text(datagram(host, port.parse().unwrap_or(0)).await)),
            ["bind", address] => Ok(text(bind(address))),
            ["spin"] => loop {
                std::hint::black_box(());
            },
            ["hog"] => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&held);
                }
            }
            ["trap"] => panic!("as it was asked"),
            _ => {
                let name = std::env::var("HOSTNAME").unwrap_or_default();
                Ok(text(format!("Hello from WASI 0.3 at {name}\n")))
            }
        }
    }
}

fn body_of(request: Request) -> (StreamReader<u8>, Trailers) {
    let (tell, told) = wit_future::new(|| Ok(()));
    drop(tell);
    Request::consume_body(request, told)
}

fn answer(body: StreamReader<u8>, trailers: Trailers) -> Response {
    let (response, _sent) = Response::new(Fields::new(), Some(body), trailers);
    response
}

fn no_trailers() -> Trailers {
    let (tell, told) = wit_future::new(|| Ok(None));
    drop(tell);
    told
}

fn text(text: String) -> Response {
    let (mut body, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    answer(reader, no_trailers())
}

fn upper(request: Request) -> Response {
    let (mut from, trailers) = body_of(request);
    let (mut to, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            let (status, mut chunk) = from.read(buffer).await;
            chunk.make_ascii_uppercase();
            let over = matches!(status, wit_bindgen::StreamResult::Dropped);
            buffer = to.write_all(chunk).await;
            if over || !buffer.is_empty() {
                return;
            }
        }
    });
    answer(reader, trailers)
}

fn ticks(count: u32) -> Response {
    let (mut body, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        for tick in 1..=count {
            wait_for(TICK_NS).await;
            if !body.write_all(format!("tick {tick}\n").into_bytes()).await.is_empty() {
                return;
            }
        }
    });
    answer(reader, no_trailers())
}

async fn both(one: &str, two: &str) -> Result<Response, ErrorCode> {
    let (one, two) = futures::join!(fetch(one), fetch(two));
    Ok(text(format!("{}{}", one?, two?)))
}

async fn fetch(host: &str) -> Result<String, ErrorCode> {
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers(), None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(host));
    let _ = request.set_path_with_query(Some("/"));
    let response = client::send(request).await?;
    let (tell, told) = wit_future::new(|| Ok(()));
    drop(tell);
    let (body, _trailers) = Response::consume_body(response, told);
    Ok(String::from_utf8_lossy(&body.collect().await).into_owned())
}

fn late() -> Response {
    wit_bindgen::spawn_local(async {
        wait_for(TICK_NS).await;
        println!("done with what was left");
    });
    text("at once\n".to_owned())
}

/// What the other side of a connection says to a line, and which ends it has.
async fn line(host: &str, port: u16) -> String {
    let said = async {
        let address = resolved(host).await?;
        let failed = |error| format!("{error:?}");
        let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
        socket.connect(at(address, port)).await.map_err(failed)?;
        let (mut out, sent) = wit_stream::new();
        let _sent = socket.send(sent);
        out.write_all(b"hello over there\n".to_vec()).await;
        let (mut back, _end) = socket.receive();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\n") {
            let (status, chunk) = back.read(Vec::with_capacity(CHUNK)).await;
            heard.extend(chunk);
            if matches!(status, wit_bindgen::StreamResult::Dropped) {
                break;
            }
        }
        let own = socket.get_local_address().map_err(failed)?;
        Ok::<_, String>(format!("{} from {}", String::from_utf8_lossy(&heard).trim_end(), shown(own)))
    };
    said.await.unwrap_or_else(|why| why) + "\n"
}

async fn resolved(host: &str) -> Result<Ipv4Address, String> {
    let found = resolve_addresses(host.to_owned()).await.map_err(|error| format!("{error:?}"))?;
    let address = found.into_iter().find_map(|address| match address {
        IpAddress::Ipv4(address) => Some(address),
        IpAddress::Ipv6(_) => None,
    });
    address.ok_or_else(|| "no address".to_owned())
}

/// What comes back of a datagram from a socket that was bound to nothing, and where it was sent from.
async fn datagram(host: &str, port: u16) -> String {
    let said = async {
        let to = at(resolved(host).await?, port);
        let failed = |error| format!("{error:?}");
        let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
        socket.send(b"hello over there".to_vec(), Some(to)).await.map_err(failed)?;
        let own = socket.get_local_address().map_err(failed)?;
        let heard = std::pin::pin!(socket.receive());
        match futures::future::select(heard, std::pin::pin!(wait_for(PATIENCE_NS))).await {
            futures::future::Either::Left((heard, _)) => {
                let (data, _from) = heard.map_err(failed)?;
                Ok::<_, String>(format!("{} from {}", String::from_utf8_lossy(&data), shown(own)))
            }
            futures::future::Either::Right(_) => Err("no answer".to_owned()),
        }
    };
    said.await.unwrap_or_else(|why| why) + "\n"
}

fn bind(address: &str) -> String {
    let address: Vec<u8> = address.split('.').filter_map(|part| part.parse().ok()).collect();
    let [a, b, c, d] = address[..] else { return "that is no address\n".to_owned() };
    let tcp = TcpSocket::create(IpAddressFamily::Ipv4).and_then(|socket| {
        socket.bind(at((a, b, c, d), 0))?;
        socket.get_local_address()
    });
    let udp = UdpSocket::create(IpAddressFamily::Ipv4).and_then(|socket| {
        socket.bind(at((a, b, c, d), 0))?;
        socket.get_local_address()
    });
    let told = |bound: Result<IpSocketAddress, _>| match bound {
        Ok(address) => shown(address),
        Err(error) => format!("{error:?}"),
    };
    format!("tcp {}, udp {}\n", told(tcp), told(udp))
}

fn at(address: Ipv4Address, port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { address, port })
}

/// Without the port, which is any.
fn shown(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { address: (a, b, c, d), .. }) => format!("{a}.{b}.{c}.{d}"),
        IpSocketAddress::Ipv6(_) => "an address of version 6".to_owned(),
    }
}
