//! Datagrams through Services: from a ClusterIP or a node port to a pod, and its answers back from there.
//!
//! Datagrams have no connections, yet answers must come from the address that was asked, and what belongs
//! together should go to one pod. So a client's port has a session with an endpoint: a socket of its own, for
//! as long as either says something. An endpoint that leaves the Service loses its sessions with the next
//! datagram; a server that sends unasked is heard as long as its client's session lasts.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::balance;
use super::route;
use super::seek::Directory;
use super::service::Way;
use super::table::ServicePort;
use crate::wire::Transport;

/// Sessions of all Services of a node together: each has a descriptor. Datagrams that would begin more are
/// lost, as on a busy network.
pub(super) const SESSIONS: usize = 4_096;
/// How long a session is silent before it ends, without and with an answer seen: Linux's for datagrams.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_ANSWERED: Duration = Duration::from_secs(120);
/// How often silence is looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// As long as a datagram can be.
const MOST_BYTES: usize = 1 << 16;

/// One address's datagrams.
pub(super) struct Relay {
    pub(super) way: Way,
    pub(super) directory: Arc<Directory>,
    pub(super) places: Arc<Semaphore>,
}

/// A client's port and an endpoint.
struct Session {
    endpoint: SocketAddr,
    /// As the table had it when the endpoint was last seen there.
    port: Arc<ServicePort>,
    socket: Arc<UdpSocket>,
    activity: Arc<Activity>,
    /// Carries the answers; ended when the endpoint refuses.
    answers: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Activity {
    /// On [`balance::clock_ms`].
    last_ms: AtomicU64,
    answered: AtomicBool,
}

impl Relay {
    /// Relays what comes to `socket` until `close`.
    pub(super) async fn run(self, socket: UdpSocket, close: CancellationToken) {
        let socket = Arc::new(socket);
        let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
        let mut buffer = vec![0; MOST_BYTES];
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                heard = socket.recv_from(&mut buffer) => {
                    // An error is that of an answer before: its client has gone.
                    let Ok((length, client)) = heard else { continue };
                    self.pass(&socket, &mut sessions, client, buffer.get(..length).unwrap_or_default()).await;
                }
                _ = sweep.tick(), if !sessions.is_empty() => {
                    let now_ms = balance::clock_ms();
                    sessions.retain(|_, session| !session.is_over(now_ms));
                }
                () = close.cancelled() => return,
            }
        }
    }

    async fn pass(
        &self,
        socket: &Arc<UdpSocket>,
        sessions: &mut HashMap<SocketAddr, Session>,
        client: SocketAddr,
        datagram: &[u8],
    ) {
        let Some(port) = self.way.leads_to(&self.directory.table()) else { return };
        let goes_on = sessions.get_mut(&client).is_some_and(|session| session.goes_on(&port));
        if !goes_on {
            // Before the next is made: it gives its place back.
            sessions.remove(&client);
            match self.begin(socket, client, &port).await {
                Ok(session) => {
                    sessions.insert(client, session);
                }
                Err(why) => return tracing::debug!(%client, "{port}: a datagram is lost: {why}"),
            }
        }
        if let Some(session) = sessions.get(&client) {
            session.activity.note();
            // What does not fit into the system's buffer is lost, as on any network.
            let _ = session.socket.try_send(datagram);
        }
    }

    fn choose(&self, client: SocketAddr, port: &ServicePort) -> io::Result<SocketAddr> {
        let policies = self.directory.policies();
        match route::choose(port, client.ip(), |to| policies.check(client.ip(), to, Transport::Udp)) {
            Ok(endpoint) => Ok(endpoint.address),
            Err(Some(refusal)) => {
                self.directory.count(&refusal);
                Err(io::Error::other(refusal.to_string()))
            }
            Err(None) => Err(io::Error::other("there is no ready endpoint")),
        }
    }

    async fn begin(&self, from: &Arc<UdpSocket>, client: SocketAddr, port: &Arc<ServicePort>) -> io::Result<Session> {
        let endpoint = self.choose(client, port)?;
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("too many clients have sessions"))?;
        let any: SocketAddr = match endpoint {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = Arc::new(UdpSocket::bind(any).await?);
        socket.connect(endpoint).await?;
        socket.writable().await?;
        let activity = Arc::new(Activity::default());
        let answers = carry_answers(socket.clone(), from.clone(), client, activity.clone());
        let answers = AbortOnDropHandle::new(tokio::spawn(answers));
        Ok(Session { endpoint, port: port.clone(), socket, activity, answers, _place: place })
    }
}

/// Until the endpoint says that nobody is there.
async fn carry_answers(of: Arc<UdpSocket>, to: Arc<UdpSocket>, client: SocketAddr, activity: Arc<Activity>) {
    while of.readable().await.is_ok() {
        // Not kept while nothing is heard: there may be thousands of sessions.
        let mut buffer = vec![0; MOST_BYTES];
        match of.try_recv(&mut buffer) {
            Ok(length) => {
                activity.note();
                activity.answered.store(true, Ordering::Relaxed);
                let _ = to.send_to(buffer.get(..length).unwrap_or_default(), client).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl Session {
    /// Whether the endpoint is still one of the Service's, and somebody is there.
    fn goes_on(&mut self, port: &Arc<ServicePort>) -> bool {
        if self.answers.is_finished() {
            return false;
        }
        if !Arc::ptr_eq(&self.port, port) {
            if !port.endpoints.iter().any(|endpoint| endpoint.address == self.endpoint) {
                return false;
            }
            self.port = port.clone();
        }
        true
    }

    fn is_over(&self, now_ms: u64) -> bool {
        let idle = if self.activity.answered.load(Ordering::Relaxed) { IDLE_ANSWERED } else { IDLE };
        let silent = now_ms.saturating_sub(self.activity.last_ms.load(Ordering::Relaxed));
        self.answers.is_finished() || silent > idle.as_millis() as u64
    }
}

impl Activity {
    fn note(&self) {
        self.last_ms.store(balance::clock_ms(), Ordering::Relaxed);
    }
}
