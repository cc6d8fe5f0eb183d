//! The kinds that users have made: CustomResourceDefinitions, served.
//!
//! One immutable [`Table`] says which custom kinds there are; requests read it without a lock, and a task
//! ([`keep`]) makes it anew after each write of a definition, within milliseconds. The task also does what
//! upstream's apiextensions server does to a definition: it decides which names are accepted ([`names`],
//! pure), says so in the conditions, and when a definition is deleted removes all that was made of it.
//!
//! Kinds are handed around as references that never end (see [`Custom`]), so a definition that says the
//! same as before gets the same kind back, and what all of them may cost together is bounded.

pub mod convert;
pub mod keep;
mod names;
mod review;
pub mod versions;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::apiserver::openapi::Documents;
use crate::kinds::custom::Custom;
use crate::kinds::custom_resource_definition::holds;
use crate::kinds::structural::Schema;
use crate::kinds::{Kind, meta};
use convert::{Converted, Converter};

/// What all kinds that were ever made may cost, in bytes: some ten thousand definitions. What a definition
/// says beyond it, other than its schema, is not served until the server starts anew.
const MAX_COST: usize = 64 << 20;

/// The table, and what it is made from.
#[derive(Default)]
pub struct Definitions {
    current: ArcSwap<Table>,
    made: Mutex<Made>,
    /// Objects that a webhook has converted.
    converted: Converted,
}

/// Every kind that was ever made, by what it says of itself.
#[derive(Default)]
struct Made {
    kinds: HashMap<String, &'static Custom>,
    cost: usize,
    /// How many converters were ever made.
    converters: u64,
}

/// The custom kinds at one moment.
#[derive(Default)]
pub struct Table {
    /// By group, version and resource, in the order of discovery.
    served: Vec<Served>,
    /// Versions that are not served; objects may be stored in them.
    hidden: Vec<Served>,
    by_resource: HashMap<(String, String, String), usize>,
    /// The OpenAPI documents that show them, made when somebody asks.
    pub documents: OnceLock<Documents>,
}

/// One version of a definition that is served.
pub struct Served {
    pub kind: &'static Custom,
    /// The schema as its author wrote it.
    pub schema: Value,
    /// Objects may no longer be made: the definition is being deleted.
    pub terminating: bool,
    /// From and to the definition's other versions.
    converter: Arc<Converter>,
    /// Ends the watches of this version when it changes or goes.
    retired: CancellationToken,
    /// Uid and generation of the definition.
    of: (String, i64),
}

impl Table {
    pub fn kinds(&self) -> impl Iterator<Item = &'static dyn Kind> + '_ {
        self.served.iter().map(|served| served.kind as &'static dyn Kind)
    }

    pub fn served(&self) -> &[Served] {
        &self.served
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.served.iter().any(|served| served.kind.info().group == group)
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        if self.served.is_empty() {
            return None;
        }
        let at = self.by_resource.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))?;
        self.served.get(*at)
    }

    fn of_kind(&self, kind: &dyn Kind) -> Option<&Served> {
        let info = kind.info();
        let served = self.find(info.group, info.version, info.plural);
        served.or_else(|| self.hidden.iter().find(|hidden| hidden.kind.info() == info))
    }

    /// Ends when the kind changes or goes; none for a built-in kind, which does neither.
    pub fn retired(&self, kind: &dyn Kind) -> Option<CancellationToken> {
        kind.custom()?;
        // One that has gone since it was found is retired already.
        Some(self.of_kind(kind).map_or_else(cancelled, |served| served.retired.clone()))
    }

    /// Whether nothing may be made of a kind because its definition is being deleted.
    pub fn is_terminating(&self, kind: &dyn Kind) -> bool {
        kind.custom().is_some() && self.of_kind(kind).is_none_or(|served| served.terminating)
    }
}

/// Uid and generation of a definition.
fn state(definition: &Value) -> (String, i64) {
    (meta::text(definition, "uid").to_owned(), meta::generation(definition))
}

