//! The way out of a worker: its guests' calls, addresses and names are the node's to decide.
//!
//! The worker says only which pod asks. Who that is, and by which way out, the node remembers: a worker
//! that fell to its guests can speak for its own pods and nobody else's.

use std::net::SocketAddr;
use std::sync::Arc;

use dashmap::DashMap;
use http::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::{self, Failure, exchange, failed, full, outcome, pack, unpack, whole};
use super::link::{Answers, Link, Lost};
use super::protocol::{Admit, Admitted, Resolve, Resolved, Route, Routed, Send, node};
use crate::wire::{CallTimeouts, Caller, HttpBody, Named, Outbound, OutboundError, Transport};

/// The longest answer about an address or a name.
const MAX_ANSWER: usize = 64 << 10;

/// The worker's side: asks the node.
pub struct ThroughNode {
    /// The pod's uid.
    pub pod: String,
    pub node: Link,
}

impl ThroughNode {
    async fn ask<T: DeserializeOwned>(&self, path: &str, about: &impl Serialize) -> Result<T, OutboundError> {
        let answer = self.node.ask(exchange(path, about, full(""))).await.map_err(lost)?;
        let answer = outcome(answer).await.map_err(outbound_error)?;
        let broken = |why: String| OutboundError::Failed(format!("the node's answer: {why}"));
        let bytes = whole(answer.into_body(), MAX_ANSWER).await.map_err(broken)?;
        serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))
    }
}

fn lost(lost: Lost) -> OutboundError {
    OutboundError::Failed(format!("the node is gone: {}", lost.why))
}

#[async_trait::async_trait]
impl Outbound for ThroughNode {
    async fn send(
        &self,
        _caller: &Caller,
        request: Request<HttpBody>,
        timeouts: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        let CallTimeouts { connect, first_byte, between_bytes } = timeouts;
        let about = Send { pod: self.pod.clone(), connect, first_byte, between_bytes };
        let response = self.node.ask(pack(node::SEND, &about, request)).await.map_err(lost)?;
        outcome(response).await.map_err(outbound_error)
    }

    async fn route(&self, _: &Caller, to: SocketAddr, transport: Transport) -> Result<SocketAddr, OutboundError> {
        self.ask::<Routed>(node::ROUTE, &Route { pod: self.pod.clone(), to, transport }).await
    }

    async fn admits(&self, _: &Caller, from: SocketAddr, port: u16, transport: Transport) -> bool {
        let asked = self.ask::<Admitted>(node::ADMIT, &Admit { pod: self.pod.clone(), from, port, transport }).await;
        asked.unwrap_or(false)
    }

    async fn resolve(&self, _: &Caller, host: &str) -> Result<Named, OutboundError> {
        self.ask::<Resolved>(node::RESOLVE, &Resolve { pod: self.pod.clone(), host: host.to_owned() }).await
    }
}

/// The node's side: the pods of one worker, by uid.
#[derive(Default)]
pub struct WaysOut(DashMap<String, (Arc<Caller>, Arc<dyn Outbound>)>);

impl WaysOut {
    pub fn add(&self, uid: &str, caller: Caller, outbound: Arc<dyn Outbound>) {
        self.0.insert(uid.to_owned(), (Arc::new(caller), outbound));
    }

    pub fn remove(&self, uid: &str) {
        self.0.remove(uid);
    }

    fn of(&self, uid: &str) -> Result<(Arc<Caller>, Arc<dyn Outbound>), OutboundError> {
        let known = self.0.get(uid).map(|known| known.value().clone());
        known.ok_or_else(|| OutboundError::Denied(format!("no pod {uid:?} runs in this worker")))
    }

    async fn try_answer(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, OutboundError> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            node::SEND => {
                let Send { pod, connect, first_byte, between_bytes } = about(&request)?;
                let (caller, outbound) = self.of(&pod)?;
                let call = unpack(request).map_err(OutboundError::Failed)?;
                let timeouts = CallTimeouts { connect, first_byte, between_bytes };
                outbound.send(&caller, call, timeouts).await.map(calls::answered)
            }
            node::ROUTE => {
                let Route { pod, to, transport } = about(&request)?;
                let (caller, outbound) = self.of(&pod)?;
                outbound.route(&caller, to, transport).await.map(|to: Routed| json(&to))
            }
            node::ADMIT => {
                let Admit { pod, from, port, transport } = about(&request)?;
                let (callee, outbound) = self.of(&pod)?;
                let admitted: Admitted = outbound.admits(&callee, from, port, transport).await;
                Ok(json(&admitted))
            }
            node::RESOLVE => {
                let Resolve { pod, host } = about(&request)?;
                let (caller, outbound) = self.of(&pod)?;
                outbound.resolve(&caller, &host).await.map(|named: Resolved| json(&named))
            }
            _ => Err(OutboundError::Failed(format!("nothing is at {path}"))),
        }
    }
}

fn about<T: DeserializeOwned>(request: &Request<HttpBody>) -> Result<T, OutboundError> {
    calls::about(request.headers()).map_err(OutboundError::Failed)
}

fn json(value: &impl Serialize) -> Response<HttpBody> {
    Response::new(full(serde_json::to_vec(value).unwrap_or_default()))
}

#[async_trait::async_trait]
impl Answers for WaysOut {
    async fn answer(&self, request: Request<HttpBody>) -> Response<HttpBody> {
        match self.try_answer(request).await {
            Ok(response) => response,
            Err(OutboundError::UnknownHost(host)) => failed("unknown-host", None, &host),
            Err(OutboundError::Denied(why)) => failed("denied", None, &why),
            Err(OutboundError::Refused(why)) => failed("refused", None, &why),
            Err(OutboundError::Timeout(after)) => failed("timeout", Some(after), ""),
            Err(OutboundError::Failed(why)) => failed("failed", None, &why),
        }
    }
}

fn outbound_error(failure: Failure) -> OutboundError {
    let Failure { kind, after, words } = failure;
    match kind.as_str() {
        "unknown-host" => OutboundError::UnknownHost(words),
        "denied" => OutboundError::Denied(words),
        "refused" => OutboundError::Refused(words),
        "timeout" => OutboundError::Timeout(after),
        _ => OutboundError::Failed(words),
    }
}
