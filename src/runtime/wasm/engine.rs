//! The engine: how guest code is compiled, where instances live, and how many there may be.
//!
//! One engine a process, and one more. Instances live in a pool of slots that are mapped once and reused, so that an
//! instance per request costs microseconds: a slot's first pages stay resident and are reset by copying,
//! and memories start as copy-on-write images of the module's data. What bounds the pool is not memory
//! but the kernel's count of mappings: each stack takes two from the start, each live memory up to four.
//! A machine that cannot give the pool its address space gets a smaller pool, and at last none.
//!
//! Programs of WASI 0.3 have an engine of their own, made when the first of them comes: to suspend one
//! task of an instance for another takes bookkeeping in each call, which the others need not pay for.

use std::num::NonZeroUsize;
use std::sync::Arc;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::ticker::Ticker;

/// What an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// WASI 0.1 and 0.2: an instance is in one call at a time.
    Alone,
    /// WASI 0.3: calls of an instance wait for each other and for the host.
    Concurrent,
}

/// Instances at a time when nothing else bounds them. More are queued, then answered with "overloaded".
/// Their memories, with 4 GiB and guards reserved for each, take 73 TiB in one piece. A process has 128, but the
/// kernel puts the program itself in their midst, at 85, and the allocator begins somewhere below 6.
const MAX_INSTANCES: u32 = 12_000;
/// The same of programs of WASI 0.3.
const MAX_CONCURRENT: u32 = 1024;
/// The part of the mappings that those have: one in so many.
const CONCURRENT_PART: u32 = 5;
/// A machine that cannot hold this many is served without a pool.
const MIN_INSTANCES: u32 = 16;
/// Mappings one instance may take: its stack (2), two memories (4 each when grown), spare.
const MAPS_PER_INSTANCE: u32 = 10;
/// With so many mappings the process has all the instances that it can have.
const WANTED_MAPS: u32 = MAPS_RESERVED + (MAX_INSTANCES + MAX_CONCURRENT) * MAPS_PER_INSTANCE;
/// Mappings left to everything else in the process: code, threads, the allocator, files.
const MAPS_RESERVED: u32 = 12_000;
/// Linux's default, should the kernel not say.
const DEFAULT_MAX_MAP_COUNT: u32 = 65_530;

/// The most any one memory may hold; what a 32-bit memory can address. Pods are limited far below.
pub const MAX_MEMORY_BYTES: usize = 4 << 30;
/// Reset by copying rather than by giving pages back, which would fault them in again for the next call.
const MEMORY_KEEP_RESIDENT: usize = 256 << 10;
const TABLE_KEEP_RESIDENT: usize = 16 << 10;
/// Free slots that keep their resident pages; bounds what an idle node holds for speed (about 25 MiB).
const WARM_SLOTS: u32 = 96;
/// Frames of a trap's backtrace: the message must fit a container's termination message.
const BACKTRACE_FRAMES: usize = 24;

/// The engine with what belongs to it.
pub struct HostEngine {
    pub engine: Engine,
    pub calls: Calls,
    pub ticker: Arc<Ticker>,
    /// Instances that may live at a time.
    pub capacity: usize,
    /// Whether instances come from the pool; without it each costs system calls.
    pub pooled: bool,
}

impl HostEngine {
    /// Makes the engine with room for `max_instances`, or as many as this machine can hold.
    pub fn new(calls: Calls, max_instances: Option<u32>) -> wasmtime::Result<Self> {
        let fitting = fitting_instances(calls, max_map_count());
        let mut count = max_instances.unwrap_or(MAX_INSTANCES).min(fitting).max(1);
        loop {
            match Engine::new(&pooled(calls, count)) {
                Ok(engine) => return Self::with(calls, engine, count as usize, true),
                Err(error) if count > MIN_INSTANCES => {
                    tracing::warn!(count, "cannot reserve the instance pool, trying half of it: {error:#}");
                    count = (count / 2).max(MIN_INSTANCES);
                }
                Err(error) => {
                    tracing::warn!("no instance pool, instances are mapped one by one: {error:#}");
                    return Self::with(calls, Engine::new(&base(calls))?, count as usize, false);
                }
            }
        }
    }

    fn with(calls: Calls, engine: Engine, capacity: usize, pooled: bool) -> wasmtime::Result<Self> {
        let ticker = Ticker::start(engine.clone())?;
        Ok(Self { engine, calls, ticker: Arc::new(ticker), capacity, pooled })
    }
}

