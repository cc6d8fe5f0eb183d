//! What is valid in a pod spec and yet hardly meant: told to the client, not refused.

use std::collections::BTreeMap;

use crate::kinds::field::{Field, quote};
use crate::kinds::quantity::Quantity;

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Labels of nodes that have got another name, since when, and the name.
const OLD_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
];

/// The warnings of the pod spec at `spec`, each with its field.
pub fn of(spec: &Field<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, at) in spec.get("nodeSelector").entries() {
        old_label(&mut found, &at, key);
    }
    affinity(&mut found, &spec.get("affinity"));
    for constraint in spec.get("topologySpreadConstraints").items() {
        let key = constraint.get("topologyKey");
        old_label(&mut found, &key, key.str());
        null_selector(&mut found, &constraint);
    }
    for (i, alias) in spec.get("hostAliases").items().enumerate() {
        let ip = alias.get("ip");
        if spec.get("hostAliases").items().take(i).any(|other| other.get("ip").str() == ip.str()) {
            found.push(format!("{}: duplicate ip {}", ip.path, quote(ip.str())));
        }
    }
    for secret in spec.get("imagePullSecrets").items() {
        let name = secret.get("name");
        if name.is_empty() {
            found.push(format!("{}: invalid empty name \"\"", name.path));
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get(list).items() {
            repeated_env(&mut found, &container);
            fractional_bytes(&mut found, &container);
        }
    }
    repeated_ports(&mut found, spec);
    found
}

fn old_label(found: &mut Vec<String>, at: &Field<'_>, label: &str) {
    if let Some((_, since, name)) = OLD_LABELS.iter().find(|(old, ..)| *old == label) {
        found.push(format!("{}: deprecated since {since}; use {} instead", at.path, quote(name)));
    }
}

fn null_selector(found: &mut Vec<String>, term: &Field<'_>) {
    let selector = term.get("labelSelector");
    if !selector.exists() {
        found.push(format!("{}: {NULL_SELECTOR}", selector.path));
    }
}

fn affinity(found: &mut Vec<String>, at: &Field<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = at.get("nodeAffinity");
    let required = node.get(REQUIRED).get("nodeSelectorTerms");
    let preferred = node.get(PREFERRED);
    for term in required.items().chain(preferred.items().map(|term| term.get("preference"))) {
        for requirement in term.get("matchExpressions").items() {
            let key = requirement.get("key");
            old_label(found, &key, key.str());
        }
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(name);
        let preferred = pods.get(PREFERRED);
        for term in pods.get(REQUIRED).items().chain(preferred.items().map(|term| term.get("podAffinityTerm"))) {
            null_selector(found, &term);
            let key = term.get("topologyKey");
            old_label(found, &key, key.str());
        }
    }
}

fn repeated_env(found: &mut Vec<String>, container: &Field<'_>) {
    let list = container.get("env");
    for (i, variable) in list.items().enumerate() {
        let name = variable.get("name").str();
        // A variable that uses the one it hides is an extension, not a mistake.
        let hidden = list.items().take(i).any(|other| other.get("name").str() == name);
        if hidden && !variable.get("value").str().contains(&format!("$({name})")) {
            let name = quote(name);
            found.push(format!(
                "{}: hides previous definition of {name}, which may be dropped when using apply",
                variable.path
            ));
        }
    }
}

fn fractional_bytes(found: &mut Vec<String>, container: &Field<'_>) {
    for list in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let at = container.get("resources").get(list).key(name);
            let Ok(amount) = Quantity::from_json(at.value) else { continue };
            if !amount.is_integer() {
                let amount = quote(&amount.to_string());
                found.push(format!("{}: fractional byte value {amount} is invalid, must be an integer", at.path));
            }
        }
    }
}

/// The same port twice in a container is refused only by what would have to listen on it.
fn repeated_ports(found: &mut Vec<String>, spec: &Field<'_>) {
    for container in spec.get("containers").items() {
        let mut seen: BTreeMap<(i64, &str, &str, i64), String> = BTreeMap::new();
        for port in container.get("ports").items() {
            let number = |name: &str| port.get(name).int().unwrap_or(0);
            let key =
                (number("containerPort"), port.get("protocol").str(), port.get("hostIP").str(), number("hostPort"));
            match seen.get(&key) {
                Some(first) => found.push(format!("{}: duplicate port definition with {first}", port.path)),
                None => {
                    seen.insert(key, port.path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_hardly_meant() {
        let port = json!({"containerPort": 80, "protocol": "TCP"});
        let spec = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "topologySpreadConstraints": [{"topologyKey": "z"}],
            "containers": [{"ports": [port, port], "env": [{"name": "A"}, {"name": "A"}, {"name": "A", "value": "$(A)"}],
                "resources": {"limits": {"memory": "100m"}}}],
        });
        let at = Field::new("spec", &spec);
        assert_eq!(
            of(&at),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }
}
