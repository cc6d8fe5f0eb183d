//! The types of the messages that the served kinds reach.
//!
//! An object travels as a JSON value; this table gives it its types back where they matter: strict
//! decoding, protobuf, strategic merge, OpenAPI. One line of `data/schema.txt` is one field: its name,
//! protobuf number, shape, presence and merge rules. The table is text that is read once, on first
//! use, rather than generated code: it compiles in no time, reads in well under a millisecond, and a
//! reviewer can check it against upstream's definitions line by line.
//!
//! The first line of a type is `path go.Name [typemeta] [map=atomic]`, its fields follow, indented:
//! `name number shape presence [req] [list=…] [keys=…] [patch=…] [on=…] [default=…]`, or
//! `name number @path` for a message whose fields are inlined in JSON (but not in protobuf).
//!
//! It refuses to know kinds: [`conform`](conform::conform) turns any value into what upstream would
//! have written for it, and says what did not fit.

pub mod conform;
pub mod quantity;
pub mod time;

use std::collections::HashMap;
use std::sync::OnceLock;

/// One message type.
#[derive(Debug)]
pub struct Type {
    /// OpenAPI name, e.g. `io.k8s.api.core.v1.Container`.
    pub name: String,
    /// As Go prints it: `v1.Container`.
    pub go: &'static str,
    /// Fields as JSON knows them, inlined ones included, sorted by name.
    pub fields: Vec<Field>,
    /// Fields as protobuf knows them, sorted by number.
    wire: Vec<(u32, Slot)>,
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Has `apiVersion` and `kind`.
    pub is_object: bool,
}

/// What a protobuf field number stands for.
#[derive(Debug, Clone, Copy)]
enum Slot {
    /// An index into `fields`.
    Field(usize),
    /// A message whose fields live in the outer object.
    Inline(TypeRef),
}

/// What [`Type::wire`] answers.
#[derive(Debug, Clone, Copy)]
pub enum Wire {
    Field(&'static Field),
    Inline(&'static Type),
}

#[derive(Debug, Clone)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    pub shape: Shape,
    pub presence: Presence,
    /// Upstream's OpenAPI lists it as required.
    pub required: bool,
    pub merge: Merge,
    /// The default of the OpenAPI schema, as JSON.
    pub default: Option<&'static str>,
}

/// How a field behaves in Go when it is absent or has its zero value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// `omitempty`: the zero value is not written.
    Plain,
    /// A pointer with `omitempty`: a zero value is written, an absent one is not.
    Pointer,
    /// No `omitempty`: the zero value is written.
    Always,
    /// A pointer without `omitempty`: absent is written as null.
    Nullable,
    /// A struct by value, on which `omitempty` has no effect.
    Value,
}

/// The JSON shape of a field or of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A string; the Go type where it has a name of its own.
    String(&'static str),
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// Any JSON: `RawExtension`.
    Raw,
    FieldsV1,
    /// A message, or something else in its place: what JSON schemas have. Go reads it by code of its own,
    /// which knows no strictness.
    Or(TypeRef, Other),
    Message(TypeRef),
    List(Box<Shape>),
    /// The Go name of the map type where it has one, and the shape of the values.
    Map(&'static str, Box<Shape>),
}

/// What may stand in the place of a message, and is the second field of a message around both in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Several of it.
    List,
    /// A boolean: the first field there, and the message the second.
    Bool,
    Strings,
}

/// A type by its place in the table; types refer to each other in circles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRef(u16);

impl TypeRef {
    pub fn get(self) -> &'static Type {
        &table().types[usize::from(self.0)]
    }
}

