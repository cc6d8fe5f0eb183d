//! The bridge that a node's pods are on.

use std::collections::HashMap;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use ipnet::Ipv4Net;

use super::engine::{Engine, Failure, OWNER};

/// The address of the machine on the bridge: the first of the subnet.
pub fn gateway(subnet: Ipv4Net) -> std::net::Ipv4Addr {
    subnet.hosts().next().unwrap_or_else(|| subnet.network())
}

/// Makes the network if the engine has none of that name.
pub async fn ensure(engine: &Engine, name: &str, subnet: Option<Ipv4Net>) -> Result<(), Failure> {
    let subnet = subnet.ok_or_else(|| {
        Failure::Refused(
            "containers cannot have addresses of the loopback range, which this cluster's pods have: start the \
             server with --pod-cidr 100.96.0.0/11 --service-cidr 100.64.0.0/16 and an empty data directory \
             (coracle up --docker does so by itself), or let the pod use hostNetwork"
                .to_owned(),
        )
    })?;
    let client = engine.client().await?;
    match client.inspect_network(name, None).await.map_err(|error| engine.failure(error)) {
        Ok(_) => return Ok(()),
        Err(Failure::NotFound(_)) => {}
        Err(failure) => return Err(failure),
    }
    let config = IpamConfig {
        subnet: Some(subnet.to_string()),
        gateway: Some(gateway(subnet).to_string()),
        ..Default::default()
    };
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam { config: Some(vec![config]), ..Default::default() }),
        // At most 15 characters, and different for each node process of a machine.
        options: Some(HashMap::from([("com.docker.network.bridge.name".to_owned(), bridge(name))])),
        labels: Some(HashMap::from([(OWNER.to_owned(), engine.owner().to_owned())])),
        ..Default::default()
    };
    match client.create_network(request).await.map_err(|error| engine.failure(error)) {
        Ok(_) => Ok(()),
        // Another pod was quicker.
        Err(Failure::Conflict(_)) => Ok(()),
        Err(Failure::Refused(why)) if why.contains("verlaps") => Err(Failure::Refused(format!(
            "the engine cannot make a network of {subnet}: {why}; another cluster on this machine may have these \
             addresses: start one of them with another --pod-cidr and --service-cidr"
        ))),
        Err(Failure::Refused(why)) if why.contains("same bridge name") => Err(Failure::Refused(format!(
            "{why}; the engine does not know that network any more, but keeps its bridge, as it does when its disk was \
             full while it made it: restart the engine"
        ))),
        Err(failure) => Err(failure),
    }
}

/// Removes the network; it stays if somebody is on it.
pub async fn remove(engine: &Engine, name: &str) {
    if let Ok(client) = engine.client().await {
        let _ = client.remove_network(name).await;
    }
}

fn bridge(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).take(15).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_the_first_address_and_the_bridge_a_short_name() {
        let subnet = "100.96.32.0/19".parse().expect("a subnet");
        assert_eq!(gateway(subnet).to_string(), "100.96.32.1");
        assert_eq!(bridge("coracle-0123456789ab"), "coracle01234567");
    }
}
