//! The cluster's own certificate authority: made at the first start, kept in a private directory.
//!
//! ```text
//! pki/ca.crt, ca.key                     the authority, ten years
//! pki/apiserver.crt, apiserver.key       the server's own, made anew when its names change or it ages
//! pki/kubelet-client.crt, …key           what the server shows to the node agents
//! pki/admin.crt, admin.key               what the administrator's kubeconfig holds
//! pki/front-proxy-client.crt, …key       what the server shows to API servers behind it
//! pki/sa.key                             signs the tokens of service accounts: see `accounts`
//! ```
//!
//! Private keys never leave the machine that made them: a node that joins sends a signing request.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::MASTERS;

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The authority and what it has issued to the server itself.
pub struct Pki {
    pub ca_pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub server: Credentials,
    pub node_client: Credentials,
    pub admin: Credentials,
    /// What the server shows to API servers behind it.
    pub front_proxy: Credentials,
}

/// Whom other API servers believe who asks.
pub const FRONT_PROXY: &str = "front-proxy-client";
/// How long the authority lasts, in years.
const CA_YEARS: i16 = 10;
/// How long what it issues lasts. Renewed when less than a third is left, at a start of the process.
const LEAF_DAYS: i64 = 365;

impl Pki {
    /// Opens the authority in `dir`, or makes it. `names` and `addresses` are those that the API
    /// server is reached by.
    pub fn open(dir: &Path, names: &[String], addresses: &[IpAddr]) -> Result<Self> {
        create_private_dir(dir)?;
        let (ca_pem, issuer) = open_authority(dir)?;
        let server = leaf(dir, "apiserver", &issuer, &ca_pem, &Subject::server(names, addresses))?;
        let node_client =
            leaf(dir, "kubelet-client", &issuer, &ca_pem, &Subject::client("kube-apiserver-kubelet-client"))?;
        let admin = leaf(dir, "admin", &issuer, &ca_pem, &Subject::client("coracle-admin"))?;
        let front_proxy = leaf(dir, "front-proxy-client", &issuer, &ca_pem, &Subject::front_proxy())?;
        Ok(Self { ca_pem, issuer, server, node_client, admin, front_proxy })
    }

    /// Signs a node's request: whatever subject it asks for, it gets its own name, and may use the
    /// certificate as client and as server under its addresses.
    pub fn sign_node(&self, name: &str, addresses: &[IpAddr], csr_pem: &str) -> Result<String> {
        let mut request =
            CertificateSigningRequestParams::from_pem(csr_pem).context("the signing request is not valid")?;
        request.params = Subject::node(name, addresses).params()?;
        Ok(request.signed_by(&self.issuer).context("cannot sign the node's certificate")?.pem())
    }

    /// `sha256:<hex>` of the authority's certificate: what a join token pins.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.ca_pem)
    }
}

