//! The joining machine's side of `/coracle/v1/join`.
//!
//! What is got is kept in the node's directory, so that a node that starts again needs no token.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::apiserver::auth::pki::{create_private_dir, fingerprint, signing_request, write_private};
use crate::apiserver::auth::tokens::JoinToken;
use crate::apiserver::join::{JoinRequest, Joined};

/// A node's credentials.
#[derive(Debug, Clone)]
pub struct Membership {
    pub joined: Joined,
    pub key_pem: String,
}

const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is a few KiB; more is not from our server.
const MAX_ANSWER: usize = 1 << 20;

/// Reads what an earlier join left in `dir`; `None` if there is nothing.
pub fn membership(dir: &Path) -> Result<Option<Membership>> {
    let (file, key) = (dir.join("joined.json"), dir.join("node.key"));
    if !file.exists() || !key.exists() {
        return Ok(None);
    }
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let joined = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: remove it to join again", file.display()))?;
    let key_pem = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    Ok(Some(Membership { joined, key_pem }))
}

/// Joins the cluster of `server` and keeps the credentials in `dir`.
pub async fn join(server: &str, token: &str, name: &str, addresses: &[IpAddr], dir: &Path) -> Result<Membership> {
    create_private_dir(dir)?;
    let parsed = JoinToken::parse(token)?;
    let ca = fetch_authority(server, &parsed).await?;
    let (key_pem, csr) = signing_request()?;
    let body = serde_json::to_vec(&JoinRequest { name: name.to_owned(), addresses: addresses.to_vec(), csr })?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{server}/coracle/v1/join"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Full::from(body))?;
    let answer = call(trusting(&ca)?, request).await.context("the server refused the join")?;
    let joined: Joined = serde_json::from_slice(&answer).context("the server's answer is not one to a join")?;
    write_private(&dir.join("node.key"), &key_pem)?;
    write_private(&dir.join("joined.json"), &serde_json::to_string(&joined)?)?;
    Ok(Membership { joined, key_pem })
}

/// The authority's certificate, which nothing but the token's fingerprint vouches for.
async fn fetch_authority(server: &str, token: &JoinToken) -> Result<String> {
    let request = Request::get(format!("{server}/coracle/v1/ca")).body(Full::default())?;
    let answer = call(trusting_anyone()?, request).await.with_context(|| format!("cannot reach {server}"))?;
    let pem = String::from_utf8(answer).context("the server's authority is not text")?;
    if fingerprint(&pem) != token.fingerprint {
        bail!(
            "{server} is not the server that this token is for: its authority is {}, the token's {}",
            fingerprint(&pem),
            token.fingerprint
        );
    }
    Ok(pem)
}

async fn call(tls: ClientConfig, request: Request<Full<bytes::Bytes>>) -> Result<Vec<u8>> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let exchange = async {
        let response = client.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| anyhow::anyhow!(e))?;
        let bytes = body.to_bytes().to_vec();
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&bytes).trim());
        }
        Ok(bytes)
    };
    tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
}

fn trusting(ca_pem: &str) -> Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(authority?)?;
    }
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

fn trusting_anyone() -> Result<ClientConfig> {
    Ok(builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}

/// Accepts every server: only for fetching the authority, which is then checked against the token.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
