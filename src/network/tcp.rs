//! Bytes that are not HTTP: a pipe to one endpoint, for as long as the connection lasts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::balance::{self, InFlight};
use super::dial;
use super::seek::Directory;
use super::serve::Ends;
use super::table::ServicePort;

/// A client that has said nothing for so long waits for the server to speak first: not HTTP.
const SNIFF: Duration = Duration::from_millis(100);
/// What HTTP requests begin with; the last is HTTP/2 with prior knowledge.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * HTTP/2.0",
];

/// Whether what the client sends first looks like HTTP. Takes nothing from the stream.
pub(super) async fn speaks_http(stream: &TcpStream) -> bool {
    let mut first = [0; 16];
    match tokio::time::timeout(SNIFF, stream.peek(&mut first)).await {
        Ok(Ok(count)) => first.get(..count).is_some_and(looks_like_http),
        Ok(Err(_)) | Err(_) => false,
    }
}

fn looks_like_http(first: &[u8]) -> bool {
    !first.is_empty() && METHODS.iter().any(|method| first.iter().zip(*method).all(|(have, want)| have == want))
}

/// Joins `client` with an endpoint of `port`, until both sides have said all; one may finish before
/// the other.
pub(super) async fn pipe(
    directory: &Directory,
    port: Arc<ServicePort>,
    mut client: TcpStream,
    peer: SocketAddr,
    ends: Ends,
) {
    let Some((mut server, _in_flight)) = reach(directory, port, peer).await else { return };
    let joined = tokio::select! {
        joined = copy_bidirectional(&mut client, &mut server) => joined,
        () = ends.cut() => return,
    };
    if let Err(error) = joined {
        tracing::debug!(%error, %peer, "a piped connection broke");
    }
}

/// A connection to some endpoint.
async fn reach(directory: &Directory, port: Arc<ServicePort>, peer: SocketAddr) -> Option<(TcpStream, InFlight)> {
    let mut search = directory.search(port, Some(peer.ip()));
    loop {
        let endpoint = match search.next().await {
            Ok(endpoint) => endpoint,
            Err(reason) => {
                tracing::debug!(%peer, "{}: {reason}", search.port());
                return None;
            }
        };
        match dial::dial(endpoint.address).await {
            Ok(stream) => {
                endpoint.health.answered();
                return Some((stream, endpoint.health.begin()));
            }
            Err(error) => {
                tracing::debug!(%error, endpoint = %endpoint.address, "cannot connect");
                endpoint.health.refused(balance::clock_ms());
                search.failed(&endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_bytes() {
        for (first, http) in [
            (&b"GET / HTTP/1.1\r\n"[..], true),
            (b"PRI * HTTP/2.0\r\n", true),
            (b"PO", true),
            (b"", false),
            (b"GETX", false),
            (b"\x16\x03\x01\x02\x00", false),
            (b"SSH-2.0-OpenSSH", false),
        ] {
            assert_eq!(looks_like_http(first), http, "{first:?}");
        }
    }
}
