//! Certificates for whoever's request was approved: the subject, key and names of the request, taken
//! over byte for byte, under the cluster's authority (RFC 5280, section 4.1).
//!
//! Written here field by field, because a library that builds certificates from parameters loses what
//! it has no parameter for: a second group of a user, for one.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::SigningKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::pki::Pki;
use crate::kinds::certificate_signing_request::request::Request;

/// Valid from a little before now, for those whose clocks are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// How long a certificate lasts where nothing shorter is asked for.
const DEFAULT_SECONDS: i64 = 365 * 24 * 3600;

/// Bits of `keyUsage`, by their names in the API.
const KEY_USAGES: &[(&str, u8)] = &[
    ("digital signature", 0),
    ("signing", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Object identifiers of extended usages, as DER has them.
const EXTENDED: &[(&str, &[u8])] = &[
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
];

const SEQUENCE: u8 = 0x30;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The last year that a UTCTime can say.
const LAST_SHORT_YEAR: i16 = 2049;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

impl Pki {
    /// A certificate, PEM, for the PEM request: for these usages, and as long as `seconds` at most.
    pub fn issue(&self, request: &[u8], usages: &[&str], seconds: Option<i64>) -> Result<String> {
        let request = Request::read(request).map_err(anyhow::Error::msg).context("the signing request is not valid")?;
        let (_, block) = x509_parser::pem::parse_x509_pem(self.ca_pem.as_bytes()).context("the authority is no PEM")?;
        let authority = block.parse_x509().context("the authority's certificate cannot be read")?;
        let body = to_be_signed(&authority, &request, usages, seconds, Timestamp::now())?;
        let signature = self.issuer.key().sign(&body).context("cannot sign the certificate")?;
        let bits = [&[0][..], &signature].concat();
        let whole = tlv(SEQUENCE, &[&body, &algorithm(&authority)?, &tlv(BIT_STRING, &[&bits])]);
        Ok(pem(&whole))
    }
}

fn to_be_signed(
    authority: &X509Certificate<'_>,
    request: &Request,
    usages: &[&str],
    seconds: Option<i64>,
    now: Timestamp,
) -> Result<Vec<u8>> {
    let lifetime = seconds.unwrap_or(DEFAULT_SECONDS).clamp(1, DEFAULT_SECONDS);
    let begins = now.checked_sub(BACKDATE)?;
    let ends = now.checked_add(SignedDuration::from_secs(lifetime))?;
    // Nothing outlives its authority.
    let last = Timestamp::from_second(authority.validity().not_after.timestamp())?;
    let ends = ends.min(last);
    if ends <= now {
        bail!("the cluster's authority has ended");
    }
    let version = tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]);
    let validity = tlv(SEQUENCE, &[&time(begins), &time(ends)]);
    let extensions = tlv(0xa3, &[&tlv(SEQUENCE, &[&extensions(authority, request, usages)])]);
    Ok(tlv(
        SEQUENCE,
        &[
            &version,
            &serial_number(),
            &algorithm(authority)?,
            authority.subject().as_raw(),
            &validity,
            &request.subject,
            &request.public_key,
            &extensions,
        ],
    ))
}

/// Random, positive, twenty bytes at most.
fn serial_number() -> Vec<u8> {
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    tlv(INTEGER, &[&bytes])
}

/// How the authority signs: as it has signed itself. The bytes are those of its own certificate.
fn algorithm(authority: &X509Certificate<'_>) -> Result<Vec<u8>> {
    let identifier = &authority.signature_algorithm;
    let parameters = match &identifier.parameters {
        None => Vec::new(),
        // Of the algorithms in use only RSA's have any, and they are NULL.
        Some(any) if any.data.is_empty() => vec![0x05, 0x00],
        Some(_) => bail!("the authority's signature algorithm has parameters that are not known here"),
    };
    Ok(tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[identifier.algorithm.as_bytes()]), &parameters]))
}

