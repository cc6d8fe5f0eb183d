//! A `kube::Client` from a router, a kubeconfig or node credentials.
//!
//! Whoever holds one cannot tell the three apart. The client of the server process calls the router as
//! a function: no socket, no TLS, and the identity that the router's own layer gives it.

use std::path::Path;

use anyhow::{Context, Result};
use axum::Router;
use base64::Engine;
use http::{HeaderName, HeaderValue, Request, header};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tower::ServiceExt;

/// What the parts of the server call themselves; the owner of the fields that they write.
const OWN_AGENT: &str = "coracle";
/// Says to our API server that we have no use for `managedFields`; others do not know the header.
const OMIT_OWNERS: HeaderName = HeaderName::from_static("coracle-omit-managed-fields");
/// Says to our API server that a custom resource may come in the version that it is stored in where only
/// its metadata is asked for; others do not know the header.
const ANY_VERSION: HeaderName = HeaderName::from_static("coracle-any-version");
/// What node agents call themselves.
const NODE_AGENT: &str = "coracle-node";

/// A client that calls `router` in this process. The caller has layered the identity onto it.
pub fn in_process(router: Router) -> Client {
    let service = router.map_request(|mut request: Request<kube::client::Body>| {
        let headers = request.headers_mut();
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(OWN_AGENT));
        headers.insert(OMIT_OWNERS, HeaderValue::from_static("true"));
        headers.insert(ANY_VERSION, HeaderValue::from_static("true"));
        request.map(axum::body::Body::new)
    });
    Client::new(service, "default")
}

/// A client of the current context of the kubeconfig `path`.
pub async fn from_kubeconfig(path: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} names no cluster that could be used", path.display()))?;
    Client::try_from(config).context("cannot make a client")
}

/// A client of `server` (a URL) that trusts only the authority `ca_pem` and shows this certificate.
pub fn from_pem(server: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Client> {
    let mut config = Config::new(server.parse().with_context(|| format!("{server} is not a URL"))?);
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca_pem.as_bytes()).collect();
    config.root_cert = Some(authorities?.into_iter().map(|authority| authority.to_vec()).collect());
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    config.auth_info = AuthInfo {
        client_certificate_data: Some(encode(cert_pem)),
        client_key_data: Some(encode(key_pem).into()),
        ..AuthInfo::default()
    };
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(NODE_AGENT)));
    config.headers.push((OMIT_OWNERS, HeaderValue::from_static("true")));
    // A watch may be silent for long; its reader notices a dead server by the end of the connection.
    config.read_timeout = None;
    Client::try_from(config).context("cannot make a client")
}
