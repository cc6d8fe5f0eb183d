//! Tokens of service accounts, for the projected volumes that ask for them.
//!
//! An API server that has no `serviceaccounts/token` is asked again only now and then; its pods get
//! their volume without the token file, with what else belongs in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::payload::TokenWish;

/// How long the answer "there are no tokens" is believed.
const ASK_AGAIN: Duration = Duration::from_secs(60);

pub struct Tokens {
    client: kube::Client,
    none_until: Mutex<Option<Instant>>,
    /// Held by who asks first whether there are tokens at all; a thousand pods that start together wait
    /// for that one answer.
    first: tokio::sync::Mutex<()>,
    some: AtomicBool,
}

#[derive(Deserialize)]
struct TokenAnswer {
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: String,
}

impl Tokens {
    pub fn new(client: kube::Client) -> Tokens {
        Tokens {
            client,
            none_until: Mutex::default(),
            first: tokio::sync::Mutex::default(),
            some: AtomicBool::new(false),
        }
    }

    /// A token for the pod's service account; `None` where the API server gives none.
    pub async fn get(&self, pod: &core::Pod, wish: &TokenWish) -> kube::Result<Option<Bytes>> {
        let _first = if self.some.load(Ordering::Relaxed) { None } else { Some(self.first.lock().await) };
        let known = *self.none_until.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        // Who waited for the first answer need not make others wait for his.
        let _first = _first.filter(|_| !self.some.load(Ordering::Relaxed));
        match self.client.request::<TokenAnswer>(request(pod, wish)?).await {
            Ok(answer) => {
                self.some.store(true, Ordering::Relaxed);
                Ok(Some(Bytes::from(answer.status.token)))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => {
                let until = Instant::now() + ASK_AGAIN;
                *self.none_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn request(pod: &core::Pod, wish: &TokenWish) -> kube::Result<http::Request<Vec<u8>>> {
    let meta = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": wish.audience.iter().collect::<Vec<_>>(), "expirationSeconds": wish.seconds,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid },
        },
    });
    http::Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)
}
