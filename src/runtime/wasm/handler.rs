//! The two ways in which components answer HTTP: `wasi:http/incoming-handler` of WASI 0.2 and
//! `wasi:http/handler` of 0.3. Which one it is ends here: a call is a request, the head of a response that
//! comes while the guest is polled, and the guest's end.

use std::future::poll_fn;

use futures::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as IncomingScheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _};

use super::guest::Guest;
use crate::wire::{BoxError, HttpBody};

/// What a guest answers: the head, and a body that is written as the guest is polled.
pub type Answer = Result<Response<HyperOutgoingBody>, Error>;

/// A component that answers HTTP, ready to be instantiated.
#[derive(Clone)]
pub enum HandlerPre {
    Incoming(ProxyPre<Guest>),
    Service(ServicePre<Guest>),
}

/// An instance of it.
pub enum Handler {
    Incoming(Proxy),
    Service(Service),
}

/// Why a call was not answered to its end.
pub enum Failure {
    /// A trap, an exit or a limit.
    Ended(wasmtime::Error),
    /// The host could not put the call to the guest; no fault of the instance's code.
    NotPut(wasmtime::Error),
}

impl HandlerPre {
    pub async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Handler> {
        match self {
            Self::Incoming(pre) => pre.instantiate_async(store).await.map(Handler::Incoming),
            Self::Service(pre) => pre.instantiate_async(store).await.map(Handler::Service),
        }
    }

    /// Whether a body may go on by itself when its guest has ended: one that came with the request and was
    /// answered with, as it is.
    pub fn relays_bodies(&self) -> bool {
        self.is_concurrent()
    }

    /// Whether an instance can answer several calls at a time.
    pub fn is_concurrent(&self) -> bool {
        matches!(self, Self::Service(_))
    }
}

impl Handler {
    /// Puts the request to the instance and runs it to the end, which is also the end of whatever the
    /// guest does after it has answered.
    pub async fn handle(
        &self,
        store: &mut Store<Guest>,
        request: Request<HttpBody>,
        tell: oneshot::Sender<Answer>,
    ) -> Result<(), Failure> {
        match self {
            Self::Incoming(proxy) => {
                let request = request.map(|body| body.map_err(failed));
                let mut view = store.data_mut().http();
                let put = view.new_incoming_request(IncomingScheme::Http, request).and_then(|request| {
                    let out = move |answer: Result<_, _>| drop(tell.send(answer.map_err(Error::from)));
                    Ok((request, view.new_response_outparam_from_callback(out)?))
                });
                let (request, out) = put.map_err(Failure::NotPut)?;
                let called = proxy.wasi_http_incoming_handler().call_handle(store, request, out).await;
                called.map_err(Failure::Ended)
            }
            Self::Service(service) => {
                let ran = store.run_concurrent(async |guest| {
                    let _ = tell.send(answer(guest, service, request).await?);
                    poll_fn(|cx| guest.poll_no_interesting_tasks(cx)).await;
                    wasmtime::Result::<()>::Ok(())
                });
                let ran = ran.await;
                ran.flatten().map_err(Failure::Ended)
            }
        }
    }
}

fn failed(error: BoxError) -> Error {
    Error::InternalError(Some(error.to_string()))
}

/// Puts one request to an instance that may have others. The guest may go on when it has answered.
pub async fn answer(
    guest: &Accessor<Guest>,
    service: &Service,
    request: Request<HttpBody>,
) -> wasmtime::Result<Answer> {
    let request: Request<WasiBody> = with_uri(request).map(|body| body.map_err(failed).boxed_unsync());
    let (request, taken) = guest.with(|mut store| {
        let (request, taken) = p3::Request::from_http(store.data_mut().http().hooks, request);
        (request, Box::pin(taken) as BoxFuture<'static, _>)
    });
    Ok(match service.handle(guest, request).await? {
        // What becomes of the request's body is what the guest is told of the response.
        Ok(response) => Ok(guest.with(|mut store| response.into_http(store.as_context_mut(), taken))?),
        Err(code) => Err(code.into()),
    })
}

/// In 0.3 the scheme and the authority are told by the URI alone.
fn with_uri<B>(mut request: Request<B>) -> Request<B> {
    let host = request.headers().get(http::header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = request.uri().clone().into_parts();
    parts.authority = parts.authority.or(host);
    parts.scheme = parts.scheme.or(Some(Scheme::HTTP));
    parts.path_and_query = parts.path_and_query.or(Some(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_tells_scheme_and_authority() {
        let cases = [
            ("/a?b", Some("cart:80"), "http://cart:80/a?b"),
            ("https://shop/x", Some("cart"), "https://shop/x"),
            ("/a", None, "/a"),
            ("/a", Some("not a host"), "/a"),
        ];
        for (uri, host, told) in cases {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(http::header::HOST, host);
            }
            assert_eq!(with_uri(request.body(()).unwrap()).uri().to_string(), told);
        }
    }
}
