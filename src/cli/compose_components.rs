//! `coracle compose-components`: the child in which a node composes. See [`crate::runtime::wasm`].

use std::path::PathBuf;

use anyhow::Result;

use crate::runtime::wasm::compose_as_child;

/// Compose the components of containers; a node runs this, people do not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers and their images, as JSON.
    #[arg(value_name = "PARTS")]
    parts: String,
    /// The node's cache of compiled code, on whose shelf the whole is laid.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    std::process::exit(i32::from(compose_as_child(&args.parts, &args.cache)));
}
