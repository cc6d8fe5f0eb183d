//! The rules of each Kubernetes kind, as pure functions over JSON values.
//!
//! An object is a [`serde_json::Value`] everywhere in the API server. Typed structs would give away
//! what upstream's answers depend on: which fields are written although empty, which numbers stay
//! integers, which fields a client sent that the type does not know; and custom resources have no
//! struct at all. `schema` gives the values their types back where they matter: strict decoding,
//! protobuf, strategic merge, OpenAPI.
//!
//! A kind is one file with one [`Kind`] and one row in [`KINDS`]. Discovery, OpenAPI, Tables and the
//! generic API tests follow from the row. This room decides; it never reads a clock, a store or a
//! socket: the time that a row's age needs comes in as an argument.

pub mod admission;
pub mod api_service;
pub mod certificate_signing_request;
pub mod cluster_role;
pub mod cluster_role_binding;
pub mod common;
pub mod config_map;
pub mod controller_revision;
pub mod cron;
pub mod cron_job;
pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod custom;
pub mod custom_resource_definition;
pub mod daemon_set;
pub mod deployment;
pub mod diff;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod event_v1;
pub mod field;
pub mod fill;
pub mod flow_schema;
pub mod horizontal_pod_autoscaler;
pub mod ingress;
pub mod ingress_class;
pub mod ip_address;
pub mod job;
pub mod lease;
pub mod limit_range;
pub mod meta;
pub mod model;
pub mod names;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod placement;
pub mod pod;
pub mod pod_disruption_budget;
pub mod pod_template;
pub mod pod_template_kind;
pub mod priority_class;
pub mod priority_level_configuration;
#[cfg(test)]
mod properties;
pub mod quantity;
pub mod quota;
pub mod rbac;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_quota;
pub mod role;
pub mod role_binding;
pub mod runtime_class;
pub mod schema;
pub mod secret;
pub mod selector;
pub mod service;
pub mod service_account;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage_class;
pub mod structural;
pub mod time;
pub mod volume_attachment;
pub mod volume_attributes_class;
pub mod workload;

use std::borrow::Cow;

use serde_json::Value;

use field::Errors;
use model::Model;

/// The static facts of one kind, as discovery tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    /// API group; empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Resource name in URLs, e.g. `deployments`.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// The Go type in OpenAPI form, e.g. `io.k8s.api.apps.v1.Deployment`: the key into `schema`.
    pub schema: &'static str,
    /// Where the store keeps its objects: `/registry/<storage>/…`. Kinds that show one stored object
    /// (core and `events.k8s.io` Events, versions of one resource) share it; see [`Kind::conversion`].
    pub storage: &'static str,
    /// Upstream's `storageVersionHash` in legacy discovery.
    pub storage_version_hash: &'static str,
}

impl KindInfo {
    /// The resource name of a built-in kind, for rules that hold for it by name. Empty for a custom
    /// resource: one that is called `services` is no Service.
    pub fn own_plural(&self) -> &'static str {
        if self.verbs == custom::VERBS { "" } else { self.plural }
    }
}

/// A subresource as discovery tells it: `deployments/scale` has kind Scale of autoscaling/v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// The replicas of a kind that has them.
    pub const SCALE: Self =
        Self { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: &["get", "patch", "update"] };

    /// What is observed of an object of this kind.
    pub const fn status(kind: &'static str) -> Self {
        Self { name: "status", group: "", version: "", kind, verbs: &["get", "patch", "update"] }
    }

    /// Whether what comes back is no object: its kind holds the options of a connection.
    pub fn is_stream(&self) -> bool {
        self.kind.ends_with("Options")
    }

    /// Whether it passes on whatever path follows it.
    pub fn is_proxy(&self) -> bool {
        self.name == "proxy"
    }
}

/// What may be done through a pod or a service, whose own affair it is what a method does.
pub const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// An endpoint that writes one part of an object, as `pods/ephemeralcontainers` does.
pub struct Part {
    pub subresource: &'static str,
    /// Takes everything but the part from the object as it is, the second.
    pub prepare: fn(&mut Value, &Value),
    /// Validity of the first and of the change from the second.
    pub validate: fn(&Value, &Value) -> Errors,
}