fn extensions(authority: &X509Certificate<'_>, request: &Request, usages: &[&str]) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(bits) = key_usage(usages) {
        all.extend(extension(KEY_USAGE, true, &bits));
    }
    let purposes: Vec<u8> = EXTENDED
        .iter()
        .filter(|(name, _)| usages.contains(name))
        .flat_map(|(_, identifier)| tlv(OBJECT_IDENTIFIER, &[identifier]))
        .collect();
    if !purposes.is_empty() {
        all.extend(extension(EXTENDED_KEY_USAGE, false, &tlv(SEQUENCE, &[&purposes])));
    }
    all.extend(extension(BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[])));
    let key = authority.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    if let Some(key) = key {
        all.extend(extension(AUTHORITY_KEY, false, &tlv(SEQUENCE, &[&tlv(0x80, &[key])])));
    }
    if let Some(names) = &request.alternatives {
        // An empty subject is an empty sequence: two bytes. Then the names are all there is.
        all.extend(extension(ALTERNATIVE_NAMES, request.subject.len() <= 2, names));
    }
    all
}

fn extension(identifier: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(BOOLEAN, &[&[0xff]]) } else { Vec::new() };
    tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[identifier]), &critical, &tlv(OCTET_STRING, &[value])])
}

fn key_usage(usages: &[&str]) -> Option<Vec<u8>> {
    let set: Vec<u8> = KEY_USAGES.iter().filter(|(name, _)| usages.contains(name)).map(|(_, bit)| *bit).collect();
    let last = *set.iter().max()?;
    let mut bits = vec![0_u8; usize::from(last / 8) + 1];
    for bit in set {
        bits[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    // The first byte counts the unused bits of the last.
    Some(tlv(BIT_STRING, &[&[7 - last % 8], &bits]))
}

fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if at.year() <= LAST_SHORT_YEAR {
        tlv(UTC_TIME, &[at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()])
    } else {
        tlv(GENERALIZED_TIME, &[at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()])
    }
}

/// Tag, length, value.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let used = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
            out.push(0x80 | used.len() as u8);
            out.extend(used);
        }
    }
    parts.iter().for_each(|part| out.extend(*part));
    out
}

fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_has_what_was_asked_for_and_the_authoritys_signature() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(dir.path(), &["localhost".to_owned()], &[]).expect("a pki");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["n1.example".to_owned(), "127.0.0.9".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "jo");
        params.distinguished_name.push(DnType::OrganizationName, "team");
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let usages = ["client auth", "digital signature", "key encipherment", "decipher only"];
        let pem = pki.issue(request.as_bytes(), &usages, Some(3600)).expect("a certificate");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let made = block.parse_x509().expect("a certificate");
        let (_, block) = x509_parser::pem::parse_x509_pem(pki.ca_pem.as_bytes()).expect("PEM");
        let authority = block.parse_x509().expect("a certificate");
        made.verify_signature(Some(authority.public_key())).expect("the authority's signature");
        assert_eq!(made.issuer().to_string(), authority.subject().to_string());
        let subject = made.subject().to_string();
        assert!(subject.contains("CN=jo") && subject.contains("O=team"), "{subject}");
        assert_eq!(made.public_key().raw, Request::read(request.as_bytes()).expect("a request").public_key);
        let usage = made.key_usage().expect("readable").expect("there").value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.decipher_only() && !usage.crl_sign());
        let purposes = made.extended_key_usage().expect("readable").expect("there").value;
        assert!(purposes.client_auth && !purposes.server_auth);
        assert!(!made.is_ca());
        let names = made.subject_alternative_name().expect("readable").expect("there").value;
        assert_eq!(names.general_names.len(), 2);
        let validity = made.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3600 + BACKDATE.as_secs());
        assert!(pki.issue(b"nonsense", &usages, None).is_err());
    }

    #[test]
    fn lengths_and_times_have_their_short_and_long_forms() {
        assert_eq!(tlv(SEQUENCE, &[&[1, 2]]), [0x30, 2, 1, 2]);
        assert_eq!(tlv(SEQUENCE, &[&[0; 200]])[..3], [0x30, 0x81, 200]);
        assert_eq!(tlv(SEQUENCE, &[&[0; 300]])[..4], [0x30, 0x82, 1, 44]);
        let at = |text: &str| time(text.parse().expect("a time"));
        assert_eq!(at("2026-01-02T03:04:05Z"), [&[UTC_TIME, 13][..], b"260102030405Z"].concat());
        assert_eq!(at("2050-01-02T03:04:05Z"), [&[GENERALIZED_TIME, 15][..], b"20500102030405Z"].concat());
    }
}
