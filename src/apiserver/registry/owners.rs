//! Who owns the fields of what is written: `managedFields`, kept with every write.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::Registry;
use super::encoding::api_version;
use crate::apiserver::patch::apply::managers::same_but_for_times;
use crate::apiserver::patch::apply::{Writer, track_across};
use crate::apiserver::status::ApiError;
use crate::kinds::meta as kmeta;
use crate::kinds::{Kind, time};

/// The manager of what the server writes by itself.
const OWN: &str = "coracle";

/// How a write changes who owns the fields of an object.
#[derive(Debug, Clone)]
pub enum Owner<'a> {
    /// Not at all.
    Unchanged,
    /// This manager takes what the write changes.
    Updates { manager: Cow<'a, str>, subresource: &'a str },
    /// The object comes with its owners: it is the outcome of an apply.
    Told,
}

impl Owner<'static> {
    /// The server itself writes through the main endpoint.
    pub fn own() -> Self {
        Self::own_by("")
    }

    /// The server itself writes through a subresource.
    pub fn own_by(subresource: &'static str) -> Self {
        Self::Updates { manager: OWN.into(), subresource }
    }
}

impl Registry {
    /// Writes the owners into `new`, which has just been typed and defaulted; `old` is `None` on create. While the
    /// webhook is away that would say what a change means in the version of another manager, the owners stay as they
    /// were: upstream forgets them all then.
    pub async fn track(
        &self,
        kind: &dyn Kind,
        old: Option<&Value>,
        new: &mut Value,
        owner: &Owner<'_>,
    ) -> Result<(), ApiError> {
        let Owner::Updates { manager, subresource } = owner else { return Ok(()) };
        let Some(model) = kind.model() else { return Ok(()) };
        let (version, now) = (api_version(kind.info()), time::write(Timestamp::now()));
        let writer =
            Writer { manager, api_version: &version, subresource, reset: kind.reset_fields(subresource), now: &now };
        let nothing = model.empty();
        let (old, versions) = (old.unwrap_or(&nothing), self.versions(kind));
        if !versions.is_needed() {
            let _ = track_across(&model, old, new, &writer, &versions);
            return Ok(());
        }
        loop {
            let mut tracked = new.clone();
            let done = track_across(&model, old, &mut tracked, &writer, &versions);
            let more = match done {
                Ok(()) => false,
                Err(_) => match versions.find_out(self, kind).await {
                    Ok(more) => more,
                    Err(error) => {
                        tracing::warn!(kind = kind.info().kind, %error, "who owns the fields of an object is not known anew");
                        let known = old["metadata"]["managedFields"].clone();
                        if known.is_array() {
                            kmeta::metadata_mut(new).insert("managedFields".to_owned(), known);
                        }
                        return Ok(());
                    }
                },
            };
            if !more {
                *new = tracked;
                return Ok(());
            }
        }
    }
}

/// Takes the times back where nothing else has changed: to assert what is there already is no change.
pub fn keep_times(new: &mut Value, old: &Value) {
    let (before, after) = (&old["metadata"]["managedFields"], &new["metadata"]["managedFields"]);
    if before == after || !same_but_for_times(before, after) {
        return;
    }
    let before = before.clone();
    let told = kmeta::metadata_mut(new).insert("managedFields".to_owned(), before);
    if !kmeta::same(new, old)
        && let Some(told) = told
    {
        kmeta::metadata_mut(new).insert("managedFields".to_owned(), told);
    }
}
