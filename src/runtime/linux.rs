//! What pods and containers ask for where they are Linux processes: namespaces, users, capabilities. A
//! runtime whose containers are no processes has no use for it.

use std::net::IpAddr;

/// What the processes of all containers of a pod share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxSandbox {
    /// The machine's own network rather than one of the pod's.
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// The containers see each other's processes.
    pub shared_processes: bool,
    pub dns: Dns,
    /// Lines of `/etc/hosts` beside the usual ones: an address and its names.
    pub hosts: Vec<(String, Vec<String>)>,
    pub ports: Vec<HostPort>,
    pub sysctls: Vec<(String, String)>,
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }

    /// Reads such a file; what it does not know it passes over.
    pub fn parse(text: &str) -> Dns {
        let mut dns = Dns::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last line of its sort counts.
                Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
                Some("options") => dns.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        dns
    }
}

/// A port of the machine that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty: on all of the machine's addresses.
    pub host_ip: String,
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// What one container's process may do and is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxContainer {
    /// `None`: the image's.
    pub working_dir: Option<String>,
    /// `None`: the image's.
    pub user: Option<i64>,
    pub group: Option<i64>,
    /// Groups beside its own.
    pub groups: Vec<i64>,
    /// A start as root is refused.
    pub non_root: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    /// Without `CAP_`; `ALL` stands for all.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Profile,
    pub apparmor: Profile,
    pub tty: bool,
    /// Its standard input is open.
    pub stdin: bool,
    /// … until the first who types there has ended.
    pub stdin_once: bool,
    /// From -1000 (never killed for want of memory) to 1000.
    pub oom_score_adj: i64,
}

/// A profile of the kernel's confinement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's own.
    #[default]
    Runtime,
    Unconfined,
    /// One of the machine's, by name or by the path of its file.
    Local(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolvers_file_is_read_as_it_is_written() {
        let dns = Dns {
            servers: vec![IpAddr::from([10, 0, 0, 10])],
            searches: vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            dns.text(),
            "nameserver 10.0.0.10\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
        );
        assert_eq!(Dns::parse(&dns.text()), dns);
        assert_eq!(Dns::parse("# none\nnameserver here\nsortlist x\n"), Dns::default());
    }
}
