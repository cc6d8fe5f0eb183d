//! OCI registries: where images come from that no file of this machine holds.
//!
//! It owns references as upstream's grammar reads them, what is trusted at which registry, credentials,
//! and the store of what was pulled. A module comes as a Wasm artifact (one layer is the module) or
//! inside an ordinary image (a layer's archive holds it); either way what is kept is the module itself,
//! under its digest, and a record of which reference meant it.
//!
//! Nothing a registry says is believed unchecked: sizes are bounded before and while bytes come, and a
//! blob is only there once its digest was verified and it was synced to the disk. What a broken
//! connection leaves is continued where it ended. It knows neither pods nor runtimes: who may use an
//! image, and when, is decided by [`crate::node`] and by the commands.

mod access;
mod credentials;
mod error;
mod layers;
mod pull;
mod push;
mod store;
#[cfg(test)]
mod tests;

pub use access::Trust;
pub use credentials::{Credentials, docker_config};
pub use error::{Error, ErrorKind};
pub use layers::Startup;
pub use oci_client::Reference;
pub use pull::{Pulled, Puller};
pub use push::{Artifact, Component, Pushed, push};
pub use store::Usage;

/// The largest module that is taken from a registry; the runtime takes no larger one.
pub const MAX_MODULE_BYTES: u64 = 128 << 20;

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex_digest(sha2::Sha256::digest(bytes).as_slice())
}

fn hex_digest(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
