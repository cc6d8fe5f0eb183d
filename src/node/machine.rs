//! What the machine under the node has used: its own figures, from `/proc` and the file system.
//!
//! They are the machine's, whoever used it: several nodes on one machine tell the same. The node's own
//! process, of which all its guests are part, is told apart.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::usage::Rate;

/// Reads the figures, and keeps what rates need.
pub struct Machine {
    data_dir: PathBuf,
    rates: Mutex<Rates>,
}

struct Rates {
    machine: Rate,
    process: Rate,
}

/// The machine, now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Processor time since the machine's start.
    pub cpu: Duration,
    pub cpu_nanocores: u64,
    pub window: Duration,
    pub memory: Memory,
    pub disk: Disk,
    /// The node's process.
    pub process: Process,
}

/// As the kubelet counts a machine's memory: the working set is what cannot be had back by dropping
/// file pages that nobody has used lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub usage: u64,
    pub working_set: u64,
    pub rss: u64,
}

impl Memory {
    pub fn available(&self) -> u64 {
        self.total.saturating_sub(self.working_set)
    }
}

/// The file system of the node's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub total: u64,
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    pub cpu: Duration,
    pub cpu_nanocores: u64,
    pub rss: u64,
}

impl Machine {
    pub fn new(data_dir: &Path) -> Self {
        let now = Instant::now();
        let rates = Rates { machine: Rate::begin(now, cpu()), process: Rate::begin(now, process_cpu()) };
        Self { data_dir: data_dir.to_owned(), rates: Mutex::new(rates) }
    }

    /// Remembers the counters as they are now, for rates.
    pub fn mark(&self, at: Instant) {
        let (machine, process) = (cpu(), process_cpu());
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.machine.mark(at, machine);
        rates.process.mark(at, process);
    }

    pub fn figures(&self, at: Instant) -> Figures {
        let (cpu, process) = (cpu(), process_cpu());
        let (machine_rate, process_rate) = {
            let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
            (rates.machine.nanocores(at, cpu), rates.process.nanocores(at, process))
        };
        Figures {
            cpu,
            cpu_nanocores: machine_rate.0,
            window: machine_rate.1,
            memory: memory(),
            disk: disk(&self.data_dir),
            process: Process { cpu: process, cpu_nanocores: process_rate.0, rss: resident_bytes().unwrap_or(0) },
        }
    }
}

fn cpu() -> Duration {
    let ticks = std::fs::read_to_string("/proc/stat").ok().and_then(|text| busy_ticks(&text)).unwrap_or(0);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// Ticks in which any processor worked for this machine: not idle, not waiting, not stolen.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq; the time of virtual machines is part of user.
    let busy = [0, 1, 2, 5, 6].map(|field| ticks.get(field).copied().unwrap_or(0));
    (ticks.len() >= 4).then(|| busy.iter().sum())
}

pub fn memory() -> Memory {
    std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_of(&text)).unwrap_or_default()
}

fn memory_of(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = field("MemTotal")?;
    let usage = total.saturating_sub(field("MemFree")?);
    let working_set = usage.saturating_sub(field("Inactive(file)").unwrap_or(0));
    Some(Memory { total, usage, working_set, rss: field("AnonPages").unwrap_or(0) })
}

pub fn disk(dir: &Path) -> Disk {
    let Ok(stat) = rustix::fs::statvfs(dir) else { return Disk::default() };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Disk {
        total: bytes(stat.f_blocks),
        available: bytes(stat.f_bavail),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    }
}

fn process_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_waiting_is_not() {
        let stat = "cpu  10 20 30 1000 500 1 2 400 7 0\ncpu0 10 20 30 1000 500 1 2 400 7 0\n";
        assert_eq!(busy_ticks(stat), Some(63));
        assert_eq!(busy_ticks("intr 1 2 3"), None);
        assert_eq!(busy_ticks("cpu  many"), None);
    }

    #[test]
    fn file_pages_out_of_use_are_no_working_set() {
        let text = "MemTotal: 1000 kB\nMemFree: 300 kB\nAnonPages: 200 kB\nInactive: 150 kB\nInactive(file): 100 kB\n";
        let memory = memory_of(text).expect("the figures");
        let kib = |n: u64| n * 1024;
        assert_eq!(memory, Memory { total: kib(1000), usage: kib(700), working_set: kib(600), rss: kib(200) });
        assert_eq!(memory.available(), kib(400));
        assert_eq!(memory_of("MemTotal: 1000 kB"), None);
    }

    #[test]
    fn this_machine_has_figures() {
        let machine = Machine::new(Path::new("/"));
        let figures = machine.figures(Instant::now());
        assert!(figures.cpu > Duration::ZERO && figures.process.rss > 0 && figures.memory.working_set > 0);
        assert!(figures.disk.total >= figures.disk.used);
    }
}
