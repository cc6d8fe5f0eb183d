//! What a registry or the way to it did wrong: which registry, what it answered, what to do next.

use std::error::Error as StdError;

use oci_client::Reference;
use oci_client::errors::{OciDistributionError, OciErrorCode};

/// What whoever asked can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The registry wants other credentials.
    Unauthorized,
    /// It does not have it.
    NotFound,
    /// It cannot be reached or trusted, or is out of order.
    Unreachable,
    /// What it gave is not what it should be, or is nothing that could run.
    Invalid,
    /// This machine's disk.
    Disk,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    message: String,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    pub(super) fn disk(what: &str, error: &std::io::Error) -> Error {
        Error::new(ErrorKind::Disk, format!("cannot keep {what} on this node's disk: {error}"))
    }

    /// What the registry of `reference` answered to an attempt to get or put it.
    pub(super) fn answered(reference: &Reference, error: &OciDistributionError) -> Error {
        let registry = reference.resolve_registry();
        let (kind, what) = explain(reference, error);
        Error::new(kind, format!("registry {registry} {what}"))
    }
}

fn explain(reference: &Reference, error: &OciDistributionError) -> (ErrorKind, String) {
    let name = reference.to_string();
    match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            (ErrorKind::Unauthorized, unauthorized("401 Unauthorized"))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let code = envelope.errors.first().map(|error| &error.code);
            let said: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            let said = said.join("; ");
            match code {
                Some(
                    OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown
                    | OciErrorCode::ManifestBlobUnknown,
                ) => (ErrorKind::NotFound, not_found(&name, &said)),
                Some(OciErrorCode::Unauthorized) => (ErrorKind::Unauthorized, unauthorized("401 Unauthorized")),
                Some(OciErrorCode::Denied) => (ErrorKind::Unauthorized, unauthorized("403 Forbidden")),
                Some(OciErrorCode::Toomanyrequests) => (
                    ErrorKind::Unreachable,
                    format!("answered 429 Too Many Requests ({said}): it is tried again later"),
                ),
                _ => (ErrorKind::Invalid, format!("refused {name}: {said}")),
            }
        }
        OciDistributionError::ServerError { code: 404, .. } => (ErrorKind::NotFound, not_found(&name, "not found")),
        OciDistributionError::ServerError { code: 403, .. } => (ErrorKind::Unauthorized, unauthorized("403 Forbidden")),
        OciDistributionError::ServerError { code, message, .. } => {
            let said: String = message.trim().chars().take(200).collect();
            (ErrorKind::Unreachable, format!("answered {code} ({said}): see that registry's log, or try again later"))
        }
        OciDistributionError::RequestError(error) => (ErrorKind::Unreachable, unreachable(error)),
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ImageIndexParsingNoPlatformResolverError => (
            ErrorKind::Invalid,
            format!("has {name} for other platforms only: build it for wasip1, wasip2 or this machine's platform"),
        ),
        other => (ErrorKind::Invalid, format!("gave an answer for {name} that cannot be used: {}", chain(other))),
    }
}

fn unauthorized(status: &str) -> String {
    format!(
        "answered {status}: it wants other credentials (a pod names a Secret of the type kubernetes.io/dockerconfigjson in imagePullSecrets; a command takes --username and --password-stdin), or there is no such repository"
    )
}

fn not_found(name: &str, said: &str) -> String {
    format!("answered 404 ({said}): it has no {name}; check name and tag, or put it there with `coracle push`")
}

fn unreachable(error: &impl StdError) -> String {
    let text = chain(error);
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        return format!("has a certificate that is not trusted ({text}): give its authority with --registry-ca FILE");
    }
    if text.contains("InvalidContentType") || text.contains("corrupt message") {
        return format!("does not speak TLS ({text}): allow plain HTTP with --insecure-registry HOST:PORT");
    }
    format!("cannot be reached: {text}")
}

/// The error with its causes, each once.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: OciDistributionError) -> (ErrorKind, String) {
        let reference: Reference = "registry.example:5000/team/app:1".parse().expect("a reference");
        let error = Error::answered(&reference, &error);
        (error.kind, error.to_string())
    }

    #[test]
    fn each_answer_names_registry_status_and_next_step() {
        let envelope = |json: &str| OciDistributionError::RegistryError {
            envelope: serde_json::from_str(json).expect("an envelope"),
            url: String::new(),
        };
        let server = |code| OciDistributionError::ServerError { code, url: String::new(), message: "oops".into() };
        let cases = [
            (
                envelope(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
                ErrorKind::NotFound,
                "404 (manifest unknown): it has no registry.example:5000/team/app:1",
            ),
            (envelope(r#"{"errors":[{"code":"DENIED"}]}"#), ErrorKind::Unauthorized, "403 Forbidden"),
            (
                OciDistributionError::UnauthorizedError { url: String::new() },
                ErrorKind::Unauthorized,
                "imagePullSecrets",
            ),
            (server(503), ErrorKind::Unreachable, "answered 503 (oops)"),
            (server(404), ErrorKind::NotFound, "coracle push"),
        ];
        for (error, kind, words) in cases {
            let (found, text) = told(error);
            assert_eq!(found, kind, "{text}");
            assert!(text.starts_with("registry registry.example:5000 ") && text.contains(words), "{text}");
        }
    }
}
