//! Component schemas: the field table's types, with the typed structs' descriptions.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use k8s_openapi::api::{
    admissionregistration, apps, authentication, autoscaling, batch, certificates, coordination, core, discovery,
    events, flowcontrol, networking, node, policy, rbac, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::Dialect;
use crate::apiserver::definitions::Served;
use crate::kinds::schema::{self, Field, Presence, Shape, Type};
use crate::kinds::{Kind, KindInfo, Subresource};

/// The structs whose descriptions are used; what they reach comes with them.
static DESCRIBED: &[fn(&mut SchemaGenerator)] = &[
    describe::<core::v1::Pod>,
    describe::<core::v1::Namespace>,
    describe::<core::v1::Node>,
    describe::<core::v1::Service>,
    describe::<core::v1::Endpoints>,
    describe::<core::v1::ConfigMap>,
    describe::<core::v1::Secret>,
    describe::<core::v1::ServiceAccount>,
    describe::<core::v1::Event>,
    describe::<core::v1::Binding>,
    describe::<core::v1::ReplicationController>,
    describe::<core::v1::PodTemplate>,
    describe::<core::v1::PersistentVolume>,
    describe::<core::v1::PersistentVolumeClaim>,
    describe::<core::v1::LimitRange>,
    describe::<core::v1::ResourceQuota>,
    describe::<events::v1::Event>,
    describe::<coordination::v1::Lease>,
    describe::<apiregistration::v1::APIService>,
    describe::<apps::v1::ReplicaSet>,
    describe::<apps::v1::Deployment>,
    describe::<apps::v1::DaemonSet>,
    describe::<apps::v1::StatefulSet>,
    describe::<apps::v1::ControllerRevision>,
    describe::<batch::v1::Job>,
    describe::<batch::v1::CronJob>,
    describe::<certificates::v1::CertificateSigningRequest>,
    describe::<discovery::v1::EndpointSlice>,
    describe::<networking::v1::Ingress>,
    describe::<networking::v1::IngressClass>,
    describe::<networking::v1::IPAddress>,
    describe::<networking::v1::ServiceCIDR>,
    describe::<node::v1::RuntimeClass>,
    describe::<rbac::v1::ClusterRole>,
    describe::<rbac::v1::ClusterRoleBinding>,
    describe::<rbac::v1::Role>,
    describe::<rbac::v1::RoleBinding>,
    describe::<autoscaling::v1::Scale>,
    describe::<autoscaling::v1::HorizontalPodAutoscaler>,
    describe::<autoscaling::v2::HorizontalPodAutoscaler>,
    describe::<flowcontrol::v1::FlowSchema>,
    describe::<flowcontrol::v1::PriorityLevelConfiguration>,
    describe::<policy::v1::Eviction>,
    describe::<policy::v1::PodDisruptionBudget>,
    describe::<scheduling::v1::PriorityClass>,
    describe::<networking::v1::NetworkPolicy>,
    describe::<storage::v1::StorageClass>,
    describe::<storage::v1::CSIDriver>,
    describe::<storage::v1::CSINode>,
    describe::<storage::v1::CSIStorageCapacity>,
    describe::<storage::v1::VolumeAttachment>,
    describe::<storage::v1::VolumeAttributesClass>,
    describe::<admissionregistration::v1::MutatingAdmissionPolicy>,
    describe::<admissionregistration::v1::MutatingAdmissionPolicyBinding>,
    describe::<admissionregistration::v1::MutatingWebhookConfiguration>,
    describe::<admissionregistration::v1::ValidatingWebhookConfiguration>,
    describe::<admissionregistration::v1::ValidatingAdmissionPolicy>,
    describe::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>,
    describe::<authentication::v1::TokenRequest>,
    describe::<apiextensions::CustomResourceDefinition>,
    describe::<meta::v1::DeleteOptions>,
    describe::<meta::v1::Status>,
    describe::<meta::v1::ListMeta>,
];

