//! One object in the several versions of its definition, as managers of its fields need it
//! ([`patch::apply::versions`](crate::apiserver::patch::apply::versions)).
//!
//! That is decided by pure code, which asks for conversions as it goes; what it asked for and nobody knew is
//! noted here, found out between two attempts, and there at the next.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::apiserver::patch::apply::versions::{Unconverted, Version, Versions};
use crate::apiserver::registry::Registry;
use crate::apiserver::registry::encoding::api_version;
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::custom::Custom;

/// Attempts that one write may take: each finds out about one version more at least, of which few are in use.
const ATTEMPTS: usize = 32;

/// What is known of the objects of one write.
pub struct Known {
    /// Empty for a kind that has no other versions.
    versions: Vec<&'static Custom>,
    conversions: Mutex<Vec<Conversion>>,
}

struct Conversion {
    version: String,
    object: Value,
    converted: Option<Value>,
}

impl Versions for Known {
    fn at(&self, version: &str, object: &Value) -> Result<Version, Unconverted> {
        if self.versions.is_empty() {
            return Ok(Version::Alike);
        }
        let Some(kind) = self.of(version) else { return Ok(Version::Gone) };
        let model = kind.model().ok_or(Unconverted)?;
        if object["apiVersion"] == version {
            return Ok(Version::Other(model, object.clone()));
        }
        let mut conversions = self.conversions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = conversions.iter().find(|known| known.version == version && known.object == *object);
        match known {
            Some(known) => {
                let converted = known.converted.clone().ok_or(Unconverted)?;
                Ok(Version::Other(model, converted))
            }
            None => {
                let (version, object) = (version.to_owned(), object.clone());
                conversions.push(Conversion { version, object, converted: None });
                Err(Unconverted)
            }
        }
    }
}

impl Known {
    pub fn new(versions: Vec<&'static Custom>) -> Self {
        Self { versions, conversions: Mutex::default() }
    }

    /// Whether there are other versions at all.
    pub fn is_needed(&self) -> bool {
        !self.versions.is_empty()
    }

    fn of(&self, version: &str) -> Option<&'static Custom> {
        self.versions.iter().find(|kind| api_version(kind.info()) == version).copied()
    }

    /// Finds out what was asked for. Whether there was anything.
    pub async fn find_out(&self, registry: &Registry, kind: &dyn Kind) -> Result<bool, ApiError> {
        let asked: Vec<(usize, String, Value)> = {
            let conversions = self.conversions.lock().unwrap_or_else(PoisonError::into_inner);
            let open = conversions.iter().enumerate().filter(|(_, conversion)| conversion.converted.is_none());
            open.map(|(at, conversion)| (at, conversion.version.clone(), conversion.object.clone())).collect()
        };
        if asked.iter().any(|(at, ..)| *at > ATTEMPTS) {
            return Err(ApiError::internal("field managers of too many versions"));
        }
        for (at, version, object) in &asked {
            let Some(to) = self.of(version) else { continue };
            let from = object["apiVersion"].as_str().and_then(|version| self.of(version));
            let from = from.map_or(kind, |from| from as &dyn Kind);
            let converted = registry.convert(from, to, object).await?;
            let mut conversions = self.conversions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(conversion) = conversions.get_mut(*at) {
                conversion.converted = Some(converted);
            }
        }
        Ok(!asked.is_empty())
    }
}