/// Every built-in kind. The order is that of discovery: groups as upstream lists them.
pub static KINDS: &[&dyn Kind] = &[
    &pod::Pod,
    &namespace::Namespace,
    &node::Node,
    &service::Service,
    &endpoints::Endpoints,
    &config_map::ConfigMap,
    &secret::Secret,
    &service_account::ServiceAccount,
    &event::Event,
    &event_v1::EventV1,
    &replication_controller::ReplicationController,
    &pod_template_kind::PodTemplate,
    &persistent_volume::PersistentVolume,
    &persistent_volume_claim::PersistentVolumeClaim,
    &resource_quota::ResourceQuota,
    &limit_range::LimitRange,
    &lease::Lease,
    &controller_revision::ControllerRevision,
    &api_service::APIService,
    &daemon_set::DaemonSet,
    &stateful_set::StatefulSet,
    &replica_set::ReplicaSet,
    &deployment::Deployment,
    &horizontal_pod_autoscaler::HorizontalPodAutoscaler,
    &horizontal_pod_autoscaler::v1::HorizontalPodAutoscaler,
    &job::Job,
    &cron_job::CronJob,
    &certificate_signing_request::CertificateSigningRequest,
    &endpoint_slice::EndpointSlice,
    &ingress::Ingress,
    &ingress_class::IngressClass,
    &ip_address::IPAddress,
    &service_cidr::ServiceCIDR,
    &runtime_class::RuntimeClass,
    &network_policy::NetworkPolicy,
    &cluster_role_binding::ClusterRoleBinding,
    &cluster_role::ClusterRole,
    &role_binding::RoleBinding,
    &role::Role,
    &storage_class::StorageClass,
    &csi_driver::CSIDriver,
    &csi_node::CSINode,
    &csi_storage_capacity::CSIStorageCapacity,
    &volume_attachment::VolumeAttachment,
    &volume_attributes_class::VolumeAttributesClass,
    &pod_disruption_budget::PodDisruptionBudget,
    &custom_resource_definition::CustomResourceDefinition,
    &priority_class::PriorityClass,
    &flow_schema::FlowSchema,
    &priority_level_configuration::PriorityLevelConfiguration,
    &admission::mutating_admission_policy::MutatingAdmissionPolicy,
    &admission::mutating_admission_policy_binding::MutatingAdmissionPolicyBinding,
    &admission::mutating_webhook_configuration::MutatingWebhookConfiguration,
    &admission::validating_admission_policy::ValidatingAdmissionPolicy,
    &admission::validating_admission_policy_binding::ValidatingAdmissionPolicyBinding,
    &admission::validating_webhook_configuration::ValidatingWebhookConfiguration,
];

/// A column as the kinds' tables write it; the description is filled by the Table codec from the schema.
pub const fn column(name: &'static str, kind: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name, kind, format, description: "", priority }
}

/// All verbs of an ordinary resource.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A column of a kind's Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`, …
    pub kind: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is shown by default; higher only by `-o wide`.
    pub priority: i32,
}

/// Where `spec.replicas`, `status.replicas` and the selector of a scalable kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalePaths {
    /// JSON pointers, e.g. `/spec/replicas`.
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    /// Pointer to a LabelSelector, or to a plain map.
    pub selector: &'static str,
}

impl ScalePaths {
    /// Where all workloads have them.
    pub const WORKLOAD: Self =
        Self { spec_replicas: "/spec/replicas", status_replicas: "/status/replicas", selector: "/spec/selector" };
}

