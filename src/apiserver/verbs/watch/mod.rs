//! WATCH: the changes of a collection, as a stream of lines.
//!
//! The stream is pulled: a watcher that does not read costs its place in the store's history and nothing
//! else, and is told 410 when that history has moved on without it. What one watcher has had decoded or
//! written out, all others of this process share ([`shared`]).

mod event;
pub mod shared;
mod stream;

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use rand::Rng;
use tokio::time::Instant;

use super::Call;
use crate::apiserver::ApiServer;
use crate::apiserver::options::ListOptions;
use crate::apiserver::registry::encoding::{self, Stored};
use crate::apiserver::registry::store_error;
use crate::apiserver::reply::Look;
use crate::apiserver::selector::Selector;
use crate::apiserver::status::ApiError;
use crate::store;
use event::Writer;
use stream::Stream;

/// A watch without `timeoutSeconds` ends between this and twice this, as upstream, so that clients
/// spread over servers and time.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

pub async fn watch(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = ListOptions::from_query(&call.query, true)?;
    let mut selector = Selector::parse(call.kind, &options.label_selector, &options.field_selector)?;
    if !call.target.name.is_empty() {
        selector = selector.and_name(&call.target.name);
    }
    // Not even upstream has a better answer to a version that is no number.
    let version = options.version().map_err(|why| ApiError::new(500, "", why))?;
    let as_stored = look.is_metadata() && call.takes_any_version();
    let writer = Writer::new(call.kind, look, selector, as_stored);
    let deadline = Instant::now() + timeout(&options);
    let stream = match begin(call, &options, version, writer)? {
        Some(begun) => begun.shown(&call.server).await?.into_stream(&call.server, deadline, options.allow_bookmarks),
        None => Stream::expired(version.unwrap_or(0), call.server.registry.store.revision()),
    };
    let mut response = Response::new(Body::from_stream(stream.into_chunks()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn timeout(options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) => Duration::from_secs(seconds),
        None => MIN_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
    }
}

/// A watch that has its place in the history.
struct Begun {
    watch: store::Watch,
    writer: Writer,
    /// What is there already, told as ADDED.
    initial: Vec<Stored>,
    revision: u64,
    /// Whether the end of the initial events is told.
    mark_end: bool,
}

impl Begun {
    /// Brings what is there already into the version that is watched.
    async fn shown(mut self, server: &ApiServer) -> Result<Self, ApiError> {
        if !self.writer.takes_as_stored() {
            self.initial = server.registry.shown(self.writer.kind(), self.initial).await?;
        }
        Ok(self)
    }

    fn into_stream(self, server: &ApiServer, deadline: Instant, bookmarks: bool) -> Stream {
        let Self { watch, writer, initial, revision, mark_end } = self;
        let retired = server.registry.definitions.current().retired(writer.kind());
        let (server, stop) = (server.clone(), retired.unwrap_or_else(|| server.shutdown.clone()));
        Stream::new(watch, writer, server, stop, deadline, bookmarks).with_initial(initial, revision, mark_end)
    }
}

/// `None` when the version asked for is no longer in the history.
fn begin(call: &Call, options: &ListOptions, version: Option<u64>, writer: Writer) -> Result<Option<Begun>, ApiError> {
    let store = &call.server.registry.store;
    let prefix = encoding::prefix(call.kind.info(), &call.target.namespace);
    let from_state = options.send_initial_events.unwrap_or(matches!(version, None | Some(0)));
    let mark_end = options.send_initial_events == Some(true);
    if let Some(wanted) = version.filter(|wanted| *wanted > store.revision()) {
        return Err(ApiError::future_version(wanted, store.revision()));
    }
    let (initial, revision) = if from_state {
        let page = store.list(&prefix, None, 0, None).map_err(store_error)?;
        (page.entries.iter().map(Stored::from).collect(), page.revision)
    } else {
        (Vec::new(), version.filter(|v| *v > 0).unwrap_or_else(|| store.revision()))
    };
    match store.watch(&prefix, revision) {
        Ok(watch) => Ok(Some(Begun { watch, writer, initial, revision, mark_end })),
        Err(store::Error::Compacted { .. } | store::Error::Lagged) => Ok(None),
        Err(error) => Err(store_error(error)),
    }
}
