//! What server-side apply sees of a type: scalars, lists and maps, and how each is merged.
//!
//! The facts are those of the schema table. A list is atomic unless its field says `set` or `map`; a
//! map or a struct is merged by key unless it says `atomic`.

use serde_json::Value;

use crate::kinds::model::{Model, object_meta};
use crate::kinds::schema::{Merge, Shape, Type};
use crate::kinds::structural::{self as schema, Schema};

/// The type of a place in an object.
#[derive(Debug, Clone, Copy)]
pub enum Place<'s> {
    /// A whole object, or a message.
    Message(&'s Type),
    /// A field, an element or an entry.
    Field(&'s Shape, &'s Merge),
    /// A value of a custom resource; a whole object has metadata.
    Custom(&'s Schema, Whole),
    /// Anything: its shape is that of the value which is there.
    Any,
}

/// How the value of a place is merged.
#[derive(Debug, Clone, Copy)]
pub enum Atom<'s> {
    Scalar(Scalar),
    List(Relation<'s>, Place<'s>),
    Map { atomic: bool, entries: Entries<'s> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    Text,
    Number,
    Bool,
    /// Any scalar: quantities, ports by number or name.
    Any,
}

/// What tells the elements of a list apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation<'s> {
    /// Nothing: the list is one value.
    Atomic,
    /// The elements themselves.
    Set,
    /// These fields of theirs.
    Keys(&'s [&'static str]),
    /// The same, of a custom resource.
    CustomKeys(&'s [String]),
}

/// Whether a value is an object of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    Yes,
    No,
}

impl<'s> From<&'s Type> for Place<'s> {
    fn from(ty: &'s Type) -> Self {
        Self::Message(ty)
    }
}

impl<'s> From<&'s Model> for Place<'s> {
    fn from(model: &'s Model) -> Self {
        match model {
            Model::Table(ty) => Self::Message(ty),
            Model::Custom(schema) => Self::Custom(schema, Whole::Yes),
        }
    }
}

/// What a map may hold.
#[derive(Debug, Clone, Copy)]
pub enum Entries<'s> {
    Fields(&'s Type),
    /// Any key, with values of one type.
    Values(&'s Shape),
    Custom(&'s Schema, Whole),
    Anything,
}

static NO_RULES: Merge = Merge { list_type: None, list_map_keys: Vec::new(), map_type: None, strategy: "", key: None };

impl<'s> Place<'s> {
    /// What is at this place; `value` decides where the type does not.
    pub fn atom(self, value: Option<&Value>) -> Atom<'s> {
        match self {
            Self::Message(ty) => Atom::Map { atomic: ty.atomic, entries: Entries::Fields(ty) },
            Self::Field(shape, rules) => of_shape(shape, rules),
            Self::Custom(schema, whole) => of_schema(schema, whole, value),
            Self::Any => match value {
                Some(Value::Object(_)) => Atom::Map { atomic: false, entries: Entries::Anything },
                Some(Value::Array(_)) => Atom::List(Relation::Atomic, Self::Any),
                _ => Atom::Scalar(Scalar::Any),
            },
        }
    }

    /// The default that the type has for a key of the elements of a list.
    pub fn key_default(self, key: &str) -> Option<Value> {
        let ty = match self {
            Self::Message(ty) => ty,
            Self::Field(shape, _) => shape.message()?,
            Self::Custom(schema, _) => return schema.properties.get(key)?.default.clone(),
            Self::Any => return None,
        };
        serde_json::from_str(ty.field(key)?.default?).ok()
    }
}

fn of_shape<'s>(shape: &'s Shape, rules: &'s Merge) -> Atom<'s> {
    match shape {
        Shape::String(_) | Shape::Bytes | Shape::Time | Shape::MicroTime => Atom::Scalar(Scalar::Text),
        Shape::Bool => Atom::Scalar(Scalar::Bool),
        Shape::Int32 | Shape::Int64 | Shape::Double => Atom::Scalar(Scalar::Number),
        Shape::Quantity | Shape::IntOrString => Atom::Scalar(Scalar::Any),
        Shape::Raw | Shape::FieldsV1 | Shape::Or(..) => Atom::Map { atomic: false, entries: Entries::Anything },
        Shape::Message(inner) => {
            let ty = inner.get();
            Atom::Map { atomic: is_atomic(rules) || ty.atomic, entries: Entries::Fields(ty) }
        }
        Shape::Map(_, inner) => Atom::Map { atomic: is_atomic(rules), entries: Entries::Values(inner) },
        Shape::List(inner) => {
            let relation = match rules.list_type {
                Some("set") => Relation::Set,
                Some("map") => Relation::Keys(&rules.list_map_keys),
                _ => Relation::Atomic,
            };
            Atom::List(relation, Place::Field(inner, &NO_RULES))
        }
    }
}

fn of_schema<'s>(schema: &'s Schema, whole: Whole, value: Option<&Value>) -> Atom<'s> {
    match schema.ty {
        Some(schema::Type::String) => Atom::Scalar(Scalar::Text),
        Some(schema::Type::Integer | schema::Type::Number) => Atom::Scalar(Scalar::Number),
        Some(schema::Type::Boolean) => Atom::Scalar(Scalar::Bool),
        Some(schema::Type::Object) => Atom::Map { atomic: schema.atomic, entries: Entries::Custom(schema, whole) },
        Some(schema::Type::Array) => {
            let relation = match &schema.list_type {
                schema::ListType::Atomic => Relation::Atomic,
                schema::ListType::Set => Relation::Set,
                schema::ListType::Map(keys) => Relation::CustomKeys(keys),
            };
            let element = schema.items.as_deref().map_or(Place::Any, |inner| Place::Custom(inner, whole_of(inner)));
            Atom::List(relation, element)
        }
        None if schema.int_or_string => Atom::Scalar(Scalar::Any),
        None => Place::Any.atom(value),
    }
}

