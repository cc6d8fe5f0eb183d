//! The managers of `spec.replicas`, as the `scale` subresource sees them.
//!
//! A Scale has no managers of its own: those who own the replicas of the object own them in its Scale,
//! and what is written through the Scale is owned in the object.

use super::managers::Managers;
use super::set::{FieldSet, Step};

const API_VERSION: &str = "autoscaling/v1";
const IN_SCALE: &[Step<'static>] = &[Step::Field("spec"), Step::Field("replicas")];

/// The managers of a Scale: those of the object who own its replicas.
pub fn to_scale(object: &Managers, replicas: &[Step<'_>]) -> Managers {
    let mut managers = Managers::default();
    for entry in object.0.iter().filter(|entry| entry.fields.contains(replicas)) {
        let mut fields = FieldSet::default();
        fields.insert(IN_SCALE);
        // The version is not part of what tells them apart here; the object's is kept for the way back.
        managers.0.push(super::managers::Entry { fields, ..entry.clone() });
    }
    managers
}

/// The managers of the object after its Scale was written: who lost the replicas there loses them here.
pub fn to_object(object: &Managers, scale: Managers, replicas: &[Step<'_>], api_version: &str) -> Managers {
    let mut path = FieldSet::default();
    path.insert(replicas);
    let mut managers = Managers::default();
    let mut left = scale;
    for entry in &object.0 {
        let mut entry = entry.clone();
        if entry.fields.contains(replicas) {
            match left.0.iter().position(|other| other.is_same(&entry)) {
                Some(at) => {
                    left.0.remove(at);
                }
                None => entry.fields.subtract(&path),
            }
        }
        managers.0.push(entry);
    }
    for mut entry in left.0.into_iter().filter(|entry| entry.fields.contains(IN_SCALE)) {
        if entry.api_version == API_VERSION {
            entry.api_version = api_version.to_owned();
        }
        entry.fields = path.clone();
        // Upstream keeps the times of the object's own entries only.
        entry.time.clear();
        managers.give(entry);
    }
    managers.drop_empty();
    managers
}
