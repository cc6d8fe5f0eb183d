//! Streams between a client and a container: `kubectl exec`, `attach` and `port-forward`.
//!
//! The API server passes the client's connection through as it is, so what is spoken here is spoken with
//! the client itself: WebSockets, or SPDY/3.1 with clients older than those. A session ends with its
//! command, with its client (who is asked now and then whether it is still there), after [`IDLE`] without
//! a byte, and with the node. There are at most `MAX_SESSIONS` at a time; what each of them buffers is
//! bounded by its pipes.

mod attach;
mod channels;
mod connect;
mod exec;
mod forward;
mod opened;
pub mod spdy;
mod terminal;
mod transport;
mod tunnel;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

pub use attach::attach;
pub use connect::connect;
pub use exec::exec;
pub use forward::forward;
use transport::Connection;

/// Sessions at a time on one node: each may hold a thread of the blocking pool, which has 512.
const MAX_SESSIONS: usize = 128;
/// How long a session may be silent; upstream's `--streaming-connection-idle-timeout`.
pub const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How often a client is asked whether it is there, and how long it may take to say so.
pub const PING: Duration = Duration::from_secs(20);
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The largest message taken from a client: it is held in memory whole.
const MAX_MESSAGE: usize = 4 << 20;
/// What is read from a connection at a time.
const READ_BUFFER: usize = 32 << 10;

/// Which protocol of streams a client of SPDY offers, and which it gets.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Which it could have had.
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What may be spoken, the preferred first.
pub struct Protocols {
    pub websocket: &'static [&'static str],
    /// The last is what the oldest clients mean, who name none.
    pub spdy: &'static [&'static str],
}

/// The sessions of a node.
pub struct Sessions {
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Sessions {
    pub fn new(shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(MAX_SESSIONS)), shutdown })
    }

    /// Agrees to one of `protocols` and serves the connection apart from the request that asked for it.
    pub fn begin<F>(
        &self,
        request: &mut Request<Body>,
        protocols: &Protocols,
        serve: impl FnOnce(Connection, &'static str) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let Agreed { protocol, accept } = match agree(request.headers(), protocols) {
            Ok(agreed) => agreed,
            Err(refusal) => return refusal,
        };
        let is_spdy = accept.is_none();
        let Some(place) = self.place() else { return Self::full() };
        let upgrade = hyper::upgrade::on(request);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _place = place;
            let Ok(upgraded) = upgrade.await else { return };
            let stream = TokioIo::new(upgraded);
            let connection = match is_spdy {
                true => Connection::Spdy(Box::new(stream)),
                false => Connection::WebSocket(Box::new(
                    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await,
                )),
            };
            tokio::select! {
                () = serve(connection, protocol) => {}
                () = shutdown.cancelled() => {}
            }
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol = HeaderValue::from_static(protocol);
        if let Some(accept) = accept {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        } else {
            headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
            headers.insert(STREAM_PROTOCOL, protocol);
        }
        response
    }

    fn full() -> Response {
        let text =
            format!("this node already serves {MAX_SESSIONS} sessions of exec, attach, port-forward and proxies");
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

const SPDY: &str = "SPDY/3.1";

/// What a client and this node have agreed on.
#[derive(Debug)]
struct Agreed {
    protocol: &'static str,
    /// The answer to a WebSocket's key; `None` for SPDY.
    accept: Option<HeaderValue>,
}

#[allow(clippy::result_large_err, reason = "the error is an answer, made once a session")]
fn agree(headers: &HeaderMap, protocols: &Protocols) -> Result<Agreed, Response> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let refuse = |why: String| (StatusCode::BAD_REQUEST, why).into_response();
    if text(header::UPGRADE).eq_ignore_ascii_case(SPDY) {
        return agree_to_spdy(headers, protocols.spdy);
    }
    if !text(header::UPGRADE).eq_ignore_ascii_case("websocket") || text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(refuse(format!("this is a stream: ask for it as a WebSocket of version 13, or as {SPDY}")));
    }
    let key = text(header::SEC_WEBSOCKET_KEY);
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok().filter(|_| !key.is_empty());
    let accept = accept.ok_or_else(|| refuse("a WebSocket wants a Sec-WebSocket-Key".to_owned()))?;
    let offers = offers(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = common(&offers, protocols.websocket).map_err(refuse)?;
    Ok(Agreed { protocol, accept: Some(accept) })
}

#[allow(clippy::result_large_err, reason = "the error is an answer, made once a session")]
fn agree_to_spdy(headers: &HeaderMap, protocols: &[&'static str]) -> Result<Agreed, Response> {
    let offers = offers(headers, &STREAM_PROTOCOL);
    let oldest = protocols.last().filter(|_| offers.is_empty());
    let protocol = match oldest {
        Some(oldest) => oldest,
        None => common(&offers, protocols).map_err(|why| {
            // In the words and with the code by which clients try another protocol.
            let mut refusal = (StatusCode::FORBIDDEN, why).into_response();
            for protocol in protocols {
                refusal.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
            }
            refusal
        })?,
    };
    Ok(Agreed { protocol, accept: None })
}

fn offers<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim).collect()
}

/// The first of `known` that is offered.
fn common(offers: &[&str], known: &[&'static str]) -> Result<&'static str, String> {
    let both = known.iter().find(|protocol| offers.contains(protocol)).copied();
    both.ok_or_else(|| format!("unable to negotiate protocol: client supports {offers:?}, server accepts {known:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Protocols = Protocols { websocket: &["v5", "v4"], spdy: &["s2", "s1"] };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_preferred_protocol_that_both_know_is_taken() {
        assert_eq!(agree(&HeaderMap::new(), &KNOWN).unwrap_err().status(), StatusCode::BAD_REQUEST);
        let asks = [
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v1, v4"),
        ];
        let mut asked = headers(&asks);
        let Agreed { accept, protocol } = agree(&asked, &KNOWN).unwrap();
        // The example of RFC 6455.
        assert_eq!((accept.unwrap().to_str().unwrap(), protocol), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "v4"));
        asked.append("sec-websocket-protocol", HeaderValue::from_static("v5"));
        assert_eq!(agree(&asked, &KNOWN).unwrap().protocol, "v5");
        let other = Protocols { websocket: &["v9"], spdy: &[] };
        assert_eq!(agree(&asked, &other).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn spdy_is_agreed_to_in_headers_of_its_own() {
        let asked = |offers: &[&'static str]| {
            let offers = offers.iter().map(|offer| ("x-stream-protocol-version", *offer));
            headers(&std::iter::once(("upgrade", "SPDY/3.1")).chain(offers).collect::<Vec<_>>())
        };
        let agreed = agree(&asked(&["s1", "s2"]), &KNOWN).unwrap();
        assert_eq!((agreed.protocol, agreed.accept), ("s2", None));
        assert_eq!(agree(&asked(&[]), &KNOWN).unwrap().protocol, "s1");
        let refused = agree(&asked(&["s9"]), &KNOWN).unwrap_err();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 2);
    }
}
