//! What a pod's annotations ask of its Wasm host.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/http: wagi        # programs without an HTTP handler answer calls by CGI
//! ```

use k8s_openapi::api::core::v1::Pod;

use crate::runtime::Grants;

/// How containers without an HTTP handler answer HTTP: `wagi`, or not at all.
pub const HTTP: &str = "coracle.dev/http";

/// What the pod asks for.
pub fn of(pod: &Pod) -> Grants {
    let says = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(|value| value.trim());
    Grants { wagi: says(HTTP) == Some("wagi") }
}
