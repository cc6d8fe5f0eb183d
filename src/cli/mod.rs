//! The command line: one file a command, one row each in [`Command`].
//!
//! A command's `Args` are what was typed; its `run` checks them into a configuration and hands that to
//! [`crate::app`]. Errors are printed with their chain of causes and, where there is one, the next step.

pub mod apply;
mod artifact;
mod audit;
pub mod check;
pub mod compile_module;
pub mod completion;
pub mod compose_components;
pub mod connect;
pub mod delete;
pub mod describe;
pub mod get;
pub mod guest_worker;
mod image_gc;
pub mod inspect;
pub mod logs;
pub mod node;
mod progress;
pub mod push;
mod registries;
pub mod resource;
pub mod rollout;
pub mod run;
pub mod scale;
pub mod server;
mod stream;
pub mod top;
pub mod up;
pub mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Kubernetes for WebAssembly in one binary.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "A cluster with a shop in it:  coracle up -f manifests/shop.yaml\nThen, as ever:               kubectl get pods -A"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    Up(up::Args),
    Server(server::Args),
    Node(node::Args),
    Run(run::Args),
    Get(get::Args),
    Apply(apply::Args),
    Delete(delete::Args),
    Describe(describe::Args),
    Logs(logs::Args),
    Scale(scale::Args),
    Top(top::Args),
    Rollout(rollout::Args),
    Push(push::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Version(version::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    CompileModule(compile_module::Args),
    #[command(hide = true)]
    ComposeComponents(compose_components::Args),
    #[command(hide = true)]
    GuestWorker(guest_worker::Args),
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(args) => up::run(args),
            Self::Server(args) => server::run(args),
            Self::Node(args) => node::run(args),
            Self::Run(args) => run::run(args),
            Self::Get(args) => get::run(args),
            Self::Apply(args) => apply::run(args),
            Self::Delete(args) => delete::run(args),
            Self::Describe(args) => describe::run(args),
            Self::Logs(args) => logs::run(args),
            Self::Scale(args) => scale::run(args),
            Self::Top(args) => top::run(args),
            Self::Rollout(args) => rollout::run(args),
            Self::Push(args) => push::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Check(args) => check::run(args),
            Self::Version(args) => version::run(args),
            Self::Completion(args) => completion::run(args),
            Self::CompileModule(args) => compile_module::run(args),
            Self::ComposeComponents(args) => compose_components::run(args),
            Self::GuestWorker(args) => guest_worker::run(args),
        }
    }
}

/// Parses the process's arguments and runs the command. 1 for a failure, 2 for a misuse.
pub fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An asynchronous runtime with `threads` workers, for the whole of `future`.
pub(crate) fn block_on<F>(threads: usize, future: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(future);
    // Blocking reads (standard input, a disk that hangs) must not keep a finished command.
    runtime.shutdown_background();
    result
}

/// How many threads a serving process gets: one a core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_of_commands_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
        }
    }
}