/// `sha256:<hex>` of a PEM certificate's text.
pub fn fingerprint(pem: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(pem.trim().as_bytes());
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A new key and a request that a server may sign with [`Pki::sign_node`].
pub fn signing_request() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let request = CertificateParams::default().serialize_request(&key).context("cannot make a signing request")?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// Who a certificate is for and what it may be used as.
#[derive(PartialEq)]
struct Subject {
    name: String,
    groups: Vec<String>,
    alternatives: Vec<SanType>,
    server: bool,
    client: bool,
}

impl Subject {
    fn server(names: &[String], addresses: &[IpAddr]) -> Self {
        let mut alternatives: Vec<SanType> = addresses.iter().map(|ip| SanType::IpAddress(*ip)).collect();
        alternatives.extend(names.iter().filter_map(|name| name.as_str().try_into().ok().map(SanType::DnsName)));
        Self { name: "kube-apiserver".into(), groups: Vec::new(), alternatives, server: true, client: false }
    }

    fn client(name: &str) -> Self {
        let groups = vec![MASTERS.to_owned()];
        Self { name: name.to_owned(), groups, alternatives: Vec::new(), server: false, client: true }
    }

    /// Nobody's name: with it one may only say for whom one asks.
    fn front_proxy() -> Self {
        let (groups, alternatives) = (Vec::new(), Vec::new());
        Self { name: FRONT_PROXY.to_owned(), groups, alternatives, server: false, client: true }
    }

    fn node(name: &str, addresses: &[IpAddr]) -> Self {
        let mut alternatives: Vec<SanType> = addresses.iter().map(|ip| SanType::IpAddress(*ip)).collect();
        alternatives.extend(name.try_into().ok().map(SanType::DnsName));
        let groups = vec![super::NODES.to_owned()];
        Self { name: format!("system:node:{name}"), groups, alternatives, server: true, client: true }
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        for group in &self.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.subject_alt_names = self.alternatives.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        if self.server {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if self.client {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, LEAF_DAYS);
        Ok(params)
    }
}

/// From yesterday, so that a peer whose clock is behind accepts it too.
fn valid_for(params: &mut CertificateParams, days: i64) {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let at = |days: i64| {
        let date = today.saturating_add(jiff::Span::new().days(days));
        rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
    };
    params.not_before = at(-1);
    params.not_after = at(days);
}

fn open_authority(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>)> {
    let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    if !cert.exists() && !key.exists() {
        make_authority(&cert, &key)?;
    }
    let ca_pem = fs::read_to_string(&cert).with_context(|| format!("cannot read {}", cert.display()))?;
    let key_pem = fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    let pair = KeyPair::from_pem(&key_pem).with_context(|| format!("{} is not a private key", key.display()))?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca_pem, pair).with_context(|| format!("{} is not a certificate", cert.display()))?;
    Ok((ca_pem, issuer))
}

fn make_authority(cert: &Path, key: &Path) -> Result<()> {
    let pair = KeyPair::generate().context("cannot make the authority's key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "coracle-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, i64::from(CA_YEARS) * 365);
    let authority = params.self_signed(&pair).context("cannot sign the authority's certificate")?;
    write_private(key, &pair.serialize_pem())?;
    write_private(cert, &authority.pem())
}

/// Reads a certificate of the server's own, or issues it: when it is missing, was made for other
/// names, by another authority, or will soon end.
fn leaf(
    dir: &Path,
    file: &str,
    issuer: &Issuer<'static, KeyPair>,
    ca_pem: &str,
    subject: &Subject,
) -> Result<Credentials> {
    let (cert, key, stamp) = (named(dir, file, "crt"), named(dir, file, "key"), named(dir, file, "for"));
    let wanted = stamp_of(subject, ca_pem);
    if let (Ok(cert_pem), Ok(key_pem), Ok(made_for)) =
        (fs::read_to_string(&cert), fs::read_to_string(&key), fs::read_to_string(&stamp))
        && made_for == wanted
        && !ages(&cert_pem)
    {
        return Ok(Credentials { cert_pem, key_pem });
    }
    let pair = KeyPair::generate().with_context(|| format!("cannot make the key of {file}"))?;
    let cert_pem = subject.params()?.signed_by(&pair, issuer).with_context(|| format!("cannot sign {file}"))?.pem();
    let key_pem = pair.serialize_pem();
    write_private(&key, &key_pem)?;
    write_private(&cert, &cert_pem)?;
    write_private(&stamp, &wanted)?;
    Ok(Credentials { cert_pem, key_pem })
}

fn named(dir: &Path, file: &str, extension: &str) -> PathBuf {
    dir.join(format!("{file}.{extension}"))
}

/// What a certificate was made for; when it differs the certificate is made anew.
fn stamp_of(subject: &Subject, ca_pem: &str) -> String {
    format!("{} {:?} {:?} {}\n", subject.name, subject.groups, subject.alternatives, fingerprint(ca_pem))
}

/// Whether less than a third of the certificate's life is left, or it cannot be read.
fn ages(cert_pem: &str) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else { return true };
    let Ok(cert) = pem.parse_x509() else { return true };
    let ends = cert.validity().not_after.timestamp();
    jiff::Timestamp::now().as_second() > ends - LEAF_DAYS * 24 * 3600 / 3
}

/// Makes `dir`, for its owner's eyes alone.
pub fn create_private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if dir.is_dir() {
        let mode = fs::metadata(dir)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                .with_context(|| format!("cannot make {} private", dir.display()))?;
        }
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let Some(dir) = path.parent() else { bail!("{} has no directory", path.display()) };
    let temporary =
        dir.join(format!(".{}.{}", path.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, names: &[&str]) -> Pki {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Pki::open(dir, &names, &["127.0.0.1".parse().expect("an address")]).expect("a pki")
    }

    #[test]
    fn a_second_open_finds_what_the_first_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path(), &["localhost"]);
        let second = open(dir.path(), &["localhost"]);
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(first.server.cert_pem, second.server.cert_pem);
        assert_eq!(first.admin.key_pem, second.admin.key_pem);
    }

    #[test]
    fn other_names_make_a_new_server_certificate_under_the_same_authority() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path(), &["localhost"]);
        let second = open(dir.path(), &["localhost", "example.org"]);
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_ne!(first.server.cert_pem, second.server.cert_pem);
        assert_eq!(first.admin.cert_pem, second.admin.cert_pem);
    }

    #[test]
    fn a_node_gets_its_own_name_whatever_it_asks_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = open(dir.path(), &["localhost"]);
        let key = KeyPair::generate().expect("a key");
        let mut greedy = CertificateParams::default();
        greedy.distinguished_name.push(DnType::OrganizationName, MASTERS);
        let request = greedy.serialize_request(&key).expect("a request").pem().expect("pem");
        let cert = pki.sign_node("node-7", &[], &request).expect("a certificate");
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).expect("pem");
        let cert = pem.parse_x509().expect("a certificate");
        assert_eq!(cert.subject().to_string(), "CN=system:node:node-7, O=system:nodes");
    }

    #[test]
    fn private_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path(), &["localhost"]);
        for file in fs::read_dir(dir.path()).expect("files") {
            let mode = file.expect("a file").metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
    }
}
