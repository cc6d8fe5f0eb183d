//! The nodes' `/stats/summary`, asked for when somebody wants to know and kept for a moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::apiserver::registry::Place;
use crate::apiserver::{ApiServer, relay};
use crate::kinds::node::Node;

/// How long a summary holds: a screen full of clients that ask each second costs each node one answer a
/// second.
const FRESH: Duration = Duration::from_secs(1);
/// How long a node may take; one that takes longer is left out.
const PATIENCE: Duration = Duration::from_secs(3);
/// A summary of ten thousand pods has about eight million bytes.
const MAX_BYTES: usize = 32 << 20;
/// Nodes asked at a time, by all who ask: each answer is held in memory until it is read.
const AT_A_TIME: usize = 8;

/// Summaries by node; of nodes that are gone none is kept longer than it is fresh.
pub struct Summaries {
    kept: Mutex<HashMap<String, (Instant, Arc<Value>)>>,
    asking: Semaphore,
}

impl Default for Summaries {
    fn default() -> Self {
        Self { kept: Mutex::default(), asking: Semaphore::new(AT_A_TIME) }
    }
}

impl Summaries {
    /// The summaries of these nodes, as far as they answer.
    pub async fn of(&self, server: &ApiServer, nodes: impl Iterator<Item = &str>) -> HashMap<String, Arc<Value>> {
        let nodes: BTreeSet<String> = nodes.map(str::to_owned).collect();
        let asked = stream::iter(nodes).map(|node| async move {
            let summary = self.get(server, &node).await;
            (node, summary)
        });
        let answers = asked.buffer_unordered(AT_A_TIME);
        answers.filter_map(|(node, summary)| async move { Some((node, summary?)) }).collect().await
    }

    async fn get(&self, server: &ApiServer, node: &str) -> Option<Arc<Value>> {
        if let Some(summary) = self.fresh(node) {
            return Some(summary);
        }
        let _place = self.asking.acquire().await.ok()?;
        // Somebody may have asked while we stood in line.
        if let Some(summary) = self.fresh(node) {
            return Some(summary);
        }
        if !is_ready(server, node) {
            return None;
        }
        let summary = match tokio::time::timeout(PATIENCE, ask(server, node)).await {
            Ok(Ok(summary)) => Arc::new(summary),
            Ok(Err(error)) => {
                tracing::debug!(node, error, "a node's summary cannot be had");
                return None;
            }
            Err(_) => {
                tracing::debug!(node, "a node's summary took too long");
                return None;
            }
        };
        self.keep(node, &summary);
        Some(summary)
    }

    fn fresh(&self, node: &str) -> Option<Arc<Value>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(node).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, summary)| summary.clone())
    }

    fn keep(&self, node: &str, summary: &Arc<Value>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (since, _)| since.elapsed() < FRESH);
        kept.insert(node.to_owned(), (Instant::now(), summary.clone()));
    }
}

/// A node that is known to be away is not waited for.
fn is_ready(server: &ApiServer, node: &str) -> bool {
    let object = server.registry.find(Place { kind: &Node, namespace: "", name: node }).unwrap_or_default();
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

async fn ask(server: &ApiServer, node: &str) -> Result<Value, String> {
    let response = relay::get(server, node, "stats/summary").await.map_err(|error| error.message().to_owned())?;
    if !response.status().is_success() {
        return Err(format!("the node answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}
