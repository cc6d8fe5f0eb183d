//! What a node and its worker say to each other. Both are the same program, of the same file.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::wasm::Form;
use super::super::{Exit, Grants, InstancePolicy, Mount, RunState, SandboxSpec, StartError, TerminalSize, Usage};
use crate::wire::{Named, Transport};

/// The worker's paths: what a node asks of it.
pub mod worker {
    pub const IMAGE: &str = "/image";
    pub const POD: &str = "/pod";
    pub const FORGET: &str = "/forget";
    pub const START: &str = "/start";
    pub const STOP: &str = "/stop";
    pub const CALL: &str = "/call";
    pub const EXEC: &str = "/exec";
}

/// The node's paths: what a worker asks of it.
pub mod node {
    pub const SEND: &str = "/send";
    pub const ROUTE: &str = "/route";
    pub const ADMIT: &str = "/admit";
    pub const RESOLVE: &str = "/resolve";
}

/// Compiled code follows in the body.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageAbout {
    /// [`super::super::wasm::WasmRuntime::name_of`] it.
    pub name: String,
    pub form: Form,
}

/// [`SandboxSpec`] without the way out, which stays with the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct PodAbout {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub ip: IpAddr,
    pub memory_limit: Option<u64>,
    pub cpu_limit_millis: Option<u64>,
}

impl From<&SandboxSpec> for PodAbout {
    fn from(spec: &SandboxSpec) -> Self {
        let SandboxSpec { uid, namespace, name, hostname, ip, memory_limit, cpu_limit_millis, .. } = spec.clone();
        Self { uid, namespace, name, hostname, ip, memory_limit, cpu_limit_millis }
    }
}

/// A container's life, by the number that the node gave it; unique in its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LifeId(pub u64);

/// [`super::super::ContainerSpec`] with the image's name for the image, and without the streams.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begin {
    pub life: LifeId,
    /// The pod's uid.
    pub pod: String,
    pub name: String,
    pub image: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub memory_limit: Option<u64>,
    pub cpu_limit_millis: Option<u64>,
    pub cpu_request_millis: Option<u64>,
    /// Whether input follows.
    pub input: bool,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    pub grants: Grants,
    pub instances: InstancePolicy,
}

/// What a worker tells of a life.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    Refused(Refusal),
    Started { http: bool, state: State },
    Usage(Usage),
    Exited(State),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Refusal {
    MissingImport(String),
    NotMade(String),
    Other(String),
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::MissingImport(why) => Self::MissingImport(why),
            StartError::NotMade(why) => Self::NotMade(why),
            StartError::Other(why) => Self::Other(why),
        }
    }
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::MissingImport(why) => Self::MissingImport(why),
            Refusal::NotMade(why) => Self::NotMade(why),
            Refusal::Other(why) => Self::Other(why),
        }
    }
}

/// [`RunState`] that can be written.
#[derive(Debug, Serialize, Deserialize)]
pub enum State {
    Running { started_at: SystemTime },
    Exited { code: i32, reason: String, message: String, started_at: SystemTime, finished_at: SystemTime },
}

/// The reasons there are.
const REASONS: [&str; 3] = ["Completed", "Error", "OOMKilled"];

impl From<&RunState> for State {
    fn from(state: &RunState) -> Self {
        match state.clone() {
            RunState::Running { started_at } => Self::Running { started_at },
            RunState::Exited(Exit { code, reason, message, started_at, finished_at }) => {
                Self::Exited { code, reason: reason.to_owned(), message, started_at, finished_at }
            }
        }
    }
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Running { started_at } => Self::Running { started_at },
            State::Exited { code, reason, message, started_at, finished_at } => {
                let reason = REASONS.into_iter().find(|known| *known == reason).unwrap_or("Error");
                Self::Exited(Exit { code, reason, message, started_at, finished_at })
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Stop {
    pub life: LifeId,
    pub grace: Duration,
}

/// A command to be run beside a container; its input follows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    pub life: LifeId,
    pub args: Vec<String>,
    pub program_names: Vec<String>,
    /// Of the terminal, if there is one.
    pub terminal: Option<TerminalSize>,
}

/// How it ended; the error says why nothing was run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Executed(pub Result<(i32, String), String>);

/// A guest's call to the outside; the call is packed around it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Send {
    /// The pod's uid.
    pub pod: String,
    pub connect: Duration,
    pub first_byte: Duration,
    pub between_bytes: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Route {
    pub pod: String,
    pub to: SocketAddr,
    pub transport: Transport,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Admit {
    pub pod: String,
    pub from: SocketAddr,
    pub port: u16,
    pub transport: Transport,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Resolve {
    pub pod: String,
    pub host: String,
}

/// The answers to these.
pub type Routed = SocketAddr;
pub type Admitted = bool;
pub type Resolved = Named;
