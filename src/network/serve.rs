//! Accepting connections and answering what comes over them.
//!
//! Every listener of this room is one [`Server::accept`]: the ingress, ClusterIPs, node ports, pods'
//! own addresses. They differ in their [`Answer`]. A listener that closes takes what already waits in
//! the kernel's queue, tells keep-alive clients `Connection: close` on their next answer, gives idle
//! ones a moment to send what is on its way, and only then closes them.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cores::Cores;
use super::headers;
use super::http::incoming;
use crate::wire::HttpBody;

/// Connections open at once on all listeners. Beyond it new ones wait in the kernel's queue: a flood
/// must leave descriptors for the rest of the process.
const CONNECTIONS: usize = 16_384;
/// The kernel's queue of each listener.
const BACKLOG: i32 = 1_024;
/// How long a client may take to send a request's head, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A request's head may be so long and have so many fields.
const HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 128;
/// Streams of one HTTP/2 connection at once.
const STREAMS: u32 = 250;
/// How long an idle connection stays open after its listener has closed: a request may be on its way.
const LINGER: Duration = Duration::from_millis(250);
/// When accepting fails for want of descriptors: wait for some connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is done with a connection.
pub(super) trait Answer: Send + Sync + 'static {
    fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, ends: Ends) -> impl Future<Output = ()> + Send;
}

/// What answers requests.
pub(super) trait Handle: Send + Sync + 'static {
    fn handle(&self, request: Request<HttpBody>, peer: &Peer) -> impl Future<Output = Response<HttpBody>> + Send;
}

/// Who is at the other end.
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    /// The same as headers have it: made once for all requests of a connection.
    pub(super) text: HeaderValue,
}

impl Peer {
    fn new(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        let text = HeaderValue::try_from(ip.to_string()).expect("an address is a header's value");
        Self { ip, text }
    }
}

/// How a connection is to end.
enum Ending {
    /// When what is under way is done.
    Finish,
    /// Now.
    Cut,
}

/// When a connection is to end.
#[derive(Clone)]
pub(super) struct Ends {
    /// Its listener has closed: finish, softly.
    listener: CancellationToken,
    /// The time given for that is over.
    server: CancellationToken,
}

/// Owns all connections.
pub(super) struct Server {
    cores: Cores,
    connections: Arc<Semaphore>,
    tracker: TaskTracker,
    /// Closes every listener.
    closing: CancellationToken,
    /// Cuts what is left.
    cut: CancellationToken,
}

impl Server {
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        Ok(Self {
            cores: Cores::start(threads)?,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        })
    }

    /// A token that closes one listener when it is cancelled; all of them end with the server.
    pub(super) fn listener_token(&self) -> CancellationToken {
        self.closing.child_token()
    }

    /// When a connection is to end that came by no listener.
    pub(super) fn ends(&self) -> Ends {
        Ends { listener: self.listener_token(), server: self.cut.clone() }
    }

    /// Answers the connections of `listener` until `close`.
    pub(super) fn accept<A: Answer>(self: &Arc<Self>, listener: TcpListener, close: CancellationToken, answer: Arc<A>) {
        let server = self.clone();
        // Not on a core: accepting goes on while guests keep the cores busy.
        self.tracker.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = server.accept_one(&listener) => accepted,
                    () = close.cancelled() => break,
                };
                server.begin(accepted, &close, &answer);
            }
            // What the kernel has accepted already must not be reset, however much this task has done.
            while let Some(Ok((stream, peer))) = tokio::task::unconstrained(listener.accept()).now_or_never() {
                server.begin(Some((stream, peer)), &close, &answer);
            }
        });
    }

    /// Runs a part of the server that is no listener, until all are closed.
    pub(super) fn keep(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }

    async fn accept_one(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        // Taken only to wait for room; each connection takes its own place when it begins.
        drop(self.connections.acquire().await);
        match listener.accept().await {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn begin<A: Answer>(&self, accepted: Option<(TcpStream, SocketAddr)>, close: &CancellationToken, answer: &Arc<A>) {
        let Some((stream, peer)) = accepted else { return };
        let ends = Ends { listener: close.clone(), server: self.cut.clone() };
        let (answer, connections) = (answer.clone(), self.connections.clone());
        let moved = stream.into_std();
        self.cores.spawn(self.tracker.track_future(async move {
            let _place = connections.acquire_owned().await;
            // Registered anew: with the executor of the core it is now on.
            let stream =
                moved.and_then(TcpStream::from_std).and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            match stream {
                Ok(stream) => answer.connection(stream, peer, ends).await,
                Err(error) => tracing::debug!(%error, %peer, "a connection could not be served"),
            }
        }));
    }

    /// Closes all listeners and waits up to `grace` for their connections, then cuts them.
    pub(super) async fn shutdown(&self, grace: Duration) {
        self.closing.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(connections = self.tracker.len(), ?grace, "cutting connections that did not end in time");
        }
        self.cut();
    }

    /// Closes everything at once.
    pub(super) fn cut(&self) {
        self.closing.cancel();
        self.cut.cancel();
    }
}

impl Ends {
    pub(super) fn is_closing(&self) -> bool {
        self.listener.is_cancelled()
    }

    /// Resolves when the connection is to be cut.
    pub(super) async fn cut(&self) {
        self.server.cancelled().await;
    }

    /// What a connection is to do, once it is to end.
    async fn next(&self) -> Ending {
        let finish = async {
            self.listener.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = finish => Ending::Finish,
            () = self.cut() => Ending::Cut,
        }
    }
}

/// Answers HTTP/1.1 and HTTP/2 (with prior knowledge) on one connection.
pub(super) async fn serve_http<H: Handle, S>(stream: S, peer: SocketAddr, handler: Arc<H>, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // One pointer to share with each request's future.
    let shared = Arc::new((handler, Peer::new(peer), ends.clone()));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let shared = shared.clone();
        async move {
            let (handler, peer, ends) = &*shared;
            let is_http1 = request.version() <= Version::HTTP_11;
            let mut request = request.map(incoming);
            headers::normalise(&mut request);
            let mut response = handler.handle(request, peer).await;
            if is_http1 && ends.is_closing() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // In a set of its own, it is looked at only when it has been woken, not at each event of the
    // connection: the tokens are shared by all connections, and looking at them takes their lock.
    let mut endings = FuturesUnordered::from_iter([ends.next()]);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        Some(ending) = endings.next() => match ending {
            Ending::Cut => return,
            Ending::Finish => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = ends.cut() => return,
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended badly");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES as u32)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(HEAD_TIMEOUT);
    builder
}

/// Binds a listener. `shared`: several processes of this machine answer on the same address.
pub(super) fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
