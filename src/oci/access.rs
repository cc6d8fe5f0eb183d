//! How a registry is spoken to: over TLS that is verified, unless it is on this machine or was named as
//! insecure.
//!
//! A registry on a loopback address may speak plain HTTP, as Docker has it. Which of the two such a
//! registry speaks is asked of the registry, so that one with a certificate still has it verified.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::Context as _;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::manifest::ImageIndexEntry;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::{Error, ErrorKind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that is silent for this long is given up; the pull continues there later.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Which registries are trusted, and how far.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Authorities beside those of the system, DER.
    authorities: Vec<Vec<u8>>,
    /// `HOST[:PORT]` of registries that may speak plain HTTP or have any certificate.
    insecure: Vec<String>,
}

impl Trust {
    /// Reads the authorities; fails on a file without a certificate.
    pub fn read(authority_files: &[PathBuf], insecure: Vec<String>) -> anyhow::Result<Trust> {
        let mut authorities = Vec::new();
        for file in authority_files {
            authorities.extend(certificates(file)?);
        }
        Ok(Trust { authorities, insecure })
    }

    /// A client for `registry`, with no credentials yet. Reads the system's authorities: may block.
    fn client(&self, registry: &str, speech: Speech) -> oci_client::errors::Result<Client> {
        static PROVIDER: Once = Once::new();
        // An error says that another part of the process has installed one.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let der = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Der, data: data.clone() };
        Client::try_from(ClientConfig {
            protocol: if speech == Speech::Plain { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: speech == Speech::UnverifiedTls,
            extra_root_certificates: self.authorities.iter().map(der).collect(),
            platform_resolver: Some(Box::new(choose_platform)),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
            https_proxy: proxy(registry, "HTTPS_PROXY", "https_proxy"),
            http_proxy: proxy(registry, "HTTP_PROXY", "http_proxy"),
            no_proxy: variable("NO_PROXY", "no_proxy"),
            ..ClientConfig::default()
        })
    }
}

/// The proxy that the environment names, but never for this machine itself.
fn proxy(registry: &str, name: &str, other: &str) -> Option<String> {
    variable(name, other).filter(|_| !is_loopback(registry))
}

fn variable(name: &str, other: &str) -> Option<String> {
    std::env::var(name).or_else(|_| std::env::var(other)).ok().filter(|value| !value.is_empty())
}

fn certificates(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read the registry authority {}", file.display()))?;
    let found: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(&text).map(|one| one.map(|one| one.to_vec())).collect();
    let found = found.with_context(|| format!("{} is damaged", file.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} holds no certificate: give a PEM file", file.display());
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Tls,
    UnverifiedTls,
    Plain,
}

/// A client for the registry, which has been asked how it speaks where that is open.
pub(super) async fn open(trust: &Trust, registry: &str) -> Result<Client, Error> {
    let insecure = trust.insecure.iter().any(|one| one == registry);
    let speech = match (insecure || is_loopback(registry)) && speaks_plainly(registry).await {
        true => Speech::Plain,
        false if insecure => Speech::UnverifiedTls,
        false => Speech::Tls,
    };
    let (trust, name) = (trust.clone(), registry.to_owned());
    let made = tokio::task::spawn_blocking(move || trust.client(&name, speech)).await;
    let failed = |why: String| Error::new(ErrorKind::Unreachable, format!("cannot set up TLS for {registry}: {why}"));
    made.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(super::error::chain(&error)))
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether what listens there answers plain HTTP. A server of TLS says 400 to it, or nothing like HTTP.
async fn speaks_plainly(registry: &str) -> bool {
    let probe = async {
        let address = if registry.contains(':') { registry.to_owned() } else { format!("{registry}:80") };
        let mut stream = TcpStream::connect(&address).await?;
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {registry}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = [0; 12];
        let mut length = 0;
        while length < head.len() {
            match stream.read(&mut head[length..]).await? {
                0 => break,
                count => length += count,
            }
        }
        Ok::<bool, std::io::Error>(is_plain_answer(&head[..length]))
    };
    matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(true)))
}

fn is_plain_answer(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(9..12).is_some_and(|code| code != b"400")
}

/// Of an index, the entry for Wasm; else the one for this machine, which may yet hold a module.
fn choose_platform(entries: &[ImageIndexEntry]) -> Option<String> {
    let for_wasm = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| platform.architecture.to_string().starts_with("wasm"))
    };
    let chosen = entries.iter().find(for_wasm).map(|entry| entry.digest.clone());
    chosen.or_else(|| oci_client::client::current_platform_resolver(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["registry.example:5000", "localhost.example", "10.0.0.1:5000", "index.docker.io"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn a_tls_server_is_told_from_a_plain_one() {
        let cases: &[(&[u8], bool)] = &[
            (b"HTTP/1.1 200 ", true),
            (b"HTTP/1.1 401", true),
            (b"HTTP/1.0 400", false),
            (b"\x15\x03\x01\x00\x02\x02\x46", false),
            (b"", false),
        ];
        for (head, plain) in cases {
            assert_eq!(is_plain_answer(head), *plain, "{head:?}");
        }
    }

    #[test]
    fn an_authority_file_must_hold_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "no certificate").expect("a file");
        let error = Trust::read(&[file], Vec::new()).expect_err("refused").to_string();
        assert!(error.contains("holds no certificate"), "{error}");
        assert!(Trust::read(&[dir.path().join("none")], Vec::new()).is_err());
    }
}
