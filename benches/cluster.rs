//! The whole, through the binary: what a user of `coracle up` waits for, and what it weighs.
//!
//! `cargo bench --bench cluster` measures everything; `cargo bench --bench cluster -- heal kill` only
//! the sections named: `start`, `apply`, `thousand`, `density`, `live`, `neighbour`, `heal`, `kill`,
//! `crash`, `requests`, `docker`, `api`. Each starts a cluster of its own, on free ports, in a directory of its own. Nothing is asserted: the goals are printed beside
//! the figures. `requests` needs `wrk` and `wasmtime` on the PATH, and says so when they are missing.

#[path = "cluster/api.rs"]
mod api;
#[path = "cluster/dense.rs"]
mod dense;
#[path = "cluster/docker.rs"]
mod docker;
#[path = "cluster/harness.rs"]
mod harness;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/sections.rs"]
mod sections;

/// One part of the report.
struct Section {
    name: &'static str,
    run: fn(),
}

const SECTIONS: &[Section] = &[
    Section { name: "start", run: sections::start },
    Section { name: "apply", run: sections::apply },
    Section { name: "thousand", run: sections::thousand },
    Section { name: "density", run: dense::density },
    Section { name: "live", run: dense::live },
    Section { name: "neighbour", run: dense::neighbour },
    Section { name: "heal", run: sections::heal },
    Section { name: "kill", run: sections::kill },
    Section { name: "crash", run: sections::crash },
    Section { name: "requests", run: sections::requests },
    Section { name: "docker", run: docker::docker },
    Section { name: "api", run: api::api },
];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for section in SECTIONS {
        if asked.is_empty() || asked.iter().any(|name| name == section.name) {
            println!("\n{}", section.name);
            (section.run)();
        }
    }
}
