//! What a node is told when it starts. Everything else it learns from the API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use ipnet::{IpNet, Ipv4Net};

use super::image_gc::ImageGc;
pub use super::pressure::Thresholds;
use crate::oci::Trust;

/// The configuration of one node, checked by whoever made it (the command line).
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `metadata.name` of its Node object.
    pub name: String,
    /// Private to this node: volumes, logs, caches.
    pub data_dir: PathBuf,
    /// Where image references are looked up, in this order. The first is the node's own: it may be
    /// written to by whoever brings modules (`coracle run`), and the Node's annotations tell of it.
    pub images_dirs: Vec<PathBuf>,
    /// Which registries images are pulled from that those directories lack, and how far they are trusted.
    pub trust: Trust,
    /// When pulled images are removed.
    pub image_gc: ImageGc,
    /// The addresses its pods get; written to `spec.podCIDR`.
    pub pod_cidr: IpNet,
    /// Those of them that are for pods with a network of their own; `None` if no runtime has such.
    pub bridged: Option<Bridged>,
    /// The node's own address, `InternalIP` in its status.
    pub address: IpAddr,
    /// Where the node's own HTTP API listens; port 0 takes any free one, the status says which.
    pub listen: SocketAddr,
    /// Where the ingress listens; `None`: this node takes no ingress traffic.
    pub ingress: Option<SocketAddr>,
    /// The ClusterIPs.
    pub service_cidr: IpNet,
    /// Who the node is, towards the API server and those who call it.
    pub tls: NodeTls,
    /// The API server's URL, for the presence stream, which must be a connection of its own. `None`
    /// (a server in the same process, or another Kubernetes): the Lease alone says that the node lives.
    pub server: Option<Uri>,
    /// Where the cluster's DNS server answers, for runtimes whose pods ask one.
    pub dns: Option<IpAddr>,
    /// The name after which guests' short names are completed, `cluster.local` by default.
    pub cluster_domain: String,
    /// Labels beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Below which of the machine's resources pods are evicted.
    pub eviction_hard: Thresholds,
}

/// A part of the pods' addresses that are on a bridge rather than this machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridged {
    pub cidr: Ipv4Net,
    /// The machine's address on it.
    pub gateway: Ipv4Addr,
}

impl NodeConfig {
    /// The default of `max_pods`: what one host process is built to hold.
    pub const MAX_PODS: u32 = 10_000;

    /// The default of `cluster_domain`.
    pub const CLUSTER_DOMAIN: &str = "cluster.local";
}

/// The node's certificate, which serves both as its client and its server certificate. All PEM.
#[derive(Clone)]
pub struct NodeTls {
    /// The cluster's authority: signs the API server's certificate and those of the node API's callers.
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeTls { .. }")
    }
}