/// Why no more than `capacity` instances fit, and what would let more in.
pub fn full(engine: &HostEngine) -> String {
    explain_full(engine.calls, engine.capacity, max_map_count())
}

fn explain_full(calls: Calls, capacity: usize, max_map_count: u32) -> String {
    let most = fitting_instances(calls, WANTED_MAPS);
    let used = format!("all {capacity} instances that this node can hold are in use");
    if capacity >= most as usize || max_map_count >= WANTED_MAPS {
        return used;
    }
    format!("{used}; `sysctl -w vm.max_map_count={WANTED_MAPS}` and a restart of the node make room for {most}")
}

/// How many instances fit under the kernel's bound on mappings.
fn fitting_instances(calls: Calls, max_map_count: u32) -> u32 {
    let all = max_map_count.saturating_sub(MAPS_RESERVED) / MAPS_PER_INSTANCE;
    let concurrent = (all / CONCURRENT_PART).min(MAX_CONCURRENT);
    let count = match calls {
        Calls::Alone => all - concurrent,
        Calls::Concurrent => concurrent,
    };
    count.max(MIN_INSTANCES)
}

fn max_map_count() -> u32 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_MAP_COUNT)
}

/// What holds with and without the pool.
pub fn base(calls: Calls) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.concurrency_support(calls == Calls::Concurrent);
    // Memories shared between threads escape the limiter, and no WASI that is served starts threads.
    config.wasm_threads(false);
    config.wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES));
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.memory_init_cow(true);
    config.parallel_compilation(true);
    config
}

/// The memories of so many instances. Nearly all have one; those that are composed of several programs have
/// more, and where they are many the host is full earlier.
fn memories(instances: u32) -> u32 {
    (instances / 2 * 3).max(16)
}

fn pooled(calls: Calls, count: u32) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(count)
        // A component made by today's tools has up to a handful of core instances (the module, its
        // adapter, two shims); these are counters, not reservations.
        .total_core_instances(count.saturating_mul(8))
        .total_memories(memories(count))
        .total_tables(count.saturating_mul(4))
        // A task that waits within a call of the host keeps its stack while others run.
        .total_stacks(if calls == Calls::Concurrent { count.saturating_mul(2) } else { count })
        .total_gc_heaps(count.min(64))
        .max_memory_size(MAX_MEMORY_BYTES)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .table_elements(50_000)
        .max_core_instances_per_component(64)
        .max_memories_per_component(16)
        .max_tables_per_component(32)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT);
    let mut config = base(calls);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_fits_under_the_bound_on_mappings() {
        let both = |maps| [Calls::Alone, Calls::Concurrent].map(|calls| fitting_instances(calls, maps));
        assert_eq!(both(65_530), [4329, 1024]);
        assert_eq!(both(1_048_576), [102_633, 1024]);
        assert_eq!(both(32_000), [1600, 400]);
        assert_eq!(both(1000), [MIN_INSTANCES, MIN_INSTANCES]);
        assert_eq!(both(WANTED_MAPS), [MAX_INSTANCES, MAX_CONCURRENT]);
    }

    #[test]
    fn a_full_host_names_the_setting_that_bounds_it() {
        let said = explain_full(Calls::Alone, 4329, 65_530);
        assert!(said.starts_with("all 4329 instances") && said.contains("vm.max_map_count=142240"), "{said}");
        assert!(said.ends_with("make room for 12000"), "{said}");
        assert!(!explain_full(Calls::Alone, MAX_INSTANCES as usize, 65_530).contains("sysctl"));
        assert!(!explain_full(Calls::Concurrent, 1024, 65_530).contains("sysctl"));
        assert!(!explain_full(Calls::Alone, 100, 1 << 20).contains("sysctl"), "the flag bounds it");
    }

    #[test]
    fn the_largest_pool_fits_into_the_address_space() {
        assert!(Engine::new(&pooled(Calls::Alone, MAX_INSTANCES)).is_ok());
    }

    #[test]
    fn an_engine_is_made_with_the_room_asked_for() {
        for calls in [Calls::Alone, Calls::Concurrent] {
            let host = HostEngine::new(calls, Some(20)).unwrap();
            assert_eq!(host.capacity, 20);
            assert!(host.pooled);
        }
    }
}
