//! The way out for guests: names as a pod's resolver would have them, then a call.
//!
//! Inside the cluster a guest may call Services, pods and itself (`localhost`), without a socket where
//! the other is of this node. The world outside is closed unless the pod's owner opened it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::{Request, Response};

use super::headers;
use super::http::{ForwardError, Forwarder};
use super::outside::{IsOutside, Outside};
use super::policy::Refusal;
use super::route::{self, Name};
use super::table::{Resolved, RouteTable, ServiceKind, ServicePort};
use crate::wire::{CallTimeouts, Caller, HttpBody, Named, Outbound, OutboundError, Transport};

/// Names that stand for names may lead on so far: a loop must end.
pub(super) const EXTERNAL_NAME_HOPS: usize = 4;

/// Whom a guest may call outside the cluster. The node knows its pods' annotations.
pub trait OutboundPolicy: Send + Sync + 'static {
    /// Whether `caller` may call `host` (a name or an address, without port).
    fn allows(&self, caller: &Caller, host: &str) -> bool;

    /// Whether an address can be a host outside at all, whatever name leads to it.
    fn is_outside(&self, ip: IpAddr) -> bool {
        crate::wire::is_outside(ip)
    }
}

pub(super) struct Guests {
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) policy: Arc<dyn OutboundPolicy>,
    pub(super) outside: Arc<Outside>,
}

/// Where a call goes.
#[derive(Debug)]
pub(super) enum Destination {
    Inside(Arc<ServicePort>),
    /// A host outside the cluster.
    Outside(String, u16),
    /// The Service is there, the port is not.
    NoPort(String),
    /// A name that can only be a Service's, and is not.
    NoService(String),
}

#[async_trait::async_trait]
impl Outbound for Guests {
    async fn send(
        &self,
        caller: &Caller,
        mut request: Request<HttpBody>,
        timeouts: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        let authority = request.uri().authority().cloned().ok_or_else(|| no_host(&request))?;
        let is_tls = request.uri().scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        self.admit_name(caller, host)?;
        let destination = find(&self.forwarder.directory.table(), caller, host, port);
        let port = match destination {
            Destination::Outside(host, port) => {
                if !self.policy.allows(caller, &host) {
                    return Err(not_allowed(caller, &host));
                }
                let only = self.only_open(caller, &host, port).await?;
                headers::normalise(&mut request);
                return self.outside.call(request, &host, port, is_tls, timeouts, only).await;
            }
            Destination::Inside(_) | Destination::NoPort(_) if is_tls => {
                return Err(OutboundError::Failed(format!(
                    "cannot call https://{authority}: inside the cluster plain http is spoken"
                )));
            }
            Destination::Inside(port) => port,
            Destination::NoPort(reason) => return Err(OutboundError::Refused(reason)),
            Destination::NoService(host) => {
                return Err(OutboundError::UnknownHost(format!("{host}: there is no such Service")));
            }
        };
        headers::normalise(&mut request);
        let sent = self.forwarder.forward(port, request, Some(caller.ip), timeouts.first_byte).await;
        sent.map_err(|error| match error {
            ForwardError::NotFound { .. } => OutboundError::Refused(error.to_string()),
            ForwardError::Timeout(after) => OutboundError::Timeout(after),
            ForwardError::Overloaded { .. } | ForwardError::Failed(_) => OutboundError::Failed(error.to_string()),
        })
    }

    async fn route(&self, caller: &Caller, to: SocketAddr, transport: Transport) -> Result<SocketAddr, OutboundError> {
        let allows = |host: &str| self.policy.allows(caller, host);
        let directory = &self.forwarder.directory;
        let policies = directory.policies();
        let refused = Cell::new(None);
        let admits = |to| {
            policies.check(caller.ip, to, transport).map_err(|refusal| {
                refused.set(Some(refusal.clone()));
                shut(refusal)
            })
        };
        let routed = route::route(&directory.table(), caller, to, transport, allows, admits);
        // An endpoint that was passed over for another is no refusal.
        if let (Err(_), Some(refusal)) = (&routed, refused.take()) {
            directory.count(&refusal);
        }
        routed
    }

    async fn admits(&self, callee: &Caller, from: SocketAddr, port: u16, transport: Transport) -> bool {
        self.forwarder.directory.admit(from.ip(), SocketAddr::new(callee.ip, port), transport).is_ok()
    }

    async fn resolve(&self, caller: &Caller, host: &str) -> Result<Named, OutboundError> {
        self.admit_name(caller, host)?;
        let name = route::name(&self.forwarder.directory.table(), caller, host);
        match name {
            Name::Inside(addresses) => Ok(Named { addresses, outside: false }),
            Name::Outside(host) => {
                if !self.policy.allows(caller, &host) {
                    return Err(not_allowed(caller, &host));
                }
                let addresses = self.outside.addresses(&host).await?;
                Ok(Named { addresses, outside: true })
            }
            Name::Nothing(why) => Err(OutboundError::UnknownHost(why)),
        }
    }
}

