//! `coracle compile-module`: the child in which a node compiles. See [`crate::runtime::wasm`].

use std::path::PathBuf;

use anyhow::Result;

use crate::runtime::ImageSource;
use crate::runtime::wasm::{CompileRequest, compile_as_child};

/// Compile one module into a node's cache; a node runs this, people do not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The module.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The module's digest.
    #[arg(long, value_name = "DIGEST")]
    digest: String,
    /// What the image is called.
    #[arg(long, value_name = "REF")]
    reference: String,
    /// Run its initialisation first, and compile what that leaves.
    #[arg(long)]
    snapshot: bool,
    /// The node's cache of compiled code.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let Args { file, digest, reference, snapshot, cache } = args;
    let request = CompileRequest { source: ImageSource { reference, path: file, digest, snapshot }, cache: &cache };
    std::process::exit(i32::from(compile_as_child(&request)));
}
