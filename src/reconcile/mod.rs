//! The kit that every client of the API in this process is built with.
//!
//! It owns the machinery which a controller, the scheduler and a node agent have in common: one
//! [`Shared`] watch per kind and process, handed out by a [`Cluster`]; a work [`Queue`] that runs one
//! key at a time; the trait [`Reconciler`], whose `plan` is pure and whose [`Write`]s one generic
//! executor carries out; a [`Recorder`] of events.
//!
//! Two promises hold the rest up:
//!
//! - **A trigger carries no payload.** A notification says that something about an object may have
//!   changed; whoever gets it reads the present state. So triggers may be merged, repeated or lost to
//!   a restart: a slow full scan stands behind each of them.
//! - **A planner never sees less than it has written.** The answer to each write goes into the shared
//!   store at once, before the watch brings it, so a plan made in between neither repeats a creation
//!   nor chooses a second victim. What the watch then delivers late is recognised by its revision.
//!
//! The room knows no kind in particular and decides nothing about one.

mod changes;
mod cluster;
mod events;
#[cfg(test)]
pub mod fake;
mod figures;
mod key;
mod queue;
mod reconciler;
mod shared;
mod store;
mod write;

pub use changes::{Change, Changes};
pub use cluster::{Cluster, Selection};
pub use events::{EventKind, Recorder};
pub use figures::WorkQueues;
pub use key::{ObjectKey, owner_uid};
pub use queue::Queue;
pub use reconciler::{Plan, Reconciler, Step, execute, run, work};
pub use shared::{Shared, Watched};
pub use write::{Action, Note, ResourceType, Write, WriteError, delete_options, note, reason};
