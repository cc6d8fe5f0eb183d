//! The binary as a user meets it: `coracle up`, stock kubectl, requests, and faults.
//!
//! Each test has a cluster of its own, on free ports, in a directory of its own. Waiting is always for a
//! condition with a deadline.

mod admission;
mod apply;
mod autoscaler;
mod certificates;
mod cli;
mod clients;
mod compile;
mod corpus;
mod custom;
mod debug;
mod docker;
mod faults;
mod guests;
mod harness;
mod healing;
mod hooks;
mod isolation;
mod kinds;
mod kubectl;
mod languages;
mod limits;
mod local_storage;
mod metrics;
mod neighbours;
mod oracle;
mod policies;
mod priorities;
mod proxies;
mod rbac;
mod registry;
mod rollout;
mod services;
mod shop;
mod sockets;
mod streams;
mod terminal;
mod visits;
mod wagi;
mod workloads;
