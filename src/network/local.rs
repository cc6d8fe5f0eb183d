//! The pods of this process: address → the function that answers.
//!
//! A call to a pod of this node is a function call. Whoever runs a container puts its HTTP handler here
//! and holds the [`Registration`]; dropping it withdraws the handler, so that no call can be routed to a
//! container that has gone. Callers that find nobody wait for [`LocalPods::changed`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use crate::wire::HttpService;

/// The table of local pods. Cheap to clone; all clones are one table.
#[derive(Clone)]
pub struct LocalPods {
    inner: Arc<Inner>,
}

struct Inner {
    pods: DashMap<IpAddr, Pod>,
    changed: watch::Sender<()>,
    next_id: AtomicU64,
}

/// What is known of one address; at least one of the lists is not empty.
#[derive(Default)]
struct Pod {
    /// The newest last: while a container is replaced, its successor may register before it goes.
    handlers: Vec<Handler>,
    /// Ports that this process listens on for the pod.
    listening: Vec<u16>,
}

struct Handler {
    id: u64,
    /// `None`: every port that has no handler of its own.
    port: Option<u16>,
    service: Arc<dyn HttpService>,
}

/// Who answers at an address.
pub(super) enum Found {
    Here(Arc<dyn HttpService>),
    /// The pod is of this process, but nothing of it answers at the moment: a container that restarts.
    /// To dial it would only reach this process again.
    Away,
    /// Not of this process, as far as is known.
    Elsewhere,
}

/// Keeps a handler in the table; dropping it withdraws the handler.
#[must_use = "dropping it withdraws the handler"]
pub struct Registration {
    inner: Arc<Inner>,
    ip: IpAddr,
    id: u64,
}

impl LocalPods {
    pub fn new() -> Self {
        let inner = Inner { pods: DashMap::new(), changed: watch::Sender::new(()), next_id: AtomicU64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Lets `service` answer for the pod at `ip`: on `port`, or (`None`) on every port that no other
    /// handler of the pod has. The newest registration of a port answers.
    pub fn register(&self, ip: IpAddr, port: Option<u16>, service: Arc<dyn HttpService>) -> Registration {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        self.inner.pods.entry(ip).or_default().handlers.push(Handler { id, port, service });
        self.inner.changed.send_replace(());
        Registration { inner: self.inner.clone(), ip, id }
    }

    /// Whether a handler answers at `address` now.
    pub fn answers(&self, address: SocketAddr) -> bool {
        matches!(self.find(address), Found::Here(_))
    }

    pub(super) fn find(&self, address: SocketAddr) -> Found {
        let Some(pod) = self.inner.pods.get(&address.ip()) else { return Found::Elsewhere };
        let newest = |port| pod.handlers.iter().rev().find(|handler| handler.port == port);
        match newest(Some(address.port())).or_else(|| newest(None)) {
            Some(handler) => Found::Here(handler.service.clone()),
            None if pod.listening.contains(&address.port()) => Found::Away,
            None => Found::Elsewhere,
        }
    }

    /// Marks each registration.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    pub(super) fn listens(&self, address: SocketAddr) {
        self.inner.pods.entry(address.ip()).or_default().listening.push(address.port());
    }

    pub(super) fn listens_no_more(&self, address: SocketAddr) {
        self.inner.change(address.ip(), |pod| {
            if let Some(at) = pod.listening.iter().position(|port| *port == address.port()) {
                pod.listening.swap_remove(at);
            }
        });
    }
}

impl Default for LocalPods {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn change(&self, ip: IpAddr, change: impl FnOnce(&mut Pod)) {
        if let Entry::Occupied(mut entry) = self.pods.entry(ip) {
            change(entry.get_mut());
            if entry.get().handlers.is_empty() && entry.get().listening.is_empty() {
                entry.remove();
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut withdrawn = None;
        self.inner.change(self.ip, |pod| {
            if let Some(at) = pod.handlers.iter().position(|handler| handler.id == self.id) {
                withdrawn = Some(pod.handlers.remove(at));
            }
        });
        // Dropped here, outside the table's lock: it may be the container's last owner.
        drop(withdrawn);
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;
    use crate::wire::{CallError, HttpBody};

    struct Named(&'static str);

    #[async_trait::async_trait]
    impl HttpService for Named {
        async fn call(&self, _: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
            Err(CallError::Failed(self.0.to_owned()))
        }
    }

    async fn who(pods: &LocalPods, address: &str) -> String {
        match pods.find(address.parse().expect("an address")) {
            Found::Here(service) => {
                let request = Request::new(HttpBody::new(http_body_util::Empty::new().map_err_never()));
                service.call(request).await.err().map(|error| error.to_string()).unwrap_or_default()
            }
            Found::Away => "away".into(),
            Found::Elsewhere => "elsewhere".into(),
        }
    }

    trait MapErrNever: http_body::Body + Sized {
        fn map_err_never(self) -> http_body_util::combinators::MapErr<Self, fn(Self::Error) -> crate::wire::BoxError>;
    }

    impl MapErrNever for http_body_util::Empty<bytes::Bytes> {
        fn map_err_never(self) -> http_body_util::combinators::MapErr<Self, fn(Self::Error) -> crate::wire::BoxError> {
            http_body_util::BodyExt::map_err(self, |never| match never {})
        }
    }

    #[tokio::test]
    async fn the_newest_handler_of_a_port_answers_until_it_is_withdrawn() {
        let pods = LocalPods::new();
        let ip: IpAddr = "127.64.0.1".parse().expect("an address");
        assert_eq!(who(&pods, "127.64.0.1:80").await, "elsewhere");
        let any = pods.register(ip, None, Arc::new(Named("any")));
        let old = pods.register(ip, Some(80), Arc::new(Named("old")));
        let new = pods.register(ip, Some(80), Arc::new(Named("new")));
        assert_eq!(who(&pods, "127.64.0.1:80").await, "new");
        assert_eq!(who(&pods, "127.64.0.1:81").await, "any");
        drop(new);
        assert_eq!(who(&pods, "127.64.0.1:80").await, "old");
        drop(old);
        assert_eq!(who(&pods, "127.64.0.1:80").await, "any");
        drop(any);
        assert_eq!(who(&pods, "127.64.0.1:80").await, "elsewhere");
        assert!(pods.inner.pods.is_empty());
    }

    #[tokio::test]
    async fn a_pod_that_is_listened_for_is_away_rather_than_elsewhere() {
        let pods = LocalPods::new();
        let address: SocketAddr = "127.64.0.1:80".parse().expect("an address");
        pods.listens(address);
        assert_eq!(who(&pods, "127.64.0.1:80").await, "away");
        assert_eq!(who(&pods, "127.64.0.1:81").await, "elsewhere");
        pods.listens_no_more(address);
        assert!(pods.inner.pods.is_empty());
    }
}
