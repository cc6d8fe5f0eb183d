//! `grpc.health.v1.Health/Check`, as gRPC probes ask it.
//!
//! One unary call has a message of a few bytes each way, so it is written out here: HTTP/2, a frame of
//! five bytes before each message, and the outcome in the trailers.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::wire::{BoxError, HttpBody, HttpService};

/// What is read of an answer, which has some ten bytes.
const MAX_ANSWER: usize = 4 << 10;
/// `grpc-status` of a server that does not know the method.
const UNIMPLEMENTED: &str = "12";
const OK: &str = "0";
const SERVING: u64 = 1;

/// Asks a container by a call in memory.
pub async fn call(http: &dyn HttpService, address: SocketAddr, service: &str) -> Result<(), String> {
    let request = request(address, service).map_err(|error| error.to_string())?;
    let answer = http.call(request).await.map_err(|error| unreachable(address, error))?;
    verdict(answer).await
}

/// Asks whoever listens at an address.
pub async fn dial(address: SocketAddr, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| unreachable(address, error))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| unreachable(address, error))?;
    let request = request(address, service).map_err(|error| error.to_string())?;
    let call = async move {
        let answer = sender.send_request(request).await.map_err(|error| unreachable(address, error))?;
        verdict(answer.map(|body| body.map_err(|error| Box::new(error) as BoxError).boxed_unsync())).await
    };
    // The connection is driven here: it ends with the probe, which may be given up at any time.
    tokio::select! {
        biased;
        answer = call => answer,
        ended = connection => Err(match ended {
            Ok(()) => unreachable(address, "the connection was closed"),
            Err(error) => unreachable(address, error),
        }),
    }
}

fn unreachable(address: SocketAddr, error: impl std::fmt::Display) -> String {
    format!("failed to connect service {address}: {error}")
}

fn request(address: SocketAddr, service: &str) -> Result<Request<HttpBody>, http::Error> {
    Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(framed(&message(service))).map_err(|never| match never {}).boxed_unsync())
}

/// `HealthCheckRequest { string service = 1 }`
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    message.freeze()
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

async fn verdict(answer: Response<HttpBody>) -> Result<(), String> {
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("the server answered HTTP {}, not gRPC", head.status.as_u16()));
    }
    let (mut bytes, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| format!("health rpc failed: {error}"))?.into_data() {
            Ok(data) if bytes.len() + data.len() <= MAX_ANSWER => bytes.put(data),
            Ok(_) => return Err("health rpc failed: the answer is too long".to_owned()),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    outcome(&head.headers, &trailers)?;
    match status(&bytes) {
        Some(SERVING) => Ok(()),
        status => Err(format!("service unhealthy (responded with {:?})", name(status))),
    }
}

/// Whether the call itself went well: said in the trailers, or in the head if there is nothing else.
fn outcome(head: &HeaderMap, trailers: &HeaderMap) -> Result<(), String> {
    let text = |name| {
        let value = trailers.get(name).or_else(|| head.get(name));
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    match text("grpc-status") {
        OK => Ok(()),
        UNIMPLEMENTED => {
            let message = text("grpc-message");
            Err(format!("this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"))
        }
        "" => Err("the server answered without a grpc-status".to_owned()),
        code => Err(format!("health rpc failed: status {code}: {}", text("grpc-message"))),
    }
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; absent is 0.
fn status(body: &[u8]) -> Option<u64> {
    let [0, a, b, c, d, message @ ..] = body else { return None };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    match message.get(..length)? {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

fn name(status: Option<u64>) -> &'static str {
    match status {
        Some(SERVING) => "SERVING",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        Some(_) => "UNKNOWN",
        None => "no HealthCheckResponse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::service::service_fn;

    /// A server that answers every call with these bytes and this status in its trailers.
    async fn serve(body: &'static [u8], code: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(asked, Bytes::from_static(b"\0\0\0\0\x06\x0a\x04cart"));
                    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
                    let body = Full::new(Bytes::from_static(body)).with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, hyper::Error>(Response::new(body))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_says_how_it_is() {
        let cases: [(&[u8], &str, &str); 4] = [
            (b"\0\0\0\0\x02\x08\x01", "0", ""),
            (b"\0\0\0\0\x02\x08\x02", "0", "NOT_SERVING"),
            (b"", "12", "does not implement"),
            (b"", "5", "status 5"),
        ];
        for (body, code, wanted) in cases {
            let asked = dial(serve(body, code).await, "cart").await;
            match wanted {
                "" => assert_eq!(asked, Ok(())),
                wanted => assert!(asked.as_ref().is_err_and(|why| why.contains(wanted)), "{wanted}: {asked:?}"),
            }
        }
    }

    #[tokio::test]
    async fn nobody_and_something_else_are_failures() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream);
        });
        assert!(dial(address, "cart").await.is_err_and(|why| why.contains("failed to connect")));
        silent.await.unwrap();
        assert!(dial(address, "cart").await.is_err_and(|why| why.contains("refused")));
    }

    #[test]
    fn answers_are_read_with_care() {
        for (body, wanted) in [
            (&b""[..], None),
            (b"\0\0\0\0\0", Some(0)),
            (b"\0\0\0\0\x02\x08\x01", Some(1)),
            (b"\0\0\0\0\x09\x08\x01", None),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x02\x08\x81", None),
        ] {
            assert_eq!(status(body), wanted, "{body:?}");
        }
    }
}
