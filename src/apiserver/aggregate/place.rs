//! Where a Service's server is: a ready endpoint of it.

use serde_json::Value;

use crate::apiserver::ApiServer;
use crate::apiserver::registry::{Place, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::common::{list, text};
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::service::Service;

/// `HOST:PORT` of an endpoint of the Service that an APIService names, or why there is none.
pub fn endpoint(server: &ApiServer, namespace: &str, name: &str, port: i64) -> Result<String, ApiError> {
    let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
    let service = server.registry.find(Place { kind: &Service, namespace, name });
    let service = service.ok_or_else(|| unavailable(format!("service/{name} in {namespace:?} is not present")))?;
    let external = text(&service, "/spec/externalName");
    if !external.is_empty() {
        return Ok(format!("{external}:{port}"));
    }
    let ports = list(&service, "/spec/ports");
    let named = ports.iter().find(|known| known["port"].as_i64() == Some(port));
    let named = named.map(|known| text(known, "/name").to_owned());
    let named = named.ok_or_else(|| unavailable(format!("service/{name} in {namespace:?} has no port {port}")))?;
    let prefix = encoding::prefix(EndpointSlice.info(), namespace);
    let page = server.registry.store.list(&prefix, None, 0, None).unwrap_or_default();
    let slices = page
        .entries
        .iter()
        .filter_map(|entry| encoding::decode(&EndpointSlice, &entry.value, entry.mod_revision).ok())
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name);
    let found = slices.filter_map(|slice| address(&slice, &named)).next();
    found.ok_or_else(|| unavailable(format!("endpoints for service/{name} in {namespace:?} have no addresses")))
}

/// The first ready endpoint of a slice, at the port of this name.
fn address(slice: &Value, port: &str) -> Option<String> {
    let port = list(slice, "/ports").iter().find(|known| text(known, "/name") == port)?["port"].as_i64()?;
    let ready = list(slice, "/endpoints").iter().find(|endpoint| endpoint["conditions"]["ready"] != false)?;
    let address = text(ready, "/addresses/0");
    match address.contains(':') {
        _ if address.is_empty() => None,
        true => Some(format!("[{address}]:{port}")),
        false => Some(format!("{address}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ready_endpoint_at_the_port_of_that_name() {
        let slice = json!({"ports": [{"name": "a", "port": 1}, {"name": "https", "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}]});
        assert_eq!(address(&slice, "https").as_deref(), Some("10.0.0.2:8443"));
        assert_eq!(address(&slice, "other"), None);
        let six = json!({"ports": [{"port": 1}], "endpoints": [{"addresses": ["::1"]}]});
        assert_eq!(address(&six, "").as_deref(), Some("[::1]:1"));
    }
}
