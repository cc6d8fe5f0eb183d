//! `coracle push`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::artifact::{self, Account, fetch};
use super::progress::Progress;
use crate::oci::{self, Artifact, Component};
use crate::runtime::wasm::{Kind, inspect};

/// Put a module into a registry, as an OCI Wasm artifact.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Any registry of OCI artifacts takes it:  coracle push app.wasm registry.example/team/app:1\nA pod runs it by the same name:           image: registry.example/team/app:1"
)]
pub struct Args {
    /// The module: a .wasm or .wat file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to: HOST[:PORT]/NAME:TAG.
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    account: Account,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let reference = artifact::reference(&args.reference)?;
        let file = args.file.display().to_string();
        anyhow::ensure!(args.file.is_file(), "there is no file {file}: build the module first");
        let module = fetch(&file, &args.account).await?;
        let found = inspect(&module.bytes).map_err(|why| anyhow::anyhow!("{file} is not pushed: {why}"))?;
        let component = (found.kind != Kind::Module).then(|| Component {
            imports: found.imports.clone(),
            exports: found.exports.clone(),
            target: found.target.clone(),
        });
        // Of the file, not of this moment: the same file pushed twice is the same image.
        let created = std::fs::metadata(&args.file).and_then(|about| about.modified()).ok();
        let created = created.and_then(|time| jiff::Timestamp::try_from(time).ok()).unwrap_or_default();
        let about = Artifact { created: created.to_string(), component };
        let credentials = args.account.credentials(&reference)?;
        let progress = Progress::new();
        progress.say(format!("pushing {reference}"));
        let bytes = found.binary.len() as u64;
        let pushed = oci::push(&args.account.registries.trust()?, &reference, &credentials, found.binary, &about).await;
        progress.done();
        let pushed = pushed.with_context(|| format!("cannot push to {reference}"))?;
        println!("pushed {reference} ({}, {})", found.kind, artifact::size(bytes));
        println!("digest {}", pushed.digest);
        Ok(())
    })
}
