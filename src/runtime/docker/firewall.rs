//! NetworkPolicy for containers: a packet filter in the network namespace of each pod that policies select.
//!
//! Containers of one bridge speak to each other past the node, so what the node decides for its own pods must
//! be decided here by the kernel, with the same rules. They are written as a table for `iptables-restore`
//! and taken over whole, by a container that lives for a moment: it joins the pod's network with
//! CAP_NET_ADMIN and runs the machine's own `iptables-restore`, so that neither this process nor the pod
//! needs that right. The machine's rules, and the engine's, are not touched.
//!
//! The table `filter` of a confined pod's namespace is ours. What is not open is refused, not dropped: it is
//! told at once, as by a port where nobody listens.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{LogsOptionsBuilder, StartContainerOptions, WaitContainerOptions};
use futures::StreamExt as _;

use super::super::Mount;
use super::engine::{Engine, Failure};
use super::spec::{self, bind};
use crate::wire::Transport;
use crate::wire::confinement::{Confinement, Opening, Ports};

/// Where distributions have it.
const PROGRAMS: [&str; 4] = [
    "/usr/sbin/iptables-restore",
    "/sbin/iptables-restore",
    "/usr/bin/iptables-restore",
    "/usr/local/sbin/iptables-restore",
];
/// What it needs of the machine besides: libraries, and where its name leads.
const NEEDED: [&str; 6] = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives"];
/// Where it finds the rules.
const RULES: &str = "/firewall";
/// What is shown of its complaints.
const MOST_WORDS: usize = 400;

/// The text that `iptables-restore` takes; without rules, of a table that is open.
pub fn table(rules: Option<&Confinement>) -> String {
    let mut text = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n".to_owned();
    let open = Confinement::default();
    let rules = rules.unwrap_or(&open);
    let directions = [("INPUT", "-i", "-s", &rules.ingress), ("OUTPUT", "-o", "-d", &rules.egress)];
    let mut body = String::new();
    for (chain, device, peer, openings) in directions {
        let Some(openings) = openings else { continue };
        let _ = writeln!(body, "-A {chain} {device} lo -j ACCEPT");
        let _ = writeln!(body, "-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        for (number, opening) in openings.iter().enumerate() {
            let peers = opening.peers.iter().filter(|net| net.addr().is_ipv4());
            let target = match (opening.except.is_empty(), &opening.ports) {
                (true, None) => "ACCEPT".to_owned(),
                _ => {
                    let target = format!("{chain}-{number}");
                    let _ = writeln!(text, ":{target} -");
                    body.push_str(&own_chain(&target, peer, opening));
                    target
                }
            };
            for net in peers {
                let _ = writeln!(body, "-A {chain} {peer} {net} -j {target}");
            }
        }
        let _ = writeln!(body, "-A {chain} -p tcp -j REJECT --reject-with tcp-reset");
        let _ = writeln!(body, "-A {chain} -j REJECT");
    }
    text + &body + "COMMIT\n"
}

/// What of an opening is more than addresses.
fn own_chain(chain: &str, peer: &str, opening: &Opening) -> String {
    let mut text = String::new();
    for net in opening.except.iter().filter(|net| net.addr().is_ipv4()) {
        let _ = writeln!(text, "-A {chain} {peer} {net} -j RETURN");
    }
    match &opening.ports {
        None => {
            let _ = writeln!(text, "-A {chain} -j ACCEPT");
        }
        Some(ports) => {
            for Ports { transport, first, last } in ports {
                let protocol = match transport {
                    Transport::Tcp => "tcp",
                    Transport::Udp => "udp",
                };
                let _ = writeln!(text, "-A {chain} -p {protocol} --dport {first}:{last} -j ACCEPT");
            }
        }
    }
    text
}

