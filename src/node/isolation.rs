//! With whom a pod shares the process that runs it, as its annotation says. Pure.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/isolation: pod     # a process of its own; `namespace`: one for those of its namespace that ask
//! ```

use k8s_openapi::api::core::v1::Pod;

use crate::runtime::Isolation;

/// `pod` or `namespace`; without it, `shared`: the node's own process.
pub const ISOLATION: &str = "coracle.dev/isolation";

/// What the pod asks for, or what is wrong with how it asks.
pub fn of(pod: &Pod) -> Result<Isolation, String> {
    let says = pod.metadata.annotations.as_ref().and_then(|all| all.get(ISOLATION));
    match says.map(|value| value.trim()) {
        None | Some("shared") => Ok(Isolation::Shared),
        Some("namespace") => Ok(Isolation::Namespace),
        Some("pod") => Ok(Isolation::Pod),
        Some(other) => {
            Err(format!("annotation {ISOLATION} says {other:?}; it can say \"pod\", \"namespace\" or \"shared\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_annotation_says_whom_a_pod_is_with() {
        let asked = |value: &str| {
            of(&serde_json::from_value(json!({ "metadata": { "annotations": { ISOLATION: value } } })).expect("a pod"))
        };
        assert_eq!(of(&Pod::default()), Ok(Isolation::Shared));
        assert_eq!(asked("shared"), Ok(Isolation::Shared));
        assert_eq!(asked(" namespace "), Ok(Isolation::Namespace));
        assert_eq!(asked("pod"), Ok(Isolation::Pod));
        let why = asked("vm").expect_err("refused");
        assert!(why.contains("coracle.dev/isolation says \"vm\"; it can say \"pod\""), "{why}");
    }
}
