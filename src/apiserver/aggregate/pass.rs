//! Passing a request on to another API server, and its answer back.
//!
//! Bodies are streamed both ways and never collected, but for the lists of resources that discovery is
//! made of. The other server must show a certificate for `SERVICE.NAMESPACE.svc` of the authority that
//! the APIService gives, unless it says to trust anything.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;

use super::{Remote, place};
use crate::apiserver::ApiServer;
use crate::apiserver::auth::User;
use crate::apiserver::auth::pki::Credentials;
use crate::apiserver::status::ApiError;
use crate::apiserver::webhook::trust::machine;
use crate::kinds::common::text;

pub type RemoteClient = Client<HttpsConnector<HttpConnector>, Body>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other server may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest list of resources that is kept.
const MAX_RESOURCES_BYTES: usize = 4 << 20;

/// What concerns one connection only (RFC 9110, section 7.6.1), and what this server settles itself.
pub const HOP_BY_HOP: &[HeaderName] = &[
    header::AUTHORIZATION,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub async fn pass(
    server: &ApiServer,
    user: &User,
    remote: &Remote,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let spec = &remote.service["spec"];
    let (namespace, name) = (text(spec, "/service/namespace"), text(spec, "/service/name"));
    let address = place::endpoint(server, namespace, name, spec["service"]["port"].as_i64().unwrap_or(443))?;
    let key = format!("{namespace}/{name} {} {}", spec["insecureSkipTLSVerify"], spec["caBundle"]);
    let client = match server.aggregate.client(&key) {
        Some(client) => client,
        None => {
            let made = client(server, spec, &format!("{name}.{namespace}.svc")).await?;
            server.aggregate.keep_client(key, made)
        }
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = format!("https://{address}{path}").parse().map_err(ApiError::internal)?;
    *request.headers_mut() = headers(user, &parts.headers);
    let unreachable =
        |why: String| ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"));
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.request(request)).await;
    let answer = answer.map_err(|_| unreachable("no answer in time".to_owned()))?.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        unreachable(cause)
    })?;
    let (mut head, body) = answer.into_parts();
    for name in HOP_BY_HOP {
        head.headers.remove(name);
    }
    if !remote.target.is_resource() && head.status == StatusCode::OK {
        let body = Limited::new(body, MAX_RESOURCES_BYTES).collect().await;
        let bytes = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        if let Ok(list) = serde_json::from_slice::<Value>(&bytes)
            && list["kind"] == "APIResourceList"
        {
            server.aggregate.keep(&remote.group, &remote.version, list);
        }
        return Ok(Response::from_parts(head, Body::from(bytes)));
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

/// The client's headers, without what only this server may say, and with who asks.
fn headers(user: &User, sent: &HeaderMap) -> HeaderMap {
    let mut headers = sent.clone();
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("x-remote-") || name.starts_with("impersonate-")
        })
        .cloned()
        .collect();
    for name in claims.iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
    let mut say = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    say("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        say("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        say("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, NON_ALPHANUMERIC)).to_lowercase();
        values.iter().for_each(|value| say(&name, value));
    }
    headers
}

async fn client(server: &ApiServer, spec: &Value, name: &str) -> Result<RemoteClient, ApiError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_nodelay(true);
    let tls = tls(spec, server.proxy_identity.as_ref()).await.map_err(ApiError::internal)?;
    let name = ServerName::try_from(name.to_owned()).map_err(ApiError::internal)?;
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .enable_http2()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new()).build(https))
}

async fn tls(spec: &Value, own: Option<&Credentials>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if spec["insecureSkipTLSVerify"] == true {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider)))
    } else {
        builder.with_root_certificates(roots(text(spec, "/caBundle")).await?)
    };
    Ok(match own {
        Some(own) => {
            let chain = CertificateDer::pem_slice_iter(own.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?)?
        }
        None => builder.with_no_client_auth(),
    })
}

/// The authorities of a bundle (PEM in base64), or where there is none, those that the machine trusts.
async fn roots(bundle: &str) -> anyhow::Result<RootCertStore> {
    if bundle.is_empty() {
        return Ok(machine().await?);
    }
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&STANDARD.decode(bundle)?) {
        roots.add(authority?)?;
    }
    Ok(roots)
}

/// Of a client that takes whatever certificate it is shown.
pub fn trusting_anything() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider)));
    Ok(builder.with_no_client_auth())
}

/// Takes any certificate, because the APIService says so, or because it is a pod's.
#[derive(Debug)]
struct Anything(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_this_server_says_who_asks() {
        let mut sent = HeaderMap::new();
        for (name, value) in
            [("x-remote-user", "root"), ("authorization", "Bearer x"), ("impersonate-user", "a"), ("accept", "a/b")]
        {
            sent.insert(name, HeaderValue::from_static(value));
        }
        let user = User::new("jo", &["team"]).with_extra("a/B", "1");
        let headers = headers(&user, &sent);
        let all = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jo"]);
        assert_eq!(all("x-remote-group"), ["team", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-a%2fb"), ["1"]);
        assert_eq!(all("accept"), ["a/b"]);
        assert!(!headers.contains_key("authorization") && !headers.contains_key("impersonate-user"));
    }
}
