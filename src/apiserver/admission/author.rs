//! On whose behalf something is written, and what those who have a say in it have to say.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Map, Value, json};

use super::Operation;
use crate::apiserver::auth::User;
use crate::apiserver::codec::{Expected, FieldValidation};
use crate::apiserver::options::{DeleteOptions, Propagation, WriteOptions};
use crate::apiserver::registry::owners::Owner;
use crate::apiserver::status::ApiError;

/// Who writes, and how.
#[derive(Clone)]
pub struct Author<'a> {
    pub owner: Owner<'a>,
    pub dry_run: bool,
    /// The request that the write answers. `None`: the server writes by itself, and nobody but its own
    /// plugins has a say.
    pub asker: Option<Asker<'a>>,
}

impl Author<'static> {
    /// The server itself writes through the main endpoint.
    pub fn own() -> Self {
        Self::of(Owner::own())
    }

    /// The server itself writes through a subresource.
    pub fn own_by(subresource: &'static str) -> Self {
        Self::of(Owner::own_by(subresource))
    }

    /// The server itself writes, and nobody owns what changes.
    pub fn unowned() -> Self {
        Self::of(Owner::Unchanged)
    }

    fn of(owner: Owner<'static>) -> Self {
        Self { owner, dry_run: false, asker: None }
    }
}

/// The request behind a write.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub user: &'a User,
    pub subresource: &'a str,
    pub options: Options<'a>,
    /// Where what is said about the request is kept.
    pub said: &'a Said,
    /// What is sent instead of the stored object.
    pub through: Through<'a>,
}

/// What a request shows of an object.
#[derive(Clone, Copy)]
pub enum Through<'a> {
    /// The object itself.
    Itself,
    /// An object of another type, which the request is all about: a Binding, an Eviction.
    Instead(&'a Expected<'a>),
    /// A part of the object, under another type: a Scale.
    Part(&'a dyn View),
}

/// A part of an object, shown as an object of another type.
pub trait View: Sync {
    fn expected(&self) -> Expected<'_>;

    fn show(&self, object: &Value) -> Value;

    /// The object with what the changed part says.
    fn write_back(&self, object: &Value, part: &Value) -> Result<Value, ApiError>;
}

/// What a client asks for beside the object.
#[derive(Clone, Copy)]
pub enum Options<'a> {
    Write(&'a WriteOptions),
    Delete(&'a DeleteOptions),
    /// Of a connection there is nothing but the object.
    Connect,
}

impl Options<'_> {
    /// As upstream's objects of options have them.
    pub fn to_value(self, operation: Operation, dry_run: bool) -> Value {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut fields =
            Map::from_iter([("kind".to_owned(), kind.into()), ("apiVersion".to_owned(), "meta.k8s.io/v1".into())]);
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        if dry_run {
            put("dryRun", json!(["All"]));
        }
        match self {
            Self::Write(options) => {
                if !options.field_manager.is_empty() {
                    put("fieldManager", options.field_manager.as_str().into());
                }
                match options.field_validation {
                    FieldValidation::Ignore => put("fieldValidation", "Ignore".into()),
                    FieldValidation::Strict => put("fieldValidation", "Strict".into()),
                    FieldValidation::Warn => {}
                }
            }
            Self::Delete(options) => {
                if let Some(seconds) = options.grace_period_seconds {
                    put("gracePeriodSeconds", seconds.into());
                }
                if let Some(policy) = options.propagation {
                    put("propagationPolicy", propagation(policy).into());
                }
                let preconditions: Map<String, Value> =
                    [("uid", &options.precondition_uid), ("resourceVersion", &options.precondition_version)]
                        .into_iter()
                        .filter_map(|(name, value)| Some((name.to_owned(), value.as_deref()?.into())))
                        .collect();
                if !preconditions.is_empty() {
                    put("preconditions", preconditions.into());
                }
            }
            Self::Connect => {}
        }
        fields.into()
    }
}

fn propagation(policy: Propagation) -> &'static str {
    match policy {
        Propagation::Orphan => "Orphan",
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
    }
}

/// What has been said about a request: to its client, and to the audit log.
#[derive(Debug, Default)]
pub struct Said {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
    /// Of an object whose name is not in the URL.
    object_name: OnceLock<String>,
}

/// More than these of one request are not kept.
const MAX_WARNINGS: usize = 64;
const MAX_ANNOTATIONS: usize = 256;

impl Said {
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text.into());
        }
    }

    /// Notes something for the audit log. What is there already stays, as upstream has it.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut annotations = self.annotations.lock().unwrap_or_else(PoisonError::into_inner);
        if annotations.len() < MAX_ANNOTATIONS {
            annotations.entry(key.into()).or_insert_with(|| value.into());
        }
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the name of an object that is not in the URL.
    pub fn name_object(&self, name: &str) {
        if !name.is_empty() {
            let _ = self.object_name.set(name.to_owned());
        }
    }

    pub fn object_name(&self) -> Option<&str> {
        self.object_name.get().map(String::as_str)
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
