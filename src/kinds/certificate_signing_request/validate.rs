//! What may be wrong with a request for a certificate, and with each way of changing it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::request::Request;
use crate::kinds::common::{list, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{meta, names};

/// The shortest time that a client may ask for.
const MIN_SECONDS: i64 = 600;
const MAX_DOMAIN_BYTES: usize = 253;

/// Sorted, as the errors list them.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub fn create(root: &Field<'_>) -> Errors {
    let mut errors = Errors::default();
    let spec = root.get("spec");
    let request = spec.get("request");
    let pem = STANDARD.decode(request.str()).unwrap_or_default();
    if let Err(why) = Request::read(&pem) {
        errors.invalid_str(&request, why);
    }
    usages(&mut errors, &spec.get("usages"));
    signer_name(&mut errors, &spec.get("signerName"));
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < MIN_SECONDS) {
        errors.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    errors
}

fn usages(errors: &mut Errors, usages: &Field<'_>) {
    if usages.is_empty() {
        errors.required(usages, "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for usage in usages.items() {
        if !USAGES.contains(&usage.str()) {
            errors.not_supported(&usage, USAGES);
        }
        if seen.contains(&usage.str()) {
            errors.duplicate(&usage);
        }
        seen.push(usage.str());
    }
}

fn signer_name(errors: &mut Errors, name: &Field<'_>) {
    if name.is_empty() {
        return errors.required(name, "");
    }
    if name.str() == "kubernetes.io/legacy-unknown" {
        return errors.invalid(name, "the legacy signerName is not allowed via this API version");
    }
    let segments: Vec<&str> = name.str().split('/').collect();
    let [domain, path] = segments.as_slice() else {
        return errors.invalid(name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if domain.len() > MAX_DOMAIN_BYTES {
        errors.too_long(name, MAX_DOMAIN_BYTES);
    }
    let labels: Vec<&str> = domain.split('.').collect();
    if labels.len() < 2 {
        errors.invalid_value(name, *domain, "should be a domain with at least two segments separated by dots");
    }
    for label in labels {
        for message in names::dns1123_label(label) {
            errors.invalid_value(name, *domain, format!("validating label {label:?}: {message}"));
        }
    }
    for label in path.split('.') {
        for message in names::dns1123_subdomain(label) {
            errors.invalid_value(name, *path, format!("validating label {label:?}: {message}"));
        }
    }
}

/// A status may bring a certificate and say that signing has failed; approval is not its business.
pub fn status(new: &Value, old: &Value) -> Errors {
    let mut errors = kept(new, old);
    conditions(&mut errors, new);
    let at = Field::root(new).get("status");
    for kind in ["Approved", "Denied"] {
        let (now, before) = (of_type(new, kind), of_type(old, kind));
        let at = at.get("conditions");
        if now.len() > before.len() {
            errors.forbidden(&at, format!("updates may not add a condition of type {kind:?}"));
        } else if now.len() == before.len() && !now.iter().zip(&before).all(|(a, b)| meta::same(a, b)) {
            errors.forbidden(&at, format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    let (certificate, before) = (at.get("certificate"), text(old, "/status/certificate"));
    match (before, certificate.str()) {
        ("", "") => {}
        ("", given) => {
            if let Err(why) = check_certificates(given) {
                errors.push(
                    crate::kinds::field::Reason::Invalid,
                    &certificate.path,
                    Some("<certificate data>".into()),
                    why,
                );
            }
        }
        (before, "") if !before.is_empty() => {
            errors.forbidden(&certificate, "updates may not remove certificate content")
        }
        (before, now) if before != now => {
            errors.forbidden(&certificate, "updates may not modify existing certificate content");
        }
        _ => {}
    }
    errors
}

/// An approval changes conditions and nothing else.
pub fn approval(new: &Value, old: &Value) -> Errors {
    let mut errors = kept(new, old);
    conditions(&mut errors, new);
    errors
}

/// What has been decided stays decided.
fn kept(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    let at = Field::root(new).get("status").get("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            errors.forbidden(&at, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    errors
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(object, "/status/conditions").iter().filter(|condition| condition["type"] == kind).collect()
}

fn conditions(errors: &mut Errors, object: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in Field::root(object).get("status").get("conditions").items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.is_empty() {
            errors.required(&kind, "");
        }
        let allowed: &[&str] = match kind.str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.required(&status, "");
        } else if !allowed.contains(&status.str()) {
            errors.not_supported(&status, allowed);
        }
        let opposite = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && seen.contains(&opposite) {
            errors.invalid(&kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind.str()) {
            errors.duplicate(&kind);
        }
        seen.push(kind.str());
    }
}

/// One certificate at least, and nothing but certificates.
fn check_certificates(base64: &str) -> Result<(), String> {
    let pem = STANDARD.decode(base64).unwrap_or_default();
    let mut count = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem) {
        let block = block.map_err(|error| format!("invalid PEM: {error}"))?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        block.parse_x509().map_err(|error| format!("invalid certificate: {error}"))?;
        count += 1;
    }
    if count == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A request as base64 of PEM.
    fn request() -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["n1".to_owned()]).expect("names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "jo");
        STANDARD.encode(params.serialize_request(&key).expect("a request").pem().expect("PEM"))
    }

    fn paths(errors: &Errors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_must_be_one() {
        let whole = json!({"spec": {"request": request(), "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client"}});
        assert_eq!(paths(&create(&Field::root(&whole))), Vec::<String>::new());
        let bad = json!({"spec": {"request": STANDARD.encode("x"), "usages": ["client auth", "client auth", "odd"],
            "signerName": "here", "expirationSeconds": 60}});
        let told = paths(&create(&Field::root(&bad)));
        assert!(told[0].contains("PEM block type must be CERTIFICATE REQUEST"), "{told:?}");
        assert!(told[1].starts_with("spec.usages[1]: Duplicate value"));
        assert!(told[2].starts_with("spec.usages[2]: Unsupported value: \"odd\""));
        assert!(told[3].contains("of the form 'example.com/signer-name'"));
        assert!(told[4].contains("less than 600 seconds"));
    }

    #[test]
    fn what_a_request_says() {
        let pem = STANDARD.decode(request()).expect("base64");
        let said = Request::read(&pem).expect("a request");
        assert_eq!((said.common_name.as_str(), said.dns_names.as_slice()), ("jo", &["n1".to_owned()][..]));
        let mut forged = String::from_utf8(pem).expect("PEM");
        let at = forged.len() / 2;
        let other = if &forged[at..=at] == "A" { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        assert!(Request::read(forged.as_bytes()).is_err(), "a bit more or less");
    }

    #[test]
    fn approval_is_not_a_matter_of_the_status_nor_taken_back() {
        let object = |conditions: Value| json!({"status": {"conditions": conditions}});
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let (none, yes) = (object(json!([])), object(approved));
        assert!(paths(&status(&yes, &none))[0].contains("may not add a condition of type \"Approved\""));
        assert!(paths(&approval(&none, &yes))[0].contains("may not remove a condition of type \"Approved\""));
        assert!(approval(&yes, &none).is_empty());
        let both = object(json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]));
        assert!(paths(&approval(&both, &yes))[0].contains("mutually exclusive"));
        let odd = object(json!([{"type": "Approved", "status": "False"}]));
        assert!(paths(&approval(&odd, &none))[0].contains("supported values: \"True\""));
        let mut issued = yes.clone();
        issued["status"]["certificate"] = STANDARD.encode("no certificate").into();
        assert!(paths(&status(&issued, &yes))[0].starts_with("status.certificate: Invalid value"));
    }
}
