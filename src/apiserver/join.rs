//! How a machine becomes a node: it shows the join token, or a bootstrap token for joining nodes, and gets a
//! certificate and a range of pod addresses.
//!
//! ```text
//! GET  /coracle/v1/ca      the authority's certificate, for anybody: the token pins its fingerprint
//! POST /coracle/v1/join    {"name", "addresses", "csr"} → {"certificate", "ca", "podCIDR", "serviceCIDR"}
//! ```
//!
//! A node that joins again under its name keeps its range.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::StatusCode;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::auth::pki::Pki;
use super::auth::{JOINERS, MASTERS, User};
use crate::store::{Durability, Error, Expect, Store, Write};

/// What a machine sends to join.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// A PEM signing request.
    pub csr: String,
}

/// What it gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub certificate: String,
    pub ca: String,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
}

/// What the endpoint needs.
pub struct JoinConfig {
    pub pki: Arc<Pki>,
    pub store: Arc<dyn Store>,
    /// All pods' addresses, cut into a piece a node.
    pub pod_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
}

/// A node's piece of the pod range: 16,384 addresses, more than the pods a node may run.
const NODE_PREFIX: u8 = 18;
const PREFIX: &str = "/coracle/pod-cidrs/";

/// The two routes.
pub fn routes(config: JoinConfig) -> Router {
    Router::new()
        .route("/coracle/v1/ca", get(authority))
        .route("/coracle/v1/join", post(join))
        .with_state(Arc::new(config))
}

async fn authority(State(config): State<Arc<JoinConfig>>) -> String {
    config.pki.ca_pem.clone()
}

async fn join(
    State(config): State<Arc<JoinConfig>>,
    Extension(user): Extension<User>,
    Json(request): Json<JoinRequest>,
) -> Response {
    if !user.in_group(JOINERS) && !user.in_group(MASTERS) {
        return (
            StatusCode::FORBIDDEN,
            "joining needs the join token: see the file `token` in the server's data directory\n",
        )
            .into_response();
    }
    if !is_node_name(&request.name) {
        return (
            StatusCode::BAD_REQUEST,
            format!("{:?} is not a node name: use lower case letters, digits, - and .\n", request.name),
        )
            .into_response();
    }
    match admit(&config, &request).await {
        Ok(joined) => Json(joined).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn admit(config: &JoinConfig, request: &JoinRequest) -> anyhow::Result<Joined> {
    let pod_cidr = pod_range(config.store.as_ref(), config.pod_cidr, &request.name).await?;
    let certificate = config.pki.sign_node(&request.name, &request.addresses, &request.csr)?;
    Ok(Joined { certificate, ca: config.pki.ca_pem.clone(), pod_cidr, service_cidr: config.service_cidr })
}

/// The node's own piece of `all`: the one that it has, or the first that nobody has.
async fn pod_range(store: &dyn Store, all: Ipv4Net, node: &str) -> anyhow::Result<Ipv4Net> {
    for piece in all.subnets(NODE_PREFIX)? {
        let key: Arc<str> = format!("{PREFIX}{piece}").into();
        if let Some(taken) = store.get(&key) {
            if taken.value == node.as_bytes() {
                return Ok(piece);
            }
            continue;
        }
        let value = Some(Bytes::copy_from_slice(node.as_bytes()));
        let write = Write { key, expect: Expect::Absent, value, durability: Durability::Synced };
        match store.commit(write).await {
            Ok(_) => return Ok(piece),
            // Another node was quicker; take the next piece.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("every /{NODE_PREFIX} of the pod range {all} is taken")
}

/// An RFC 1123 subdomain.
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(ends) && label.ends_with(ends) && label.chars().all(|c| ends(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_subdomains() {
        for good in ["a", "node-1", "n1.example.org"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a/b", "system:x"] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
