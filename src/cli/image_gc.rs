//! The flags that say when pulled images are removed, named as the kubelet's.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kinds::quantity::Quantity;
use crate::node::ImageGc;

/// Shared by `up` and `node`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageGcFlags {
    /// The use of the disk, in percent, from which unused images are removed.
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// The use of the disk, in percent, down to which they are.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// Seconds that an unused image stays at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    minimum_image_ttl: u64,
    /// What pulled images may take on a node, e.g. 10Gi [default: no bound but the disk's].
    #[arg(long, value_name = "QUANTITY")]
    max_image_bytes: Option<String>,
}

impl ImageGcFlags {
    pub fn limits(&self) -> Result<ImageGc> {
        ensure!(
            self.image_gc_low_threshold <= self.image_gc_high_threshold,
            "--image-gc-low-threshold {} is above --image-gc-high-threshold {}",
            self.image_gc_low_threshold,
            self.image_gc_high_threshold
        );
        let max_bytes = self.max_image_bytes.as_deref().map(bytes).transpose()?;
        Ok(ImageGc {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            min_age: Duration::from_secs(self.minimum_image_ttl),
            max_bytes,
            ..ImageGc::default()
        })
    }

    /// The same flags for another process, once it is known that it can use them.
    pub fn checked_flags(&self) -> Result<Vec<String>> {
        self.limits()?;
        let mut flags = vec![
            format!("--image-gc-high-threshold={}", self.image_gc_high_threshold),
            format!("--image-gc-low-threshold={}", self.image_gc_low_threshold),
            format!("--minimum-image-ttl={}", self.minimum_image_ttl),
        ];
        flags.extend(self.max_image_bytes.iter().map(|most| format!("--max-image-bytes={most}")));
        Ok(flags)
    }
}

fn bytes(text: &str) -> Result<u64> {
    let quantity = text.parse::<Quantity>().ok().and_then(|quantity| u64::try_from(quantity.units()).ok());
    quantity.ok_or_else(|| anyhow::anyhow!("--max-image-bytes {text} is no quantity: write it as 10Gi or 500Mi"))
}
