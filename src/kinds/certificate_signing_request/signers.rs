//! The signers that every cluster has, and what each of them demands of a request.

use serde_json::Value;

use super::request::Request;
use crate::kinds::common::list;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Why this signer does not sign the request; `None`: it does. `spec` is the object's.
pub fn objection(signer: &str, request: &Request, spec: &Value) -> Option<String> {
    let usages: Vec<&str> = list(spec, "/usages").iter().filter_map(Value::as_str).collect();
    match signer {
        CLIENT => client_usages(&usages),
        KUBELET_CLIENT => node_subject(request)
            .or_else(|| no_names(request))
            .or_else(|| exactly(&usages, &["client auth", "digital signature"])),
        KUBELET_SERVING => node_subject(request)
            .or_else(|| serving_names(request))
            .or_else(|| exactly(&usages, &["digital signature", "server auth"])),
        _ => None,
    }
}

/// Whether one of the cluster's own signers is meant.
pub fn is_own(signer: &str) -> bool {
    matches!(signer, CLIENT | KUBELET_CLIENT | KUBELET_SERVING)
}

fn client_usages(usages: &[&str]) -> Option<String> {
    let known = ["client auth", "digital signature", "key encipherment"];
    if let Some(odd) = usages.iter().find(|usage| !known.contains(usage)) {
        return Some(format!("invalid usage for client certificate: {odd}"));
    }
    (!usages.contains(&"client auth")).then(|| "missing required usage for client certificate: client auth".to_owned())
}

/// `key encipherment` is only for RSA keys, and may be there or not.
fn exactly(usages: &[&str], wanted: &[&str]) -> Option<String> {
    let mut given: Vec<&str> = usages.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    given.sort_unstable();
    (given != wanted).then(|| format!("usages did not match [{}]", wanted.join(" ")))
}

fn node_subject(request: &Request) -> Option<String> {
    if request.organizations != [NODES] {
        return Some("subject organization is not system:nodes".to_owned());
    }
    (!request.common_name.starts_with(NODE_PREFIX))
        .then(|| "subject common name does not begin with system:node: ".to_owned())
}

fn no_names(request: &Request) -> Option<String> {
    let names = [
        ("DNS", request.dns_names.is_empty()),
        ("email", request.emails.is_empty()),
        ("IP", request.addresses.is_empty()),
        ("URI", request.uris.is_empty()),
    ];
    let given = names.into_iter().find(|(_, empty)| !empty);
    given.map(|(sort, _)| format!("{sort} subjectAltNames are not allowed"))
}

fn serving_names(request: &Request) -> Option<String> {
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return Some("DNS or IP subjectAltName is required".to_owned());
    }
    let names = [("email", request.emails.is_empty()), ("URI", request.uris.is_empty())];
    let given = names.into_iter().find(|(_, empty)| !empty);
    given.map(|(sort, _)| format!("{sort} subjectAltNames are not allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_signer_has_its_demands() {
        let node = Request {
            common_name: "system:node:n1".to_owned(),
            organizations: vec![NODES.to_owned()],
            ..Request::default()
        };
        let serving = Request { dns_names: vec!["n1".to_owned()], ..node.clone() };
        let stranger = Request { common_name: "jo".to_owned(), ..Request::default() };
        let client = json!({"usages": ["client auth", "digital signature", "key encipherment"]});
        let server = json!({"usages": ["digital signature", "server auth"]});
        let cases = [
            (CLIENT, &stranger, &client, None),
            (CLIENT, &stranger, &server, Some("invalid usage for client certificate: server auth")),
            (KUBELET_CLIENT, &node, &client, None),
            (KUBELET_CLIENT, &stranger, &client, Some("subject organization is not system:nodes")),
            (KUBELET_CLIENT, &serving, &client, Some("DNS subjectAltNames are not allowed")),
            (KUBELET_SERVING, &serving, &server, None),
            (KUBELET_SERVING, &node, &server, Some("DNS or IP subjectAltName is required")),
            (KUBELET_SERVING, &serving, &client, Some("usages did not match [digital signature server auth]")),
        ];
        for (signer, request, spec, wanted) in cases {
            assert_eq!(objection(signer, request, spec).as_deref(), wanted, "{signer} {spec}");
        }
    }
}