/// Puts the rules of a file into the network of the container `infra`.
pub async fn apply(engine: &Engine, labels: HashMap<String, String>, infra: &str, rules: &Path) -> Result<(), Failure> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(program) = PROGRAMS.into_iter().find(|path| Path::new(path).exists()) else {
        return Err(Failure::Refused(
            "a NetworkPolicy selects the pod, and this machine has no iptables-restore to enforce it with; install \
             iptables"
                .to_owned(),
        ));
    };
    let own = Mount { host: rules.to_owned(), guest: RULES.to_owned(), read_only: true };
    let needed = NEEDED.iter().filter(|path| Path::new(path).exists());
    let needed = needed.map(|path| Mount { host: (*path).into(), guest: (*path).to_owned(), read_only: true });
    let host = HostConfig {
        network_mode: Some(format!("container:{infra}")),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(vec!["NET_ADMIN".to_owned()]),
        mounts: Some(needed.chain([own]).map(|mount| bind(&mount)).collect()),
        // The older kind of iptables keeps a lock there.
        tmpfs: Some(HashMap::from([("/run".to_owned(), String::new())])),
        ..Default::default()
    };
    let body = ContainerCreateBody {
        image: Some(super::image::PAUSE.to_owned()),
        entrypoint: Some([program, "-w", "5", RULES].map(str::to_owned).to_vec()),
        labels: Some(labels),
        host_config: Some(host),
        ..Default::default()
    };
    let client = engine.client().await?;
    let failure = |error| engine.failure(error);
    let name = format!("coracle_firewall_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::new().name(&name).build();
    let made = client.create_container(Some(options), body).await.map_err(failure)?;
    let ran = async {
        client.start_container(&made.id, None::<StartContainerOptions>).await.map_err(failure)?;
        let ended = client.wait_container(&made.id, None::<WaitContainerOptions>).next().await;
        match ended {
            Some(Ok(_)) => Ok(()),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
                let said = client.logs(&made.id, Some(options)).filter_map(|line| async move { line.ok() });
                let said: Vec<String> = said.map(|line| line.to_string()).collect().await;
                let said: String = said.concat().trim().chars().take(MOST_WORDS).collect();
                Err(Failure::Refused(format!(
                    "cannot enforce the NetworkPolicies of the pod: {program} exited with {code}: {said}"
                )))
            }
            Some(Err(error)) => Err(failure(error)),
            None => Err(Failure::Refused("the engine does not tell how the pod's packet filter was set".to_owned())),
        }
    };
    let ran = ran.await;
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let _ = client.remove_container(&made.id, Some(options)).await;
    ran
}

/// The labels of what is made for a pod's filter.
pub fn labels(naming: &spec::Naming<'_>, pod: &super::SandboxSpec) -> HashMap<String, String> {
    spec::labels(naming, pod, "FIREWALL", 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    #[test]
    fn openings_are_chains_and_all_else_is_refused() {
        let web = Ports { transport: Transport::Tcp, first: 80, last: 90 };
        let rules = Confinement {
            ingress: Some(vec![
                Opening { peers: nets(&["10.0.0.1/32", "::1/128"]), except: Vec::new(), ports: None },
                Opening { peers: nets(&["10.0.0.0/8"]), except: nets(&["10.0.0.9/32"]), ports: Some(vec![web]) },
            ]),
            egress: None,
        };
        let wanted = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:INPUT-1 -\n\
            -A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
            -A INPUT -s 10.0.0.1/32 -j ACCEPT\n\
            -A INPUT-1 -s 10.0.0.9/32 -j RETURN\n-A INPUT-1 -p tcp --dport 80:90 -j ACCEPT\n\
            -A INPUT -s 10.0.0.0/8 -j INPUT-1\n\
            -A INPUT -p tcp -j REJECT --reject-with tcp-reset\n-A INPUT -j REJECT\nCOMMIT\n";
        assert_eq!(table(Some(&rules)), wanted);
        assert_eq!(table(None), "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n");
        let shut = Confinement { ingress: None, egress: Some(Vec::new()) };
        assert!(table(Some(&shut)).contains("-A OUTPUT -j REJECT\n"));
    }
}
