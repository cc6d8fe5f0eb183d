//! What a PKCS #10 request says: whom a certificate is for, and by which names.

use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// A request whose signature is its own key's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// DER of the subject, of the public key, and of the alternative names where there are any: what a
    /// certificate takes over as it is.
    pub subject: Vec<u8>,
    pub public_key: Vec<u8>,
    pub alternatives: Option<Vec<u8>>,
}

impl Request {
    /// Reads a PEM request and checks its signature.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let wrong_block = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| wrong_block())?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(wrong_block());
        }
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| format!("the certificate request cannot be read: {error}"))?;
        parsed.verify_signature().map_err(|_| "the signature is not that of the request's key".to_owned())?;
        Ok(Self::of(&parsed))
    }

    fn of(parsed: &X509CertificationRequest<'_>) -> Self {
        let info = &parsed.certification_request_info;
        let text = |value: Result<&str, _>| value.map(str::to_owned).ok();
        let mut request = Self {
            common_name: info.subject.iter_common_name().find_map(|name| text(name.as_str())).unwrap_or_default(),
            organizations: info.subject.iter_organization().filter_map(|name| text(name.as_str())).collect(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
            for extension in &wanted.extensions {
                if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                    request.alternatives = Some(extension.value.to_vec());
                    names.general_names.iter().for_each(|name| request.add(name));
                }
            }
        }
        request
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                self.addresses.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok());
            }
            _ => {}
        }
    }
}
