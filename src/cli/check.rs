//! `coracle check`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::artifact::{Account, fetch, size};
use crate::runtime::wasm::{check, inspect};

/// Tell whether and how a module will run here, before it is deployed. Exit code 1: it will not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .wasm or .wat file, or an image in a registry.
    #[arg(value_name = "FILE|REF")]
    place: String,
    #[command(flatten)]
    account: Account,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let place = &args.place;
        let module = fetch(place, &args.account).await?;
        let refused = |why: String| anyhow::anyhow!("{place} will not run here: {why}");
        let found = inspect(&module.bytes).map_err(refused)?;
        let verdict = check(&found, Some(PathBuf::from("/proc/self/exe"))).await?;
        println!("kind:    {}", found.kind);
        println!("memory:  {} at start; a lower limit ends it before it begins", size(found.memory_bytes));
        println!("imports: {}", found.imports.len());
        match verdict.entry {
            Ok((export, what)) => {
                println!("{place} will run as {what}, by its export {export}; all its imports are provided")
            }
            Err(why) => bail!(refused(why)),
        }
        Ok(())
    })
}
