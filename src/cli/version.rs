//! `coracle version`.

/// Print the versions of Coracle, of the Kubernetes API it serves and of its Wasm runtime.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<()> {
    println!("coracle {}", env!("CARGO_PKG_VERSION"));
    println!("kubernetes API {}", crate::apiserver::health::GIT_VERSION);
    println!("wasmtime {}", crate::runtime::wasm::ENGINE_VERSION);
    Ok(())
}
