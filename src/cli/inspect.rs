//! `coracle inspect`.

use anyhow::Result;

use super::artifact::{Account, fetch, size};
use crate::runtime::wasm::inspect;

/// Show what a module is: its kind, world, imports, exports, size and digest.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .wasm or .wat file, or an image in a registry.
    #[arg(value_name = "FILE|REF")]
    place: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    account: Account,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let module = fetch(&args.place, &args.account).await?;
        let found = inspect(&module.bytes).map_err(|why| anyhow::anyhow!("{}: {why}", args.place))?;
        if args.json {
            let json = serde_json::json!({
                "kind": found.kind.to_string(), "world": found.target, "imports": found.imports,
                "exports": found.exports, "bytes": found.bytes, "memoryBytes": found.memory_bytes,
                "digest": found.digest, "manifestDigest": module.manifest,
            });
            println!("{}", serde_json::to_string_pretty(&json)?);
            return Ok(());
        }
        println!("kind:     {}", found.kind);
        println!("world:    {}", found.target.as_deref().unwrap_or("none that is known"));
        println!("size:     {} ({} bytes)", size(found.bytes), found.bytes);
        println!("memory:   {} at start", size(found.memory_bytes));
        println!("digest:   {}", found.digest);
        if let Some(manifest) = &module.manifest {
            println!("manifest: {manifest}");
        }
        list("imports", &found.imports);
        list("exports", &found.exports);
        Ok(())
    })
}

fn list(what: &str, names: &[String]) {
    println!("{what}:  {}", if names.is_empty() { "none" } else { "" });
    for name in names {
        println!("  {name}");
    }
}