fn whole_of(schema: &Schema) -> Whole {
    if schema.embedded { Whole::Yes } else { Whole::No }
}

fn is_atomic(rules: &Merge) -> bool {
    rules.map_type == Some("atomic")
}

impl<'s> Entries<'s> {
    /// The type under a key, and whether it is a declared field; `None` where there can be no such key.
    pub fn get(self, key: &str) -> Option<(Place<'s>, bool)> {
        match self {
            Self::Fields(ty) => ty.field(key).map(|field| (Place::Field(&field.shape, &field.merge), true)),
            Self::Values(shape) => Some((Place::Field(shape, &NO_RULES), false)),
            Self::Custom(_, Whole::Yes) if key == "metadata" => Some((Place::Message(object_meta()), true)),
            Self::Custom(_, Whole::Yes) if schema::is_meta(key) => Some((Place::Any, true)),
            Self::Custom(schema, _) => {
                let declared = schema.properties.contains_key(key);
                match schema.entry(key) {
                    Some(inner) => Some((Place::Custom(inner, whole_of(inner)), declared)),
                    None if schema.preserve_unknown || matches!(schema.additional, schema::Additional::Anything) => {
                        Some((Place::Any, false))
                    }
                    None => None,
                }
            }
            Self::Anything => Some((Place::Any, false)),
        }
    }
}

/// The key of a list element in a field set: `k:{"name":"c"}`, `v:"x"`. The error is upstream's text.
pub fn element_key(relation: Relation<'_>, element: Place<'_>, item: &Value) -> Result<String, String> {
    match relation {
        Relation::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Relation::Set => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            scalar => Ok(format!("v:{scalar}")),
        },
        Relation::Keys(keys) => by_keys(keys.iter().copied(), element, item),
        Relation::CustomKeys(keys) => by_keys(keys.iter().map(String::as_str), element, item),
    }
}

fn by_keys<'k>(keys: impl Iterator<Item = &'k str>, element: Place<'_>, item: &Value) -> Result<String, String> {
    let Value::Object(item) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut found = serde_json::Map::new();
    for key in keys {
        let value = item.get(key).cloned().or_else(|| element.key_default(key)).ok_or_else(|| {
            format!(
                "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
            )
        })?;
        found.insert(key.to_owned(), value);
    }
    Ok(format!("k:{}", Value::Object(found)))
}

/// The elements of a list at a place; null counts as none.
pub fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
