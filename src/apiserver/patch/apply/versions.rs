//! Managers that assert fields in different versions of one kind.
//!
//! A manager's fields are those of the version that it wrote in. Whether a write touches them shows in that
//! version only, where the same field may have another name: so what is compared is compared there. How an
//! object comes into another version is not this room's to know, and may take a webhook: [`Versions`] says
//! what is known, and who calls finds out the rest and tries again.

use serde_json::Value;

use super::compare::{Comparison, compare};
use super::shape::Place;
use super::{ApplyError, NOBODYS, Writer};
use crate::kinds::model::Model;

/// An object in the other versions of its kind.
pub trait Versions: Sync {
    /// `object` at a version, if it is known already.
    fn at(&self, api_version: &str, object: &Value) -> Result<Version, Unconverted>;
}

/// What an object is at a version.
pub enum Version {
    /// The same, as far as fields go.
    Alike,
    /// There is no such version any more: what was asserted in it counts no longer.
    Gone,
    Other(Model, Value),
}

/// It is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unconverted;

impl From<Unconverted> for ApplyError {
    fn from(_: Unconverted) -> Self {
        Self::Unconverted
    }
}

/// Versions that name their fields alike, as those of built-in kinds do.
pub struct Alike;

impl Versions for Alike {
    fn at(&self, _: &str, _: &Value) -> Result<Version, Unconverted> {
        Ok(Version::Alike)
    }
}

/// Fields that an object has alike in every version, and that somebody may own.
const SAME_EVERYWHERE: &[&[&str]] = &[&["metadata", "finalizers"], &["metadata", "ownerReferences"]];

/// What a write changes, in each version in which somebody asks.
pub struct Changes<'a> {
    own: Comparison,
    live: &'a Value,
    new: &'a Value,
    writer: &'a Writer<'a>,
    versions: &'a dyn Versions,
    /// `None` for a version that is gone.
    others: Vec<(String, Option<Comparison>)>,
}

impl<'a> Changes<'a> {
    /// The error says which list element cannot be told from others.
    pub fn new(
        root: Place<'_>,
        live: &'a Value,
        new: &'a Value,
        writer: &'a Writer<'a>,
        versions: &'a dyn Versions,
    ) -> Result<Self, String> {
        let own = compare(root, live, new)?.without(writer.reset);
        Ok(Self { own, live, new, writer, versions, others: Vec::new() })
    }

    /// What changes in the version of the write.
    pub fn own(&self) -> &Comparison {
        &self.own
    }

    /// Whether all that changes is of the metadata that no conversion may touch.
    fn is_alike_everywhere(&self) -> bool {
        let nobodys = NOBODYS.iter().map(|name| ["metadata", *name]);
        let left = self.own.clone().without(SAME_EVERYWHERE);
        nobodys.fold(left, |left, field| left.without(&[&field])).is_empty()
    }

    /// What changes in another version; `None` where it is gone, or knows no such object.
    pub fn at(&mut self, api_version: &str) -> Result<Option<&Comparison>, Unconverted> {
        if api_version == self.writer.api_version || self.is_alike_everywhere() {
            return Ok(Some(&self.own));
        }
        if let Some(known) = self.others.iter().position(|(version, _)| version == api_version) {
            return Ok(self.others[known].1.as_ref());
        }
        // Both are asked for, so that both are found out together.
        let (live, new) = (self.versions.at(api_version, self.live), self.versions.at(api_version, self.new));
        let comparison = match (live?, new?) {
            (Version::Alike, _) | (_, Version::Alike) => return Ok(Some(&self.own)),
            (Version::Gone, _) | (_, Version::Gone) => None,
            (Version::Other(model, live), Version::Other(_, new)) => compare(&model, &live, &new).ok(),
        };
        let comparison = comparison.map(|comparison| comparison.without(self.writer.reset));
        self.others.push((api_version.to_owned(), comparison));
        Ok(self.others.last().and_then(|(_, comparison)| comparison.as_ref()))
    }
}