/// The rules of one kind. Objects handed in have passed `schema`'s type check: known fields have
/// their declared JSON types. Absent and null mean the same.
///
/// The order on create: `default` → admission → `prepare_create` → `validate`; on update:
/// `default` → admission → `prepare_update` → `validate_update`. Object metadata is checked by
/// `meta` for every kind; these functions see to the rest.
pub trait Kind: Send + Sync + 'static {
    fn info(&self) -> &'static KindInfo;

    /// The kind of a list of its objects.
    fn list_kind(&self) -> Cow<'static, str> {
        format!("{}List", self.info().kind).into()
    }

    /// What gives the values of its objects their types.
    fn model(&self) -> Option<Model> {
        schema::lookup(self.info().schema).map(Model::Table)
    }

    /// The custom resource that this kind is, if it is one.
    fn custom(&self) -> Option<&custom::Custom> {
        None
    }

    /// Fills in upstream's defaults. Idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Resets what a client may not set at creation: mostly `status`; sets `metadata.generation` 1
    /// where the kind counts generations.
    fn prepare_create(&self, _object: &mut Value) {}

    /// The main endpoint: takes `status` from `old`, bumps `metadata.generation` when `spec` changed.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// The `/status` endpoint: takes everything but `status` (and what the kind excepts) from `old`.
    fn prepare_status_update(&self, _new: &mut Value, _old: &Value) {}

    /// After `prepare_status_update`: writes the times that the server sets.
    fn date_status(&self, _new: &mut Value, _old: &Value, _now: jiff::Timestamp) {}

    fn validate(&self, _object: &Value) -> Errors {
        Errors::default()
    }

    /// Validity of `new` and of the change from `old`.
    fn validate_update(&self, new: &Value, _old: &Value) -> Errors {
        self.validate(new)
    }

    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Errors {
        Errors::default()
    }

    /// The endpoints that write another part of the object than its status: each takes everything but
    /// its part from `old`.
    fn parts(&self) -> &'static [Part] {
        &[]
    }

    /// Texts for `Warning: 299` headers.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The kind of `metadata.name` rule: see `meta`.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    fn columns(&self) -> &'static [Column];

    /// One cell a column; `now` is what ages count to.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;

    /// Field selectors beyond `metadata.name` and `metadata.namespace`, with this object's values.
    fn selectable(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The names of `selectable`'s fields, for refusing unknown ones.
    fn selectable_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// A deprecated kind's text for the `Warning: 299` header of every answer, reads included.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }

    fn scale(&self) -> Option<ScalePaths> {
        None
    }

    /// How this kind's objects become the form in which they are stored, and back. `None` says that the
    /// stored form is this kind's own, and lets answers be copies of stored bytes: of the kinds that
    /// share a `storage` exactly one says so.
    fn conversion(&self) -> Option<&dyn Conversion> {
        None
    }

    /// A DELETE that names no `propagationPolicy` means `Orphan`: the kinds that are older than
    /// garbage collection, whose clients expect dependents to stay.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The text for the `Warning: 299` header of a DELETE that names no policy.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Fields that writes through an endpoint do not take (paths of names; "" is the main endpoint): a
    /// manager owns nothing in them by such a write.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        let has_status = self.info().subresources.iter().any(|sub| sub.name == "status");
        match subresource {
            "" if has_status => &[&["status"]],
            "status" => &[&["spec"]],
            _ => &[],
        }
    }

    /// How long a deleted object stays while its end is awaited, of `_requested` or the kind's own;
    /// `None` for the kinds that go at once.
    fn graceful_delete_seconds(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
}

/// Two kinds, one stored object. A round trip loses nothing of either form: what the other form has no
/// field for is kept in annotations, as upstream's conversions do.
///
/// Objects carry their `metadata` as it is; `apiVersion` and `kind` are seen to by who calls.
pub trait Conversion {
    /// This kind's object in the stored form.
    fn to_stored(&self, object: Value) -> Value;

    /// A stored object in this kind's form.
    #[allow(clippy::wrong_self_convention, reason = "the kind is what converts; the object comes as an argument")]
    fn from_stored(&self, stored: Value) -> Value;
}

/// What `metadata.name` must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    DnsSubdomain,
    /// RFC 1123 label (namespaces).
    DnsLabel,
    /// RFC 1035 label (services).
    Dns1035Label,
    /// Any path segment (RBAC).
    PathSegment,
    /// An IP address in its canonical form (IPAddresses).
    IpAddress,
}
