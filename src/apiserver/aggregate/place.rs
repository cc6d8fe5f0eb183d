//! Where a Service's server is: a ready endpoint of it.

use crate::apiserver::ApiServer;
use crate::apiserver::endpoints::{self, Endpoint};
use crate::apiserver::registry::Place;
use crate::apiserver::status::ApiError;
use crate::kinds::common::{list, text};
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
    let found = endpoints::ready(server, namespace, name, &named).first().map(Endpoint::host);
    found.ok_or_else(|| unavailable(format!("endpoints for service/{name} in {namespace:?} have no addresses")))
}
