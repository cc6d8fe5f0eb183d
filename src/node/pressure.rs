//! When a machine has too little left, and which pod goes then. Pure.
//!
//! The signals, their arithmetic, the order of pods and the words are the kubelet's, for hard eviction
//! thresholds. A condition that was true stays so for [`TRANSITION`] after it was last seen, lest pods
//! come back to a machine that only just has room. One thing differs: a pod that holds nothing of what
//! is short is never evicted, for that would free nothing.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use tokio::time::Instant;

use super::machine::{Disk, Memory};
use crate::kinds::quantity::Quantity;

/// The kubelet's `evictionPressureTransitionPeriod`.
const TRANSITION: Duration = Duration::from_secs(300);

/// What can be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Memory,
    Disk,
    Inodes,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Inodes];

    /// As `--eviction-hard` names it.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Disk => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
        }
    }

    /// What is low, in the words of a message.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
        }
    }
}

/// An amount below which something is short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    Amount(u64),
    /// Of what there is.
    Percent(f64),
}

impl Threshold {
    fn of(self, total: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}

/// When to evict: `--eviction-hard`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub memory_available: Threshold,
    pub disk_available: Threshold,
    pub inodes_free: Threshold,
}

impl Default for Thresholds {
    /// Memory as the kubelet. Of the disk half of what a kubelet keeps: the machine is often somebody's
    /// own, and pods of Wasm modules take little.
    fn default() -> Self {
        Self {
            memory_available: Threshold::Amount(100 << 20),
            disk_available: Threshold::Percent(5.0),
            inodes_free: Threshold::Percent(2.5),
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    /// `memory.available<100Mi,nodefs.available<10%`; what is not named keeps its default.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut thresholds = Self::default();
        for term in text.split(',').filter(|term| !term.trim().is_empty()) {
            let names = Signal::ALL.map(Signal::name).join(", ");
            let wrong = || {
                format!(
                    "{term:?} is no eviction threshold: write SIGNAL<AMOUNT or SIGNAL<PERCENT%, with a signal of {names}"
                )
            };
            let (signal, amount) = term.split_once('<').ok_or_else(wrong)?;
            let threshold = match amount.trim().strip_suffix('%') {
                Some(percent) => {
                    let percent = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
                    Threshold::Percent(percent.ok_or_else(wrong)?)
                }
                None => {
                    let amount: Quantity = amount.trim().parse().map_err(|_| wrong())?;
                    Threshold::Amount(u64::try_from(amount.units()).map_err(|_| wrong())?)
                }
            };
            let field = match Signal::ALL.into_iter().find(|known| known.name() == signal.trim()).ok_or_else(wrong)? {
                Signal::Memory => &mut thresholds.memory_available,
                Signal::Disk => &mut thresholds.disk_available,
                Signal::Inodes => &mut thresholds.inodes_free,
            };
            *field = threshold;
        }
        Ok(thresholds)
    }
}

/// A threshold that has been met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub signal: Signal,
    pub threshold: u64,
    pub available: u64,
}

/// What is short now, memory first: it kills soonest.
pub fn shortages(thresholds: &Thresholds, memory: &Memory, disk: &Disk) -> Vec<Shortage> {
    let facts = [
        (Signal::Memory, thresholds.memory_available, memory.available(), memory.total),
        (Signal::Disk, thresholds.disk_available, disk.available, disk.total),
        (Signal::Inodes, thresholds.inodes_free, disk.inodes_free, disk.inodes),
    ];
    // What has no total could not be read, or is not counted by that file system.
    let known = facts.into_iter().filter(|(.., total)| *total > 0);
    let of = |(signal, threshold, available, total): (Signal, Threshold, u64, u64)| {
        let threshold = threshold.of(total);
        (available < threshold).then_some(Shortage { signal, threshold, available })
    };
    known.filter_map(of).collect()
}

/// The node's conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
}

/// When each was last seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    memory: Option<Instant>,
    disk: Option<Instant>,
}

impl Seen {
    pub fn note(&mut self, shortages: &[Shortage], now: Instant) -> Pressure {
        for shortage in shortages {
            match shortage.signal {
                Signal::Memory => self.memory = Some(now),
                Signal::Disk | Signal::Inodes => self.disk = Some(now),
            }
        }
        let recent = |seen: Option<Instant>| seen.is_some_and(|seen| now.saturating_duration_since(seen) < TRANSITION);
        Pressure { memory: recent(self.memory), disk: recent(self.disk) }
    }
}

/// A pod that could go.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub containers: Vec<Holding>,
    /// What the pod holds beside its containers: volumes.
    pub shared: u64,
}

/// What a container holds of what is short, and what it requested.
#[derive(Debug, Clone)]
pub struct Holding {
    pub name: String,
    pub used: u64,
    pub requested: u64,
}

