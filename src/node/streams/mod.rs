//! Streams between a client and a container: `kubectl exec`, `attach` and `port-forward`.
//!
//! The API server passes the client's WebSocket through as it is, so what is spoken here is spoken with
//! the client itself. A session ends with its command, with its client (who is asked now and then
//! whether it is still there), after [`IDLE`] without a byte, and with the node. There are at most
//! [`MAX_SESSIONS`] at a time; what each of them buffers is bounded by its pipes.

mod attach;
mod channels;
mod exec;
mod forward;
pub mod spdy;
mod tunnel;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

pub use attach::attach;
pub use channels::Protocol;
pub use exec::exec;
pub use forward::forward;

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

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The sessions of a node.
pub struct Sessions {
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Sessions {
    pub fn new(shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(MAX_SESSIONS)), shutdown })
    }

    /// Agrees to a WebSocket with one of `protocols`, the preferred first, and serves it apart from the
    /// request that asked for it.
    pub fn begin<F>(
        &self,
        request: &mut Request<Body>,
        protocols: &[&'static str],
        serve: impl FnOnce(Socket, &'static str) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let (accept, protocol) = match agree(request.headers(), protocols) {
            Ok(agreed) => agreed,
            Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
        };
        let Some(place) = self.place() else {
            let text = format!("this node already serves {MAX_SESSIONS} sessions of exec, attach and port-forward");
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        let upgrade = hyper::upgrade::on(request);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _place = place;
            let Ok(upgraded) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config())).await;
            tokio::select! {
                () = serve(socket, protocol) => {}
                () = shutdown.cancelled() => {}
            }
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        response
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

/// The answer to a client's key, and the protocol that both know.
fn agree(headers: &HeaderMap, protocols: &[&'static str]) -> Result<(HeaderValue, &'static str), String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    if !text(header::UPGRADE).eq_ignore_ascii_case("websocket") || text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err("this is a stream: ask for it as a WebSocket of version 13".to_owned());
    }
    let key = text(header::SEC_WEBSOCKET_KEY);
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok().filter(|_| !key.is_empty());
    let accept = accept.ok_or("a WebSocket wants a Sec-WebSocket-Key")?;
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers: Vec<&str> = offers.flat_map(|list| list.split(',')).map(str::trim).collect();
    let known = protocols.iter().find(|protocol| offers.contains(protocol));
    let known = known.ok_or_else(|| {
        format!("unable to negotiate protocol: client supports {offers:?}, server accepts {protocols:?}")
    })?;
    Ok((accept, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_protocol_that_both_know_is_taken() {
        let mut headers = HeaderMap::new();
        let known = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        assert!(agree(&headers, &known).is_err_and(|why| why.contains("WebSocket")));
        for (name, value) in [
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v1.channel.k8s.io, v4.channel.k8s.io"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let (accept, protocol) = agree(&headers, &known).unwrap();
        // The example of RFC 6455.
        assert_eq!((accept.to_str().unwrap(), protocol), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "v4.channel.k8s.io"));
        headers.append("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
        assert_eq!(agree(&headers, &known).unwrap().1, "v5.channel.k8s.io");
        assert!(agree(&headers, &["v9"]).is_err_and(|why| why.contains("unable to negotiate")));
    }
}
