//! What the commands about images share: a module from a file or from a registry, and who asks.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::registries::Registries;
use crate::oci::{self, Credentials, Puller, Reference};
use crate::runtime::wasm::MAX_MODULE_BYTES;

/// The flags of all commands that speak to registries for a person.
#[derive(Debug, Clone, clap::Args)]
pub struct Account {
    /// The account at the registry [default: that of `docker login`].
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the account's password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    pub registries: Registries,
}

impl Account {
    /// What to show the registry of `reference`.
    pub fn credentials(&self, reference: &Reference) -> Result<Credentials> {
        let Some(user) = &self.username else {
            return oci::docker_config().map_err(anyhow::Error::msg);
        };
        let mut password = String::new();
        std::io::stdin().read_to_string(&mut password).context("cannot read the password from standard input")?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Credentials::account(reference.registry(), user.clone(), password))
    }
}

pub fn reference(text: &str) -> Result<Reference> {
    text.parse().with_context(|| format!("{text:?} is no image reference: write it as HOST:PORT/NAME:TAG"))
}

/// A module's bytes, and where they came from.
pub struct Fetched {
    pub bytes: Vec<u8>,
    /// The manifest's digest, if a registry had it.
    pub manifest: Option<String>,
}

/// The module of a file or, if `place` is the name of none, of an image.
pub async fn fetch(place: &str, account: &Account) -> Result<Fetched> {
    let path = Path::new(place);
    if path.is_file() {
        return Ok(Fetched { bytes: read(path)?, manifest: None });
    }
    let meant_as_file = [".wasm", ".wat"].iter().any(|end| place.ends_with(end)) || place.starts_with(['.', '/']);
    if meant_as_file {
        bail!("there is no file {place}");
    }
    let reference = reference(place)?;
    let credentials = account.credentials(&reference)?;
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let puller = Puller::open(dir.path(), account.registries.trust()?)?;
    let pulled = puller.pull(&reference, &credentials, &Arc::default()).await;
    let pulled = pulled.with_context(|| format!("there is no file {place}, and it cannot be pulled as an image"))?;
    Ok(Fetched { bytes: read(&pulled.path)?, manifest: Some(pulled.manifest) })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_MODULE_BYTES {
        bail!("{} has {size} bytes; a node takes at most {MAX_MODULE_BYTES}", path.display());
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Bytes for a person: `1.1 MiB`.
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [(17, "17 bytes"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
