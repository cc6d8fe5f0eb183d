//! `coracle guest-worker`: a process for pods that ask for one. See [`crate::runtime::isolated`].

use anyhow::Result;

use crate::runtime::isolated::run_worker;

/// Run guests of a node that asks through a socket; a node starts this, people do not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose guests they are, for those who look at the list of processes.
    #[arg(value_name = "WHOSE")]
    _whose: String,
}

pub fn run(_: Args) -> Result<()> {
    crate::telemetry::start("info");
    super::block_on(super::cores(), run_worker())
}