impl Candidate {
    /// Of a pod, by what each container holds of what the API calls `resource`; "" has no requests.
    pub fn new(pod: &core::Pod, resource: &str, used: impl Fn(&str) -> u64) -> Self {
        let spec = pod.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let requested = |container: &core::Container| {
            let requests = container.resources.as_ref()?.requests.as_ref()?;
            u64::try_from(requests.get(resource)?.0.parse::<Quantity>().ok()?.units()).ok()
        };
        let holding = |container: &core::Container| Holding {
            name: container.name.clone(),
            used: used(&container.name),
            requested: requested(container).unwrap_or(0),
        };
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            containers: containers.iter().map(holding).collect(),
            shared: 0,
        }
    }

    fn used(&self) -> u64 {
        self.shared + self.containers.iter().map(|container| container.used).sum::<u64>()
    }

    fn requested(&self) -> u64 {
        self.containers.iter().map(|container| container.requested).sum()
    }

    /// The kubelet's order: those beyond their request first, then by priority, then by how far beyond.
    /// So a guaranteed pod, which its limit keeps within its request, is among the last.
    fn rank(&self) -> (bool, i32, Reverse<i128>) {
        let beyond = i128::from(self.used()) - i128::from(self.requested());
        (beyond <= 0, self.priority, Reverse(beyond))
    }
}

/// The pod that goes; `None`: nobody holds anything of what is short.
pub fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().filter(|candidate| candidate.used() > 0).min_by_key(Candidate::rank)
}

/// Upstream's words for the pod's status and its event, with the blank at their end.
pub fn message(shortage: &Shortage, pod: &Candidate) -> String {
    let resource = shortage.signal.resource();
    let amount = |amount: u64| Amount(amount, shortage.signal);
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(shortage.threshold),
        amount(shortage.available)
    );
    for container in pod.containers.iter().filter(|container| container.used > container.requested) {
        text.push_str(&format!(
            "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
            container.name,
            amount(container.used),
            amount(container.requested)
        ));
    }
    text
}

/// As upstream prints a quantity: bytes in binary units, rounded up to kibibytes, other things counted.
struct Amount(u64, Signal);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = i64::try_from(self.0).unwrap_or(i64::MAX);
        match self.1 {
            Signal::Inodes => Quantity::from_units(amount).fmt(f),
            Signal::Memory | Signal::Disk => Quantity::from_bytes(amount).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: u64 = 1 << 20;

    fn pod(uid: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let containers = vec![Holding { name: "c".into(), used: used * MI, requested: requested * MI }];
        Candidate { uid: uid.into(), priority, containers, shared: 0 }
    }

    #[test]
    fn what_is_below_its_threshold_is_short() {
        let memory = Memory { total: 1000 * MI, working_set: 950 * MI, ..Memory::default() };
        let disk = Disk { total: 1000, available: 60, inodes: 0, ..Disk::default() };
        let short = |text: &str| {
            let thresholds: Thresholds = text.parse().expect("thresholds");
            let found = shortages(&thresholds, &memory, &disk);
            found.iter().map(|shortage| shortage.signal).collect::<Vec<_>>()
        };
        assert_eq!(short(""), [Signal::Memory]);
        assert_eq!(short("memory.available<50Mi"), []);
        assert_eq!(short("memory.available<5%,nodefs.available<10%"), [Signal::Disk]);
        assert_eq!(short("nodefs.inodesFree<10%"), [Signal::Memory], "what cannot be counted is not short");
        for wrong in ["memory<1", "memory.available", "memory.available<x", "nodefs.available<200%"] {
            assert!(wrong.parse::<Thresholds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pressure_lasts_a_while_after_it_was_seen() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let shortage = Shortage { signal: Signal::Memory, threshold: 2, available: 1 };
        assert_eq!(seen.note(&[], now), Pressure::default());
        assert_eq!(seen.note(&[shortage], now), Pressure { memory: true, disk: false });
        assert!(seen.note(&[], now + TRANSITION / 2).memory);
        assert!(!seen.note(&[], now + TRANSITION).memory);
    }

    #[test]
    fn the_one_furthest_beyond_its_request_goes_and_the_guaranteed_last() {
        let chosen = |pods: Vec<Candidate>| choose(pods).map(|pod| pod.uid).unwrap_or_default();
        let guaranteed = || pod("guaranteed", 0, 900, 1000);
        assert_eq!(chosen(vec![guaranteed(), pod("best-effort", 0, 10, 0), pod("burstable", 0, 60, 20)]), "burstable");
        assert_eq!(chosen(vec![guaranteed(), pod("best-effort", 0, 10, 0)]), "best-effort");
        assert_eq!(chosen(vec![pod("low", -1, 10, 0), pod("high", 5, 500, 0)]), "low");
        assert_eq!(chosen(vec![pod("near", 0, 95, 100), pod("far", 0, 10, 100)]), "near");
        assert_eq!(chosen(vec![pod("idle", 0, 0, 0)]), "");
    }

    #[test]
    fn the_message_is_upstreams() {
        let shortage = Shortage { signal: Signal::Memory, threshold: 100 * MI, available: 82 * MI };
        let want = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 82Mi. \
                    Container c was using 60Mi, request is 20Mi, has larger consumption of memory. ";
        assert_eq!(message(&shortage, &pod("p", 0, 60, 20)), want);
    }
}
