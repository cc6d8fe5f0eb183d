//! `coracle completion SHELL`.

use clap::CommandFactory;

/// Print a completion script: `source <(coracle completion bash)`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell that will read it.
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "coracle", &mut std::io::stdout());
    Ok(())
}
