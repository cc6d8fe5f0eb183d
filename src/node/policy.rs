//! Whom a guest may call outside the cluster: the hosts that its pod names, and no others.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/outbound-hosts: api.example.com, *.example.org
//! ```
//!
//! `*` alone allows every host. Services of the cluster need no permission here.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;

use crate::network::OutboundPolicy;
use crate::reconcile::{ObjectKey, Shared};
use crate::wire::{self, Caller};

/// The annotation that names the hosts.
pub const OUTBOUND_HOSTS: &str = "coracle.dev/outbound-hosts";

/// Reads the permission off the calling pod.
pub struct Annotated {
    pub pods: Shared<Pod>,
    /// The cluster's own addresses: no name of the world outside may lead to them.
    pub inside: Vec<IpNet>,
}

impl OutboundPolicy for Annotated {
    fn allows(&self, caller: &Caller, host: &str) -> bool {
        let pod = self.pods.get(&ObjectKey::new(caller.namespace.clone(), caller.pod.clone()));
        let list = pod.as_ref().and_then(|pod| pod.metadata.annotations.as_ref()?.get(OUTBOUND_HOSTS));
        list.is_some_and(|list| list.split(',').any(|pattern| matches(pattern.trim(), host)))
    }

    fn is_outside(&self, ip: IpAddr) -> bool {
        wire::is_outside(ip) && !self.inside.iter().any(|range| range.contains(&ip))
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => pattern == "*" || (!pattern.is_empty() && pattern == host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_or_below_a_star() {
        let cases = [
            ("api.example.com", "API.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("*", "anything", true),
            ("", "anything", false),
            ("example.com", "sub.example.com", false),
        ];
        for (pattern, host, allowed) in cases {
            assert_eq!(matches(pattern, host), allowed, "{pattern} {host}");
        }
    }
}