fn describe<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// The structs' schemas by OpenAPI name.
fn described() -> &'static Map<String, Value> {
    static SCHEMAS: OnceLock<Map<String, Value>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let mut generator = SchemaSettings::default().into_generator();
        for describe in DESCRIBED {
            describe(&mut generator);
        }
        generator.take_definitions(false)
    })
}

fn description(name: &str, property: Option<&str>) -> Option<&'static str> {
    let schema = described().get(name)?;
    let schema = match property {
        Some(property) => schema.get("properties")?.get(property)?,
        None => schema,
    };
    schema.get("description")?.as_str()
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The schemas that the given kinds reach, by name; a BTreeMap, so that the document has one order.
pub fn components(infos: &[&KindInfo], custom: &[Served], dialect: Dialect) -> BTreeMap<String, Value> {
    let mut builder = Builder { dialect, done: BTreeMap::new() };
    let mut versions: Vec<(&str, &str)> = infos.iter().map(|info| (info.group, info.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let all: Vec<Value> = versions.iter().map(|(group, version)| gvk(group, version, "DeleteOptions")).collect();
    for (name, kinds) in [("DeleteOptions", all), ("Status", vec![gvk("", "v1", "Status")])] {
        builder.message_named(&format!("{META}.{name}"));
        builder.mark(&format!("{META}.{name}"), kinds);
    }
    builder.message_named(&format!("{META}.ListMeta"));
    builder.done.insert(format!("{META}.Patch"), patch_schema());
    for info in infos {
        let served = custom.iter().find(|served| std::ptr::eq(served.kind.info(), *info));
        match served {
            Some(served) => builder.custom(info, &served.schema),
            None => builder.message_named(info.schema),
        }
        builder.mark(info.schema, vec![gvk(info.group, info.version, info.kind)]);
        let list_kind = served.map(|served| served.kind.list_kind().into_owned());
        builder.list(info, &list_kind.unwrap_or_else(|| format!("{}List", info.kind)));
        for subresource in info.subresources.iter().filter(|subresource| !subresource.is_stream()) {
            let name = of_subresource(info, subresource);
            if name != info.schema {
                let (group, version) = match subresource.version {
                    "" => (info.group, info.version),
                    version => (subresource.group, version),
                };
                builder.message_named(&name);
                builder.mark(&name, vec![gvk(group, version, subresource.kind)]);
            }
        }
    }
    builder.done
}

/// The schema of what a subresource takes and gives.
pub fn of_subresource(info: &KindInfo, subresource: &Subresource) -> String {
    if subresource.version.is_empty() {
        let package = info.schema.rsplit_once('.').map_or("", |(package, _)| package);
        return format!("{package}.{}", subresource.kind);
    }
    let group = subresource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("io.k8s.api.{group}.{}.{}", subresource.version, subresource.kind)
}

pub fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn patch_schema() -> Value {
    json!({
        "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
        "type": "object",
    })
}

struct Builder {
    dialect: Dialect,
    done: BTreeMap<String, Value>,
}

impl Builder {
    fn message_named(&mut self, name: &str) {
        if let Some(ty) = schema::lookup(name) {
            self.message(ty);
        } else if name == format!("{META}.ListMeta") {
            self.done.insert(name.to_owned(), list_meta());
        }
    }

    /// A custom resource: what its author wrote, and what every object has.
    fn custom(&mut self, info: &KindInfo, schema: &Value) {
        let mut schema = if schema.is_object() { schema.clone() } else { json!({"type": "object"}) };
        if self.dialect == Dialect::V2 {
            simplify(&mut schema);
        }
        let metadata = format!("{META}.ObjectMeta");
        self.message_named(&metadata);
        let text = |property: &str| description("io.k8s.api.core.v1.Pod", Some(property)).unwrap_or_default();
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({"type": "string", "description": text("apiVersion")});
        properties["kind"] = json!({"type": "string", "description": text("kind")});
        properties["metadata"] = match self.dialect {
            Dialect::V2 => self.refer(&metadata),
            Dialect::V3 => json!({
                "description": text("metadata"), "allOf": [{"$ref": self.dialect.reference(&metadata)}],
            }),
        };
        self.done.insert(info.schema.to_owned(), schema);
    }

    fn mark(&mut self, name: &str, kinds: Vec<Value>) {
        if let Some(schema) = self.done.get_mut(name) {
            schema["x-kubernetes-group-version-kind"] = Value::Array(kinds);
        }
    }

    /// Adds a type and what it reaches.
    fn message(&mut self, ty: &'static Type) {
        if self.done.contains_key(&ty.name) {
            return;
        }
        // The name is taken first: types reach each other in circles.
        self.done.insert(ty.name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in &ty.fields {
            let text = description(&ty.name, Some(field.name));
            properties.insert(field.name.to_owned(), self.property(field, text));
        }
        let required: Vec<&str> = ty.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        let mut schema = Map::new();
        if let Some(text) = description(&ty.name, None) {
            schema.insert("description".to_owned(), Value::from(text));
        }
        schema.insert("type".to_owned(), Value::from("object"));
        schema.insert("properties".to_owned(), Value::Object(properties));
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        if ty.atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
        }
        self.done.insert(ty.name.clone(), Value::Object(schema));
    }

    fn property(&mut self, field: &'static Field, text: Option<&str>) -> Value {
        let mut schema = self.shape(&field.shape, text);
        let Some(map) = schema.as_object_mut() else { return schema };
        if self.dialect == Dialect::V3
            && let Some(default) = default_of(field)
        {
            map.insert("default".to_owned(), default);
        }
        let merge = &field.merge;
        let mut extend = |name: &str, value: Value| {
            map.insert(format!("x-kubernetes-{name}"), value);
        };
        if let Some(kind) = merge.list_type {
            extend("list-type", Value::from(kind));
        }
        if !merge.list_map_keys.is_empty() {
            extend("list-map-keys", json!(merge.list_map_keys));
        }
        if let Some(kind) = merge.map_type {
            extend("map-type", Value::from(kind));
        }
        if !merge.strategy.is_empty() {
            extend("patch-strategy", Value::from(merge.strategy));
        }
        if let Some(key) = merge.key {
            extend("patch-merge-key", Value::from(key));
        }
        schema
    }

    fn shape(&mut self, shape: &'static Shape, text: Option<&str>) -> Value {
        let mut schema = match shape {
            Shape::String(_) => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Quantity => self.special("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Shape::IntOrString => self.special("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Shape::Time => self.special(&format!("{META}.Time")),
            Shape::MicroTime => self.special(&format!("{META}.MicroTime")),
            Shape::FieldsV1 => self.special(&format!("{META}.FieldsV1")),
            Shape::Raw | Shape::Or(..) => self.special("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            Shape::Message(inner) => {
                let inner = inner.get();
                self.message(inner);
                self.refer(&inner.name)
            }
            Shape::List(inner) => json!({"type": "array", "items": self.element(inner)}),
            Shape::Map(_, inner) => json!({"type": "object", "additionalProperties": self.element(inner)}),
        };
        if let (Some(map), Some(text)) = (schema.as_object_mut(), text) {
            map.insert("description".to_owned(), Value::from(text));
        }
        schema
    }

    fn element(&mut self, inner: &'static Shape) -> Value {
        let mut schema = self.shape(inner, None);
        let default = match inner {
            Shape::Message(_) => json!({}),
            Shape::String(_) => json!(""),
            _ => return schema,
        };
        if let (Dialect::V3, Some(map)) = (self.dialect, schema.as_object_mut()) {
            map.insert("default".to_owned(), default);
        }
        schema
    }

    /// A reference. Version 3 wraps it, because nothing may stand beside a `$ref` there.
    fn refer(&self, name: &str) -> Value {
        let reference = json!({"$ref": self.dialect.reference(name)});
        match self.dialect {
            Dialect::V2 => reference,
            Dialect::V3 => json!({"allOf": [reference]}),
        }
    }

    /// A type that is written as something else than an object.
    fn special(&mut self, name: &str) -> Value {
        if !self.done.contains_key(name) {
            let v3 = self.dialect == Dialect::V3;
            let kind = name.rsplit('.').next().unwrap_or_default();
            let mut schema = match kind {
                "Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                "IntOrString" if v3 => {
                    json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
                }
                "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
                "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
                "FieldsV1" | "RawExtension" => json!({"type": "object"}),
                _ => json!({"type": "string"}),
            };
            if let Some(text) = description(name, None) {
                schema["description"] = Value::from(text);
            }
            self.done.insert(name.to_owned(), schema);
        }
        self.refer(name)
    }

    /// The list type of a kind, which no table holds because all are alike.
    fn list(&mut self, info: &KindInfo, kind: &str) {
        let name = format!("{}List", info.schema);
        let text = |property: &str| description(info.schema, Some(property)).unwrap_or_default();
        let items = match self.dialect {
            Dialect::V2 => self.refer(info.schema),
            Dialect::V3 => json!({"allOf": [{"$ref": self.dialect.reference(info.schema)}], "default": {}}),
        };
        let metadata = self.refer(&format!("{META}.ListMeta"));
        let schema = json!({
            "description": format!("{kind} is a list of {} objects.", info.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": text("apiVersion")},
                "kind": {"type": "string", "description": text("kind")},
                "metadata": metadata,
                "items": {"type": "array", "items": items, "description": format!("The {} objects of the list.", info.kind)},
            },
            "x-kubernetes-group-version-kind": [gvk(info.group, info.version, kind)],
        });
        self.done.insert(name, schema);
    }
}

/// Takes out of a schema what version 2 of OpenAPI cannot say; there, a value may then be anything.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let loose = ["oneOf", "anyOf", "allOf", "not", "nullable", "x-kubernetes-validations", "default"];
    let any = map.get("x-kubernetes-int-or-string").is_some_and(|flag| flag == true)
        || map.get("x-kubernetes-preserve-unknown-fields").is_some_and(|flag| flag == true)
        || map.get("nullable").is_some_and(|flag| flag == true);
    map.retain(|name, _| !loose.contains(&name.as_str()));
    if any {
        map.retain(|name, _| name == "description" || name.starts_with("x-kubernetes-"));
        return;
    }
    for (name, value) in map {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(simplify),
            ("items" | "additionalProperties", value) => simplify(value),
            _ => {}
        }
    }
}

/// What the schema says an absent field means: what is declared, or the zero value that is written anyway.
fn default_of(field: &Field) -> Option<Value> {
    if let Some(text) = field.default {
        return serde_json::from_str(text).ok();
    }
    match (field.presence, &field.shape) {
        (Presence::Value | Presence::Always, Shape::Message(_)) => Some(json!({})),
        (Presence::Always, Shape::String(_)) => Some(json!("")),
        (Presence::Always, Shape::Int32 | Shape::Int64) => Some(json!(0)),
        (Presence::Always, Shape::Bool) => Some(json!(false)),
        _ => None,
    }
}

fn list_meta() -> Value {
    let text = |property: &str| description(&format!("{META}.ListMeta"), Some(property)).unwrap_or_default();
    json!({
        "description": description(&format!("{META}.ListMeta"), None).unwrap_or_default(),
        "type": "object",
        "properties": {
            "continue": {"type": "string", "description": text("continue")},
            "remainingItemCount": {"type": "integer", "format": "int64", "description": text("remainingItemCount")},
            "resourceVersion": {"type": "string", "description": text("resourceVersion")},
            "selfLink": {"type": "string", "description": text("selfLink")},
        },
    })
}
