//! A server of WASI 0.3: it waits for several things at a time, and its bodies flow while they come.
//!
//! `GET /` greets; `POST /back` answers with what it is sent, as it comes, without reading it; `POST /upper`
//! reads it and answers in capitals, chunk by chunk; `GET /ticks/N` writes a line every 10 ms, N times;
//! `GET /both/HOST/HOST` asks two others at the same time and gives both answers; `GET /late` answers, and
//! goes on with its work afterwards. `GET /spin` never ends, `GET /hog` takes all memory, `GET /trap` fails.

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::{self, FutureReader, StreamReader};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Relay);

struct Relay;

const TICK_NS: u64 = 10_000_000;
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
