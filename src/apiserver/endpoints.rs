//! The endpoints of a Service, as its slices tell them.

use serde_json::Value;

use super::ApiServer;
use super::registry::encoding;
use crate::kinds::Kind;
use crate::kinds::common::{list, text};
use crate::kinds::endpoint_slice::EndpointSlice;

/// A ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    /// Namespace and name of the pod that it is.
    pod: Option<(String, String)>,
}

impl Endpoint {
    /// The name of its pod, if that is in this namespace.
    pub fn pod_of(&self, namespace: &str) -> Option<&str> {
        self.pod.as_ref().filter(|(known, _)| known == namespace).map(|(_, name)| name.as_str())
    }

    /// `HOST:PORT`
    pub fn host(&self) -> String {
        let Self { address, port, .. } = self;
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }
}

/// Those that are ready, at the Service's port of this name (empty for one without).
pub fn ready(server: &ApiServer, namespace: &str, service: &str, port_name: &str) -> Vec<Endpoint> {
    let prefix = encoding::prefix(EndpointSlice.info(), namespace);
    let page = server.registry.store.list(&prefix, None, 0, None).unwrap_or_default();
    let slices = page
        .entries
        .iter()
        .filter_map(|entry| encoding::decode(&EndpointSlice, &entry.value, entry.mod_revision).ok())
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    slices.flat_map(|slice| of_slice(&slice, port_name)).collect()
}

fn of_slice(slice: &Value, port_name: &str) -> Vec<Endpoint> {
    let port = list(slice, "/ports").iter().find(|known| text(known, "/name") == port_name);
    let port = port.and_then(|known| u16::try_from(known["port"].as_u64()?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = list(slice, "/endpoints").iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready
        .filter_map(|endpoint| {
            let address = Some(text(endpoint, "/addresses/0")).filter(|address| !address.is_empty())?.to_owned();
            let target = &endpoint["targetRef"];
            let pod = (target["kind"] == "Pod")
                .then(|| (text(target, "/namespace").to_owned(), text(target, "/name").to_owned()));
            Some(Endpoint { address, port, pod })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_endpoints_at_the_port_of_that_name() {
        let slice = json!({"ports": [{"name": "a", "port": 1}, {"name": "https", "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "namespace": "n", "name": "p"}}]});
        let [found] = &*of_slice(&slice, "https") else { panic!("one is ready") };
        assert_eq!((found.host().as_str(), found.pod_of("n"), found.pod_of("m")), ("10.0.0.2:8443", Some("p"), None));
        assert_eq!(of_slice(&slice, "other"), []);
        let six = json!({"ports": [{"port": 1}], "endpoints": [{"addresses": ["::1"]}]});
        let [found] = &*of_slice(&six, "") else { panic!("one is ready") };
        assert_eq!((found.host().as_str(), found.pod_of("n")), ("[::1]:1", None));
    }
}
