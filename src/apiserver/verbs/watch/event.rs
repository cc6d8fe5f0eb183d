//! From a change to what one watcher is told of it: which type, if any, and the line.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use super::shared::Shared;
use crate::apiserver::codec::Representation;
use crate::apiserver::codec::negotiate::Shape;
use crate::apiserver::registry::encoding::{self, Form, Stored};
use crate::apiserver::registry::outline::outline;
use crate::apiserver::reply::Look;
use crate::apiserver::selector::Selector;
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;

/// The types of watch events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Added,
    Modified,
    Deleted,
}

impl Type {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Writes events for one watcher.
pub struct Writer {
    kind: &'static dyn Kind,
    look: Look,
    selector: Selector,
    /// A Table's column definitions come with the first event only.
    first: bool,
    /// The watcher takes objects in whatever version they are stored in.
    as_stored: bool,
}

impl Writer {
    pub fn new(kind: &'static dyn Kind, look: Look, selector: Selector, as_stored: bool) -> Self {
        // A stream of events is lines of JSON, whatever else the client would take.
        let representation = Representation { yaml: false, pretty: false, ..look.representation };
        Self { kind, look: Look { representation, ..look }, selector, first: true, as_stored }
    }

    pub fn kind(&self) -> &'static dyn Kind {
        self.kind
    }

    pub fn takes_as_stored(&self) -> bool {
        self.as_stored
    }

    /// Whether what an object was before a change matters to the watcher.
    pub fn selects(&self) -> bool {
        !self.selector.is_empty()
    }

    /// The line for an object that is there at the start; `None` when it is not selected.
    pub fn initial(&mut self, stored: &Stored) -> Option<Bytes> {
        if !self.selector.is_empty() {
            let object = outline(self.kind, &stored.bytes, stored.revision).ok()?;
            if !self.selector.matches(self.kind, &object) {
                return None;
            }
        }
        Some(self.line(Type::Added, stored))
    }

    /// The line for a change; `None` when it does not concern the watcher.
    pub fn change(&mut self, shared: &Shared) -> Option<Bytes> {
        let change = &shared.change;
        let (was, is) = if self.selector.is_empty() {
            (change.previous.is_some(), change.value.is_some())
        } else {
            if self.misses_by_name(&change.key) {
                return None;
            }
            let matches = |object: &Value| !object.is_null() && self.selector.matches(self.kind, object);
            (matches(shared.before(self.kind)), matches(shared.after(self.kind)))
        };
        let kind = match (was, is) {
            (false, false) => return None,
            (false, true) => Type::Added,
            (true, true) => Type::Modified,
            (true, false) => Type::Deleted,
        };
        // What leaves is shown as it last was for this watcher, at the version of the change.
        let bytes = match kind {
            Type::Deleted => change.previous.as_ref().map(|entry| entry.value.clone()),
            Type::Added | Type::Modified => change.value.clone(),
        };
        let stored = Stored { bytes: bytes?, revision: change.revision };
        if self.selector.is_empty() && self.look.is_plain_json() {
            let owners = self.look.owners;
            return Some(shared.line(owners, || json_line(self.kind, kind, &stored, owners)));
        }
        Some(self.line(kind, &stored))
    }

    /// Whether the selector names another object: told without decoding anything.
    fn misses_by_name(&self, key: &str) -> bool {
        self.selector.single_name().is_some_and(|name| key.rsplit('/').next() != Some(name))
    }

    fn line(&mut self, kind: Type, stored: &Stored) -> Bytes {
        if self.look.is_plain_json() {
            return json_line(self.kind, kind, stored, self.look.owners);
        }
        // An object that cannot be read would not have been stored.
        let object = encoding::decode(self.kind, &stored.bytes, stored.revision).unwrap_or_default();
        let first = std::mem::replace(&mut self.first, false);
        value_line(kind.word(), &self.look.view(self.kind).event(object, first))
    }

    /// A bookmark: the watcher has seen everything up to `revision`.
    pub fn bookmark(&mut self, revision: u64, ends_initial_events: bool) -> Bytes {
        let info = self.kind.info();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if ends_initial_events {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": info.kind, "apiVersion": encoding::api_version(info), "metadata": metadata});
        let view = self.look.view(self.kind);
        let shown = match self.look.representation.shape {
            Shape::Table { .. } => view.list(json!({"metadata": object["metadata"], "items": []})),
            _ => view.object(object),
        };
        value_line("BOOKMARK", &shown)
    }
}

fn json_line(kind: &dyn Kind, event: Type, stored: &Stored, owners: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(stored.bytes.len() + 160);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.word().as_bytes());
    out.put_slice(b"\",\"object\":");
    encoding::splice(kind, &stored.bytes, stored.revision, Form { typed: true, owners }, &mut out);
    out.put_slice(b"}\n");
    out.freeze()
}

fn value_line(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

/// The last event of a watch that cannot go on.
pub fn error_line(error: &ApiError) -> Bytes {
    value_line("ERROR", &error.to_value())
}
