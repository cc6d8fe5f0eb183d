//! The type of a kind's objects: a row of the field table, or the schema of a CustomResourceDefinition.

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::schema::conform::{Mismatch, conform};
use super::schema::{Type, lookup};
use super::structural::{Schema, prune};

/// What gives an object's values their types.
#[derive(Debug, Clone)]
pub enum Model {
    Table(&'static Type),
    Custom(Arc<Schema>),
}

impl From<&'static Type> for Model {
    fn from(ty: &'static Type) -> Self {
        Self::Table(ty)
    }
}

/// The type of every object's metadata.
pub fn object_meta() -> &'static Type {
    static META: OnceLock<&'static Type> = OnceLock::new();
    META.get_or_init(|| {
        lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table holds what all kinds have")
    })
}

impl Model {
    /// The row of the field table; none for custom resources.
    pub fn table(&self) -> Option<&'static Type> {
        match self {
            Self::Table(ty) => Some(ty),
            Self::Custom(_) => None,
        }
    }

    /// Makes `value` what upstream would hold of it. Unknown fields are removed, and reported in `strict`.
    pub fn conform(&self, value: &mut Value, strict: &mut Vec<String>) -> Result<(), Mismatch> {
        match self {
            Self::Table(ty) => conform(ty, value, strict),
            Self::Custom(schema) => conform_custom(schema, value, strict),
        }
    }

    /// What an object of this type is before anything is said about it.
    pub fn empty(&self) -> Value {
        let mut object = Value::Object(Map::new());
        // An empty object has no field that could be of a wrong type.
        let _ = self.conform(&mut object, &mut Vec::new());
        object
    }
}

fn conform_custom(schema: &Schema, value: &mut Value, strict: &mut Vec<String>) -> Result<(), Mismatch> {
    let Some(map) = value.as_object_mut() else {
        let found = if value.is_array() { "array" } else { "value" };
        let wanted = "map[string]interface {}".to_owned();
        return Err(Mismatch::Type { found: found.to_owned(), field: None, wanted, sort: "map" });
    };
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let mut unknown = Vec::new();
    conform(object_meta(), metadata, &mut unknown)?;
    // The type does not know where it stands.
    strict.extend(unknown.iter().map(|text| text.replacen("field \"", "field \"metadata.", 1)));
    let mut unknown = Vec::new();
    prune::prune(schema, value, &mut unknown);
    unknown.sort();
    strict.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
    Ok(())
}
