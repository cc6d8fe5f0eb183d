//! Answers in another shape than the object's own: Tables for people, metadata alone for programs that
//! need no more.
//!
//! What a row shows is its kind's decision ([`Kind::columns`], [`Kind::row`]); this is the envelope.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::codec::negotiate::Shape;
use crate::kinds::{Column, Kind};

/// What each row carries of its object: the `includeObject` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// The query parameter's value; `None` where it is not one of upstream's.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// How to show objects of one kind.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub kind: &'a dyn Kind,
    pub shape: Shape,
    pub include: IncludeObject,
    /// What ages count to.
    pub now: Timestamp,
}

impl View<'_> {
    /// An object in the wanted shape. A Status is never reshaped.
    pub fn object(&self, object: Value) -> Value {
        match self.shape {
            Shape::Table { v1beta1 } => {
                let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or(Value::from(""));
                self.table(v1beta1, json!({"resourceVersion": version}), vec![object], true)
            }
            Shape::Metadata { v1beta1 } => partial(object, v1beta1),
            _ => object,
        }
    }

    /// A list (`{metadata, items}`) in the wanted shape.
    pub fn list(&self, mut list: Value) -> Value {
        let Some(map) = list.as_object_mut() else { return list };
        if !matches!(self.shape, Shape::Table { .. } | Shape::Metadata { .. } | Shape::MetadataList { .. }) {
            return list;
        }
        let metadata = map.remove("metadata").unwrap_or_else(|| json!({}));
        let items = match map.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        match self.shape {
            Shape::Table { v1beta1 } => self.table(v1beta1, metadata, items, true),
            Shape::Metadata { v1beta1 } | Shape::MetadataList { v1beta1 } => json!({
                "apiVersion": meta_version(v1beta1),
                "kind": "PartialObjectMetadataList",
                "metadata": metadata,
                "items": items.into_iter().map(|item| partial(item, v1beta1)).collect::<Vec<_>>(),
            }),
            _ => list,
        }
    }

    /// The object of a watch event. Of a stream of Tables only the first names its columns.
    pub fn event(&self, object: Value, first: bool) -> Value {
        if object.get("kind").and_then(Value::as_str) == Some("Status") {
            return object;
        }
        match self.shape {
            Shape::Table { v1beta1 } => {
                let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or(Value::from(""));
                self.table(v1beta1, json!({"resourceVersion": version}), vec![object], first)
            }
            _ => self.object(object),
        }
    }

    fn table(&self, v1beta1: bool, metadata: Value, objects: Vec<Value>, headers: bool) -> Value {
        let columns = if headers { self.kind.columns().iter().map(definition).collect() } else { Value::Null };
        let rows: Vec<Value> = objects.into_iter().map(|object| self.row(object, v1beta1)).collect();
        json!({
            "apiVersion": meta_version(v1beta1),
            "kind": "Table",
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn row(&self, object: Value, v1beta1: bool) -> Value {
        let cells = self.kind.row(&object, self.now);
        let object = match self.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => partial(object, v1beta1),
            IncludeObject::Object => object,
        };
        json!({"cells": cells, "object": object})
    }
}

fn definition(column: &Column) -> Value {
    let description = match (column.description, column.name) {
        ("", "Name") => "The name of the object, unique in its namespace among the objects of its kind.",
        ("", "Age") => "The time since the object was created.",
        (description, _) => description,
    };
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": description,
        "priority": column.priority,
    })
}

fn meta_version(v1beta1: bool) -> &'static str {
    if v1beta1 { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// `PartialObjectMetadata`: an object without anything but its metadata.
pub fn partial(mut object: Value, v1beta1: bool) -> Value {
    let metadata = object.as_object_mut().and_then(|map| map.remove("metadata"));
    let mut map = Map::new();
    map.insert("apiVersion".to_owned(), Value::from(meta_version(v1beta1)));
    map.insert("kind".to_owned(), Value::from("PartialObjectMetadata"));
    map.insert("metadata".to_owned(), metadata.unwrap_or_else(|| json!({})));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{KINDS, config_map::ConfigMap};

    fn view(shape: Shape, include: IncludeObject) -> View<'static> {
        View { kind: &ConfigMap, shape, include, now: Timestamp::UNIX_EPOCH }
    }

    fn object() -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "resourceVersion": "7"}, "data": {}})
    }

    const TABLE: Shape = Shape::Table { v1beta1: false };

    #[test]
    fn an_object_as_a_table() {
        let table = view(TABLE, IncludeObject::Metadata).object(object());
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["metadata"], json!({"resourceVersion": "7"}));
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "c");
        let table = view(TABLE, IncludeObject::None).object(object());
        assert_eq!(table["rows"][0]["object"], Value::Null);
        let table = view(TABLE, IncludeObject::Object).object(object());
        assert_eq!(table["rows"][0]["object"], object());
    }

    #[test]
    fn a_list_in_each_shape() {
        let list =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"continue": "x"}, "items": [object()]});
        let table = view(TABLE, IncludeObject::Metadata).list(list.clone());
        assert_eq!((&table["metadata"]["continue"], table["rows"].as_array().map(Vec::len)), (&json!("x"), Some(1)));
        let partial = view(Shape::MetadataList { v1beta1: true }, IncludeObject::Metadata).list(list.clone());
        assert_eq!(partial["items"][0]["apiVersion"], "meta.k8s.io/v1beta1");
        assert_eq!(view(Shape::Object, IncludeObject::Metadata).list(list.clone()), list);
    }

    #[test]
    fn only_the_first_event_names_columns() {
        let view = view(TABLE, IncludeObject::Metadata);
        assert!(view.event(object(), true)["columnDefinitions"].is_array());
        assert!(view.event(object(), false)["columnDefinitions"].is_null());
        let status = json!({"kind": "Status", "code": 410});
        assert_eq!(view.event(status.clone(), false), status);
    }

    #[test]
    fn every_kind_has_a_cell_for_each_column() {
        for kind in KINDS {
            let info = kind.info();
            let object = json!({"metadata": {"name": "x"}});
            let cells = kind.row(&object, Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns().len(), "{}", info.kind);
            assert!(kind.columns().iter().any(|column| column.format == "name"), "{}", info.kind);
        }
    }
}