/// One version of a definition, with its schema of now.
fn serve(
    definition: &Value,
    version: &Value,
    kind: &'static Custom,
    converter: Arc<Converter>,
    before: &Table,
    revision: u64,
    stop: &CancellationToken,
) -> Served {
    let schema = version["schema"]["openAPIV3Schema"].clone();
    let known = before.of_kind(kind);
    if known.is_none_or(|known| !std::ptr::eq(known.kind, kind) || known.schema != schema) {
        let mut parsed = if schema.is_object() { Schema::parse(&schema) } else { Schema::anything() };
        parsed.preserve_unknown |= definition["spec"]["preserveUnknownFields"] == true;
        kind.set_schema(parsed, revision);
    }
    let of = state(definition);
    let retired =
        known.filter(|known| known.of == of).map_or_else(|| stop.child_token(), |known| known.retired.clone());
    let terminating = holds(definition, "Terminating");
    Served { kind, schema, terminating, converter, retired, of }
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}

impl Definitions {
    pub fn current(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Makes the table anew from the definitions that there are. `revision` is the store's, read after
    /// them; `stop` ends all watches with the server.
    fn rebuild(&self, definitions: &[Value], revision: u64, stop: &CancellationToken) {
        let before = self.current();
        let (mut served, mut hidden) = (Vec::new(), Vec::new());
        for definition in definitions.iter().filter(|definition| holds(definition, "Established")) {
            let versions = definition["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
            let kinds: Vec<Option<&'static Custom>> =
                versions.iter().map(|version| self.kind(definition, version)).collect();
            let Some(converter) = self.converter(definition, versions, &kinds, &before) else { continue };
            for (version, kind) in versions.iter().zip(kinds) {
                let Some(kind) = kind else { continue };
                let one = serve(definition, version, kind, converter.clone(), &before, revision, stop);
                if version["served"] == true { served.push(one) } else { hidden.push(one) }
            }
        }
        served.sort_by_key(|served| {
            let info = served.kind.info();
            (info.group, info.version, info.plural)
        });
        let key = |served: &Served| {
            let info = served.kind.info();
            (info.group.to_owned(), info.version.to_owned(), info.plural.to_owned())
        };
        let by_resource = served.iter().enumerate().map(|(at, one)| (key(one), at)).collect();
        let table = Arc::new(Table { served, hidden, by_resource, documents: OnceLock::new() });
        self.current.store(table.clone());
        for old in &before.served {
            let stays = table.of_kind(old.kind).is_some_and(|new| new.of == old.of);
            if !stays {
                old.retired.cancel();
            }
        }
    }

    /// What converts the objects of a definition: the same as before where it says the same. None where
    /// the version that is stored has no kind.
    fn converter(
        &self,
        definition: &Value,
        versions: &[Value],
        kinds: &[Option<&'static Custom>],
        before: &Table,
    ) -> Option<Arc<Converter>> {
        let storage = versions.iter().position(|version| version["storage"] == true)?;
        let storage = (*kinds.get(storage)?)?;
        let kinds: Vec<&'static Custom> = kinds.iter().copied().flatten().collect();
        let known = before.of_kind(storage).filter(|known| known.of == state(definition));
        if let Some(known) = known.filter(|known| known.converter.is_between(&kinds)) {
            return Some(known.converter.clone());
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.converters += 1;
        Some(Arc::new(Converter::new(definition, kinds, storage, made.converters)))
    }

    /// The kind of the version that is stored, served or not; none where no name was ever accepted.
    fn stored(&self, definition: &Value) -> Option<&'static Custom> {
        let plural = &definition["status"]["acceptedNames"]["plural"];
        let versions = definition["spec"]["versions"].as_array()?;
        let storage = versions.iter().find(|version| version["storage"] == true)?;
        plural.as_str().filter(|plural| !plural.is_empty())?;
        self.kind(definition, storage)
    }

    /// The kind of a version: the one that was made before, where it says the same.
    fn kind(&self, definition: &Value, version: &Value) -> Option<&'static Custom> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Custom::identity(definition, version);
        if let Some(known) = made.kinds.get(&identity) {
            return Some(known);
        }
        if made.cost > MAX_COST {
            let name = meta::text(definition, "name");
            tracing::warn!(
                name,
                "too many kinds were made since the server started; this one is not served until it is restarted"
            );
            return None;
        }
        let kind = Custom::new(definition, version);
        made.cost += kind.cost();
        made.kinds.insert(identity, kind);
        Some(kind)
    }
}

#[cfg(test)]
mod tests;
