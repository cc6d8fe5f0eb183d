//! The node's certificate, towards the API server and towards those who call the node.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::config::NodeTls;

/// Presents the node's certificate and trusts the cluster's authority.
pub fn client(tls: &NodeTls) -> anyhow::Result<Arc<ClientConfig>> {
    let (chain, key) = identity(tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(tls)?)
        .with_client_auth_cert(chain, key)
        .context("the node's certificate and key do not fit")?;
    Ok(Arc::new(config))
}

/// Lets in only those whose certificate the cluster's authority has signed.
pub fn server(tls: &NodeTls) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain, key) = identity(tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(tls)?, provider.clone()).build()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the node's certificate and key do not fit")?;
    Ok(Arc::new(config))
}

fn roots(tls: &NodeTls) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(tls.ca_pem.as_bytes()) {
        roots.add(certificate.context("the cluster's authority is not PEM")?)?;
    }
    Ok(Arc::new(roots))
}

fn identity(tls: &NodeTls) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tls.cert_pem.as_bytes()).collect();
    let chain = chain.context("the node's certificate is not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes()).context("the node's key is not PEM")?;
    Ok((chain, key))
}