impl Guests {
    /// Whether `caller` may ask what `host` stands for; what needs no asking is let pass.
    fn admit_name(&self, caller: &Caller, host: &str) -> Result<(), OutboundError> {
        if host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") {
            return Ok(());
        }
        let admitted = self.forwarder.directory.admit_names(caller.ip);
        admitted.map_err(|refusal| OutboundError::Denied(format!("{host} cannot be looked up: {refusal}")))
    }

    /// Of a host's addresses those that policies open to `caller`; `None`: all.
    async fn only_open(&self, caller: &Caller, host: &str, port: u16) -> Result<Option<IsOutside>, OutboundError> {
        let (directory, ip) = (self.forwarder.directory.clone(), caller.ip);
        if !directory.policies().confines(ip) {
            return Ok(None);
        }
        let open = move |to| directory.admit(ip, SocketAddr::new(to, port), Transport::Tcp);
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.outside.addresses(host).await?,
        };
        let mut shut_all = None;
        for address in addresses {
            match open(address) {
                Ok(()) => {
                    let policy = self.policy.clone();
                    return Ok(Some(Arc::new(move |to| policy.is_outside(to) && open(to).is_ok())));
                }
                Err(refusal) => shut_all = Some(refusal),
            }
        }
        Err(shut_all.map_or_else(|| OutboundError::UnknownHost(host.to_owned()), shut))
    }
}

/// What a guest is told whom policies do not let pass, as if nobody listened there.
fn shut(refusal: Refusal) -> OutboundError {
    OutboundError::Refused(refusal.to_string())
}

/// A name that is no Service's. One without a dot was meant to be: then that is what is wrong.
pub(super) fn not_allowed(caller: &Caller, host: &str) -> OutboundError {
    let Caller { namespace, pod, .. } = caller;
    match host.contains(['.', ':']) {
        true => OutboundError::Denied(format!(
            "{host} is no Service of this cluster, and pod {namespace}/{pod} may not call it outside; \
             its annotation coracle.dev/outbound-hosts would have to name it"
        )),
        false => OutboundError::UnknownHost(format!("{host}: there is no such Service in namespace {namespace}")),
    }
}

fn no_host(request: &Request<HttpBody>) -> OutboundError {
    OutboundError::UnknownHost(format!("{} names no host", request.uri()))
}

/// Where `host:port` is, for `caller`.
fn find(table: &RouteTable, caller: &Caller, host: &str, port: u16) -> Destination {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return find_address(table, caller, ip, port);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return itself(caller, port);
    }
    let mut host = host.to_owned();
    for _ in 0..EXTERNAL_NAME_HOPS {
        let service = match table.resolve(&caller.namespace, &host) {
            Some(Resolved::Service(service)) => service,
            Some(Resolved::Pods(addresses)) => {
                return Destination::Inside(Arc::new(ServicePort::of_pods(&host, addresses, port)));
            }
            None if is_inside(&host) => return Destination::NoService(host),
            None => return Destination::Outside(host, port),
        };
        match (&service.kind, service.port(port, Transport::Tcp)) {
            (ServiceKind::External(name), _) => host = name.to_string(),
            (ServiceKind::Cluster | ServiceKind::Headless, Some(port)) => return Destination::Inside(port.clone()),
            // The name of a headless Service is its pods': any port of theirs may be called.
            (ServiceKind::Headless, None) => {
                return Destination::Inside(Arc::new(ServicePort::of_pods(&host, &service.addresses, port)));
            }
            (ServiceKind::Cluster, None) => {
                return Destination::NoPort(format!(
                    "service {}/{} has no port {port}",
                    service.namespace, service.name
                ));
            }
        }
    }
    Destination::NoPort(format!("{host} is one of too many Services that only name each other"))
}

/// Whether a name says itself that it is one of the cluster's.
pub(super) fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.ends_with(".svc") || host.ends_with(".cluster.local")
}

pub(super) fn find_address(table: &RouteTable, caller: &Caller, ip: IpAddr, port: u16) -> Destination {
    if let Some(port) = table.at(SocketAddr::new(ip, port), Transport::Tcp) {
        return Destination::Inside(port.clone());
    }
    // Before it is looked for among the pods: the endpoint of the API server may be the machine's own.
    if is_localhost(ip) {
        return itself(caller, port);
    }
    if table.is_pod(ip) || ip == caller.ip {
        return Destination::Inside(Arc::new(ServicePort::of_pods("pod", &[ip], port)));
    }
    Destination::Outside(ip.to_string(), port)
}

/// Whether an address is what a pod calls itself by, and never the machine.
pub(super) fn is_localhost(ip: IpAddr) -> bool {
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

/// A pod's localhost is the pod.
fn itself(caller: &Caller, port: u16) -> Destination {
    Destination::Inside(Arc::new(ServicePort::of_pods("localhost", &[caller.ip], port)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::network::table::Objects;

    #[test]
    fn localhost_is_the_pod_even_where_the_api_server_listens_there() {
        let slice = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4", "ports": [{"port": 6443}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        }));
        let slices = [Arc::new(slice.expect("a slice"))];
        let table = RouteTable::build(&Objects { slices: &slices, ..Objects::default() }, None);
        assert!(table.is_pod(IpAddr::from([127, 0, 0, 1])), "the slice makes it look like a pod's");
        let caller = Caller { namespace: "shop".into(), pod: "cart".into(), ip: IpAddr::from([127, 64, 0, 9]) };
        for host in ["127.0.0.1", "::1", "localhost"] {
            let Destination::Inside(port) = find(&table, &caller, host, 6443) else { panic!("{host} is inside") };
            let called: Vec<IpAddr> = port.endpoints.iter().map(|endpoint| endpoint.address.ip()).collect();
            assert_eq!(called, [caller.ip], "{host}");
        }
    }
}
