//! One connection to a port of a pod, for the API server's proxies of pods and services.
//!
//! It is asked for by an upgrade to [`PROTOCOL`]: once the pod's port is open the answer is 101, and from then on the
//! bytes are the pod's. What is spoken over them the API server knows.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::Sessions;
use super::forward::{PIPE, Pod};
use crate::node::server::NodeApi;
use crate::reconcile::ObjectKey;

/// What the connection is upgraded to: bytes as they are.
const PROTOCOL: &str = "tcp";

/// `/connect/{namespace}/{pod}/{port}`
pub async fn connect(
    State(api): State<NodeApi>,
    Path((namespace, pod, port)): Path<(String, String, u16)>,
    mut request: Request<Body>,
) -> Response {
    if request.headers().get(header::UPGRADE).is_none_or(|wanted| wanted != PROTOCOL) {
        return (StatusCode::BAD_REQUEST, format!("ask for an upgrade to {PROTOCOL}")).into_response();
    }
    let Some(pod_found) = Pod::find(&api, ObjectKey::new(namespace.as_str(), pod.as_str())) else {
        return Pod::unknown(&pod);
    };
    let Some(place) = api.sessions.place() else { return Sessions::full() };
    let opened = match pod_found.open(port).await {
        Ok(opened) => opened,
        Err(why) => return (StatusCode::BAD_GATEWAY, why).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let shutdown = api.sessions.shutdown.clone();
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = upgrade.await else { return };
        let (mut near, mut pod) = (TokioIo::new(upgraded), opened.stream);
        let serving = async {
            match opened.serving {
                Some(serving) => serving.await,
                // The copying decides.
                None => std::future::pending().await,
            }
        };
        // What the pod's server has said last may still be on its way when it is done.
        let copying = async {
            let _ = copy_bidirectional_with_sizes(&mut near, &mut pod, PIPE, PIPE).await;
        };
        tokio::pin!(copying);
        let carried = async {
            tokio::select! {
                () = &mut copying => {}
                () = serving => copying.await,
            }
        };
        tokio::select! {
            () = carried => {}
            () = shutdown.cancelled() => {}
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}
