//! What a pod's packets are held to, where its node does not see its connections: NetworkPolicy as a list.

use ipnet::IpNet;

use super::Transport;

/// What a pod is open to, by direction; `None`: everything. Answers to what was let pass always are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    pub ingress: Option<Vec<Opening>>,
    pub egress: Option<Vec<Opening>>,
}

/// These addresses but for some, on these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub peers: Vec<IpNet>,
    pub except: Vec<IpNet>,
    /// `None`: every port of every protocol.
    pub ports: Option<Vec<Ports>>,
}

/// A range of ports, both ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub transport: Transport,
    pub first: u16,
    pub last: u16,
}

impl Opening {
    /// Open to one address.
    pub fn of(ip: std::net::IpAddr, ports: Option<Vec<Ports>>) -> Self {
        Self { peers: vec![ip.into()], except: Vec::new(), ports }
    }
}
