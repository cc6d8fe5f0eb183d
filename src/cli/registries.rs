//! The flags that say which registries are trusted, and how far.

use std::path::PathBuf;

use anyhow::Result;

use crate::oci::Trust;

/// Shared by all that speak to registries.
#[derive(Debug, Clone, clap::Args)]
pub struct Registries {
    /// A PEM file with authorities that registries' certificates may be of, beside the system's; may be given several times.
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// A registry that may speak plain HTTP or have any certificate; one on a loopback address may speak plain HTTP anyway.
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
}

impl Registries {
    pub fn trust(&self) -> Result<Trust> {
        Trust::read(&self.registry_ca, self.insecure_registry.clone())
    }

    /// The same flags for another process, once it is known that it can use them.
    pub fn checked_flags(&self) -> Result<Vec<String>> {
        self.trust()?;
        let mut flags = Vec::new();
        for file in &self.registry_ca {
            flags.extend(["--registry-ca".to_owned(), std::path::absolute(file)?.to_string_lossy().into_owned()]);
        }
        for registry in &self.insecure_registry {
            flags.extend(["--insecure-registry".to_owned(), registry.clone()]);
        }
        Ok(flags)
    }
}
