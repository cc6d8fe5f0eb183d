//! Whom a webhook's certificate is believed from: the bundle of its configuration, or, without one, the
//! machine's own authorities.

use std::sync::Arc;

use base64::Engine as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// How to connect to a webhook with this bundle: PEM in base64, or "".
pub async fn config(bundle: &str) -> Result<ClientConfig, String> {
    if bundle.is_empty() {
        let roots = machine().await.map_err(|error| error.to_string())?;
        if roots.is_empty() {
            return Err("the webhook's configuration has no caBundle, and this machine trusts no authority".into());
        }
        return Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    }
    let unusable = |why: String| format!("unable to load root certificates: {why}");
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle).map_err(|e| unusable(e.to_string()))?;
    let trusted: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(trusted.iter().cloned()).0 == 0 {
        return Err(unusable("unable to parse bytes as PEM block".into()));
    }
    let usual = WebPkiServerVerifier::builder(roots.into()).build().map_err(|error| unusable(error.to_string()))?;
    let verifier = Arc::new(Bundle { usual, trusted });
    Ok(ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Whom this machine trusts, read off the serving threads.
pub async fn machine() -> Result<RootCertStore, tokio::task::JoinError> {
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    tokio::task::spawn_blocking(read).await
}

/// The usual rules, and one more, which Go has too: a certificate that is in the bundle itself is
/// believed although it says that it is an authority. `openssl req -x509` makes such certificates.
#[derive(Debug)]
struct Bundle {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usual = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match usual {
            Err(error) if is_authority(&error) && self.trusted.contains(end_entity) => {
                check_itself(end_entity, server_name, now)
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Whether the only complaint is that the server's own certificate may sign others.
fn is_authority(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(why)) if why.to_string().contains("CaUsedAsEndEntity"))
}

/// The time and the name of a certificate that needs no other to be believed.
fn check_itself(cert: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<ServerCertVerified, Error> {
    let bad = Error::InvalidCertificate;
    let (_, parsed) = x509_parser::parse_x509_certificate(cert).map_err(|_| bad(CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if seconds < validity.not_before.timestamp() {
        return Err(bad(CertificateError::NotValidYet));
    }
    if seconds > validity.not_after.timestamp() {
        return Err(bad(CertificateError::Expired));
    }
    // The rules for names do not ask what else the certificate may be used for.
    let parsed = rustls::server::ParsedCertificate::try_from(cert)?;
    rustls::client::verify_server_name(&parsed, name)?;
    Ok(ServerCertVerified::assertion())
}
