//! CertificateSubjectRestriction: nobody becomes a master by asking for a client certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::auth::MASTERS;
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::certificate_signing_request::request::Request as Wanted;
use crate::kinds::certificate_signing_request::{CertificateSigningRequest, signers};
use crate::kinds::common::text;

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let asks = request.operation == Operation::Create && request.place.info() == CertificateSigningRequest.info();
    if !asks || text(object, "/spec/signerName") != signers::CLIENT {
        return Ok(());
    }
    // What is no request will not be valid.
    let pem = STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
    let Ok(wanted) = Wanted::read(&pem) else { return Ok(()) };
    if wanted.organizations.iter().any(|group| group == MASTERS) {
        let signer = signers::CLIENT;
        return Err(request.forbidden(format!("use of {signer} signer with {MASTERS} group is not allowed")));
    }
    Ok(())
}
