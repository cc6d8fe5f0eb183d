//! CertificateSigningRequests: approved ones are signed, nodes' own are approved, old ones go.
//!
//! Which requests a signer takes is its rule (`kinds`); the key that signs is the server's, handed in as
//! a [`Sign`]. A node's request for its client certificate is approved where the node may ask for it
//! itself: a right that roles give, as upstream has it.

mod clean;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kinds::certificate_signing_request::request::Request;
use crate::kinds::certificate_signing_request::{holds, signers};
use crate::kinds::common::{list, text};
use crate::reconcile::{Cluster, ObjectKey, Recorder, Write, WriteError, work};

/// Requests beside each other.
const WORKERS: usize = 4;

/// Makes certificates.
pub trait Sign: Send + Sync {
    /// A PEM certificate for a PEM request, for these usages, for so many seconds at most.
    fn sign(&self, request: &[u8], usages: &[&str], seconds: Option<i64>) -> Result<String, String>;
}

/// The server's signer, if it has one.
#[derive(Clone, Default)]
pub struct Signer(pub Option<Arc<dyn Sign>>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a signer" } else { "no signer" })
    }
}

/// Runs the controller until its task is aborted.
pub(super) async fn run(cluster: Cluster, signer: Signer) {
    let requests = cluster.watch::<CertificateSigningRequest>();
    let recorder = Recorder::start(cluster.client().clone(), "certificate-controller", "");
    let queue = cluster.queue("certificate");
    queue.follow(&requests);
    requests.synced().await;
    let scanned = requests.clone();
    let handle = move |key: ObjectKey| {
        let (cluster, recorder, signer) = (cluster.clone(), recorder.clone(), signer.clone());
        let request = requests.get(&key).filter(|request| request.metadata.deletion_timestamp.is_none());
        async move {
            let Some(request) = request else { return Ok(None) };
            let object = serde_json::to_value(&*request).expect("Kubernetes types serialise to JSON");
            if let Some(over) = clean::ends(&object, Timestamp::now()) {
                return match over {
                    clean::Over::Now => Write::delete(&*request).execute(&cluster, &recorder).await.map(|()| None),
                    clean::Over::In(after) => {
                        advance(&cluster, &recorder, &signer, &request, &object).await.map(|()| Some(after))
                    }
                };
            }
            advance(&cluster, &recorder, &signer, &request, &object).await.map(|()| None)
        }
    };
    work("certificates", queue, WORKERS, move || scanned.keys(), handle).await;
}

/// What happens to a request next.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    Nothing,
    /// The certificate is made.
    Sign,
    /// The signer does not take it.
    Fail(String),
    /// It is approved if the one who asks may do this on the resource of requests.
    ApproveIfMay(&'static str),
}

fn next(object: &Value) -> Next {
    let signer = text(object, "/spec/signerName");
    let settled = !text(object, "/status/certificate").is_empty() || holds(object, "Failed") || holds(object, "Denied");
    if settled || !signers::is_own(signer) {
        return Next::Nothing;
    }
    let pem = STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
    let objection = match Request::read(&pem) {
        Ok(request) => signers::objection(signer, &request, &object["spec"]),
        Err(why) => Some(format!("unable to parse csr: {why}")),
    };
    match (holds(object, "Approved"), objection) {
        (true, Some(why)) => Next::Fail(why),
        (true, None) => Next::Sign,
        (false, None) if signer == signers::KUBELET_CLIENT => Next::ApproveIfMay(whose(object, &pem)),
        (false, _) => Next::Nothing,
    }
}

/// A node that asks for itself takes another right than somebody who asks for a node.
fn whose(object: &Value, pem: &[u8]) -> &'static str {
    let own = Request::read(pem).is_ok_and(|request| request.common_name == text(object, "/spec/username"));
    if own { "selfnodeclient" } else { "nodeclient" }
}