/// How patches treat a field: list types and map keys of server-side apply, strategy and key of the
/// strategic merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merge {
    /// `x-kubernetes-list-type`: `atomic`, `set`, `map`.
    pub list_type: Option<&'static str>,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<&'static str>,
    /// `x-kubernetes-map-type`: `atomic`, `granular`.
    pub map_type: Option<&'static str>,
    /// `x-kubernetes-patch-strategy` as written: `merge`, `retainKeys`, `merge,retainKeys`, `replace`.
    pub strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`.
    pub key: Option<&'static str>,
}

impl Type {
    /// A field by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The name without its package.
    pub fn short(&self) -> &'static str {
        self.go.rsplit('.').next().unwrap_or(self.go)
    }

    /// What a protobuf field number of this message stands for.
    pub fn wire(&'static self, number: u32) -> Option<Wire> {
        let at = self.wire.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(match self.wire.get(at)?.1 {
            Slot::Field(index) => Wire::Field(self.fields.get(index)?),
            Slot::Inline(inner) => Wire::Inline(inner.get()),
        })
    }
}

impl Shape {
    /// The type as Go prints it in decoding errors.
    pub fn go(&self) -> String {
        match self {
            Self::String("") => "string".to_owned(),
            Self::String(name) => (*name).to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int32 => "int32".to_owned(),
            Self::Int64 => "int64".to_owned(),
            Self::Double => "float64".to_owned(),
            Self::Bytes => "[]uint8".to_owned(),
            Self::Quantity => "resource.Quantity".to_owned(),
            Self::IntOrString => "intstr.IntOrString".to_owned(),
            Self::Time => "v1.Time".to_owned(),
            Self::MicroTime => "v1.MicroTime".to_owned(),
            Self::Raw => "runtime.RawExtension".to_owned(),
            Self::FieldsV1 => "v1.FieldsV1".to_owned(),
            Self::Or(inner, Other::List) => format!("{}OrArray", inner.get().go),
            Self::Or(inner, Other::Bool) => format!("{}OrBool", inner.get().go),
            Self::Or(inner, Other::Strings) => format!("{}OrStringArray", inner.get().go),
            Self::Message(inner) => inner.get().go.to_owned(),
            Self::List(inner) => format!("[]{}", inner.go()),
            Self::Map("", inner) => format!("map[string]{}", inner.go()),
            Self::Map(name, _) => (*name).to_owned(),
        }
    }

    /// The message type at the end of lists and maps, if there is one.
    pub fn message(&self) -> Option<&'static Type> {
        match self {
            Self::Message(inner) => Some(inner.get()),
            Self::List(inner) | Self::Map(_, inner) => inner.message(),
            _ => None,
        }
    }
}

/// A type by its OpenAPI name.
pub fn lookup(name: &str) -> Option<&'static Type> {
    let table = table();
    table.index.get(name).map(|at| at.get())
}

/// Every type of the table.
pub fn types() -> &'static [Type] {
    &table().types
}

struct Table {
    types: Vec<Type>,
    index: HashMap<String, TypeRef>,
}

const SOURCE: &str = include_str!("../data/schema.txt");
const PREFIX: &str = "io.k8s.";

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| read(SOURCE).expect("the table is part of the program and tested"))
}

/// Reads the table; `None` where a line does not follow the format above.
fn read(source: &'static str) -> Option<Table> {
    let mut index = HashMap::new();
    let heads = source.lines().filter(|line| !line.starts_with(' '));
    for (at, line) in heads.enumerate() {
        index.insert(format!("{PREFIX}{}", line.split(' ').next()?), TypeRef(u16::try_from(at).ok()?));
    }
    let mut types: Vec<Type> = Vec::with_capacity(index.len());
    let mut inlines: Vec<(usize, TypeRef)> = Vec::new();
    for line in source.lines() {
        if let Some(line) = line.strip_prefix(' ') {
            let at = types.len().checked_sub(1)?;
            if let Some(inner) = read_field(line, &index, types.last_mut()?)? {
                inlines.push((at, inner));
            }
        } else {
            types.push(read_head(line)?);
        }
    }
    // An inlined message may itself come later in the file, or inline another one: their fields are
    // copied at the end, the innermost first.
    while !inlines.is_empty() {
        let is_ready = |inner: TypeRef| !inlines.iter().any(|(outer, _)| *outer == usize::from(inner.0));
        let at = inlines.iter().position(|(_, inner)| is_ready(*inner))?;
        let (outer, inner) = inlines.swap_remove(at);
        let copied = types.get(usize::from(inner.0))?.fields.clone();
        types.get_mut(outer)?.fields.extend(copied);
    }
    for ty in &mut types {
        sort(ty);
    }
    Some(Table { types, index })
}

fn read_head(line: &'static str) -> Option<Type> {
    let mut words = line.split(' ');
    let name = format!("{PREFIX}{}", words.next()?);
    let go = words.next()?;
    let mut ty = Type { name, go, fields: Vec::new(), wire: Vec::new(), atomic: false, is_object: false };
    for word in words {
        match word {
            "typemeta" => {
                ty.is_object = true;
                ty.fields.push(type_meta("apiVersion"));
                ty.fields.push(type_meta("kind"));
            }
            "map=atomic" => ty.atomic = true,
            _ => return None,
        }
    }
    Some(ty)
}

fn type_meta(name: &'static str) -> Field {
    Field {
        name,
        shape: Shape::String(""),
        presence: Presence::Plain,
        required: false,
        merge: Merge::default(),
        default: None,
    }
}

/// Adds the field of a line to `ty`; answers the type whose fields are to be inlined, if it is such a line.
fn read_field(line: &'static str, index: &HashMap<String, TypeRef>, ty: &mut Type) -> Option<Option<TypeRef>> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let number: u32 = words.next()?.parse().ok()?;
    let shape = words.next()?;
    if let Some(inner) = shape.strip_prefix('@') {
        let inner = *index.get(&format!("{PREFIX}{inner}"))?;
        ty.wire.push((number, Slot::Inline(inner)));
        return Some(Some(inner));
    }
    let presence = match words.next()? {
        "-" => Presence::Plain,
        "?" => Presence::Pointer,
        "!" => Presence::Always,
        "0" => Presence::Nullable,
        "=" => Presence::Value,
        _ => return None,
    };
    let mut field = Field {
        name,
        shape: read_shape(shape, index)?,
        presence,
        required: false,
        merge: Merge::default(),
        default: None,
    };
    for word in words {
        match word.split_once('=') {
            None if word == "req" => field.required = true,
            Some(("list", kind)) => field.merge.list_type = Some(kind),
            Some(("keys", keys)) => field.merge.list_map_keys = keys.split(',').collect(),
            Some(("map", kind)) => field.merge.map_type = Some(kind),
            Some(("patch", strategy)) => field.merge.strategy = strategy,
            Some(("on", key)) => field.merge.key = Some(key),
            Some(("default", json)) => field.default = Some(json),
            _ => return None,
        }
    }
    ty.wire.push((number, Slot::Field(ty.fields.len())));
    ty.fields.push(field);
    Some(None)
}

fn read_shape(word: &'static str, index: &HashMap<String, TypeRef>) -> Option<Shape> {
    if let Some(inner) = word.strip_prefix("[]") {
        return Some(Shape::List(Box::new(read_shape(inner, index)?)));
    }
    if let Some(inner) = word.strip_prefix("map:") {
        return Some(Shape::Map("", Box::new(read_shape(inner, index)?)));
    }
    if let Some((name, inner)) = word.strip_prefix("map/").and_then(|word| word.split_once(':')) {
        return Some(Shape::Map(name, Box::new(read_shape(inner, index)?)));
    }
    if let Some((other, inner)) = word.strip_prefix("or/").and_then(|word| word.split_once(':')) {
        let other = match other {
            "list" => Other::List,
            "bool" => Other::Bool,
            "strings" => Other::Strings,
            _ => return None,
        };
        return Some(Shape::Or(*index.get(&format!("{PREFIX}{inner}"))?, other));
    }
    Some(match word {
        "string" => Shape::String(""),
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "intOrString" => Shape::IntOrString,
        "time" => Shape::Time,
        "microTime" => Shape::MicroTime,
        "raw" => Shape::Raw,
        "fieldsV1" => Shape::FieldsV1,
        _ => match word.strip_prefix("string:") {
            Some(name) => Shape::String(name),
            None => Shape::Message(*index.get(&format!("{PREFIX}{word}"))?),
        },
    })
}

/// Sorts fields by name and the wire table by number, keeping the latter's indices right.
fn sort(ty: &mut Type) {
    let mut order: Vec<usize> = (0..ty.fields.len()).collect();
    order.sort_by_key(|at| ty.fields[*at].name);
    let mut moved = vec![0; order.len()];
    for (to, from) in order.iter().enumerate() {
        moved[*from] = to;
    }
    ty.fields.sort_by_key(|field| field.name);
    for (_, slot) in &mut ty.wire {
        if let Slot::Field(at) = slot {
            *at = moved[*at];
        }
    }
    ty.wire.sort_by_key(|(number, _)| *number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    #[test]
    fn every_kind_has_its_type() {
        for kind in KINDS {
            let info = kind.info();
            let ty = lookup(info.schema).unwrap_or_else(|| panic!("{} is not in the table", info.schema));
            assert!(ty.is_object, "{} has no apiVersion and kind", info.schema);
            assert!(ty.field("metadata").is_some());
        }
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for ty in types() {
            assert!(ty.fields.windows(2).all(|pair| pair[0].name < pair[1].name), "{}", ty.name);
            assert!(ty.wire.windows(2).all(|pair| pair[0].0 < pair[1].0), "{}", ty.name);
        }
    }

    #[test]
    fn inlined_fields_are_found_by_name_and_nested_by_number() {
        let volume = lookup("io.k8s.api.core.v1.Volume").unwrap();
        assert!(volume.field("hostPath").is_some());
        assert!(matches!(volume.wire(2), Some(Wire::Inline(inner)) if inner.short() == "VolumeSource"));
        let Some(Wire::Field(name)) = volume.wire(1) else { panic!("number 1 is the name") };
        assert_eq!(name.name, "name");
    }

    #[test]
    fn merge_rules_are_read() {
        let container = lookup("io.k8s.api.core.v1.Container").unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.merge.key, Some("containerPort"));
        assert_eq!(ports.merge.list_map_keys, ["containerPort", "protocol"]);
        assert_eq!(ports.shape.go(), "[]v1.ContainerPort");
    }
}