async fn advance(
    cluster: &Cluster,
    recorder: &Recorder,
    signer: &Signer,
    request: &CertificateSigningRequest,
    object: &Value,
) -> Result<(), WriteError> {
    let (subresource, kind, reason, message) = match next(object) {
        Next::Nothing => return Ok(()),
        Next::Sign => return sign(cluster, recorder, signer, request, object).await,
        Next::Fail(why) => ("status", "Failed", "SignerValidationFailure", why),
        Next::ApproveIfMay(right) => {
            if !may(cluster.client(), object, right).await {
                return Ok(());
            }
            let message = match right {
                "selfnodeclient" => "Auto approving self kubelet client certificate after SubjectAccessReview.",
                _ => "Auto approving kubelet client certificate after SubjectAccessReview.",
            };
            ("approval", "Approved", "AutoApproved", message.to_owned())
        }
    };
    let mut conditions = list(object, "/status/conditions").to_vec();
    conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message}));
    let patch = json!({"status": {"conditions": conditions}});
    Write::patch(request, subresource, patch).execute(cluster, recorder).await
}

async fn sign(
    cluster: &Cluster,
    recorder: &Recorder,
    signer: &Signer,
    request: &CertificateSigningRequest,
    object: &Value,
) -> Result<(), WriteError> {
    let Some(signer) = &signer.0 else { return Ok(()) };
    let usages: Vec<&str> = list(object, "/spec/usages").iter().filter_map(Value::as_str).collect();
    let pem = STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
    let patch = match signer.sign(&pem, &usages, object["spec"]["expirationSeconds"].as_i64()) {
        Ok(certificate) => json!({"status": {"certificate": STANDARD.encode(certificate)}}),
        Err(why) => {
            let mut conditions = list(object, "/status/conditions").to_vec();
            conditions.push(json!({"type": "Failed", "status": "True", "reason": "SigningFailure", "message": why}));
            json!({"status": {"conditions": conditions}})
        }
    };
    Write::patch(request, "status", patch).execute(cluster, recorder).await
}

/// Whether who asked may create this subresource of requests. Who cannot be asked about may not.
async fn may(client: &Client, object: &Value, subresource: &str) -> bool {
    let spec = &object["spec"];
    let attributes = ResourceAttributes {
        group: Some("certificates.k8s.io".to_owned()),
        resource: Some("certificatesigningrequests".to_owned()),
        subresource: Some(subresource.to_owned()),
        verb: Some("create".to_owned()),
        version: Some("*".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec["username"].as_str().map(str::to_owned),
            uid: spec["uid"].as_str().map(str::to_owned),
            groups: serde_json::from_value(spec["groups"].clone()).ok(),
            extra: serde_json::from_value(spec["extra"].clone()).ok(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    match reviews.create(&PostParams::default(), &review).await {
        Ok(answer) => answer.status.is_some_and(|status| status.allowed),
        Err(error) => {
            tracing::warn!(%error, "cannot ask whether a request for a certificate may be approved");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signer: &str, organization: &str, name: &str) -> Value {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        json!({"spec": {"signerName": signer, "request": STANDARD.encode(pem), "username": "system:node:n1",
            "usages": ["client auth", "digital signature"]}})
    }

    fn with(mut object: Value, conditions: &[&str]) -> Value {
        let conditions: Vec<Value> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        object["status"] = json!({"conditions": conditions});
        object
    }

    #[test]
    fn a_request_goes_its_way() {
        let own = request(signers::KUBELET_CLIENT, "system:nodes", "system:node:n1");
        let other = request(signers::KUBELET_CLIENT, "system:nodes", "system:node:n2");
        let person = request(signers::CLIENT, "team", "jo");
        assert_eq!(next(&own), Next::ApproveIfMay("selfnodeclient"));
        assert_eq!(next(&other), Next::ApproveIfMay("nodeclient"));
        assert_eq!(next(&person), Next::Nothing, "people approve people");
        assert_eq!(next(&with(person.clone(), &["Approved"])), Next::Sign);
        assert_eq!(next(&with(person.clone(), &["Denied"])), Next::Nothing);
        assert_eq!(next(&with(person, &["Approved", "Failed"])), Next::Nothing);
        let odd = request(signers::KUBELET_CLIENT, "team", "jo");
        let why = "subject organization is not system:nodes".to_owned();
        assert_eq!(next(&with(odd, &["Approved"])), Next::Fail(why));
        let foreign = request("example.com/own", "team", "jo");
        assert_eq!(next(&with(foreign, &["Approved"])), Next::Nothing);
    }
}
