//! Coracle: Kubernetes for WebAssembly in one binary.
//!
//! The way of the data, one way and without shortcuts:
//!
//! ```text
//! manifest → apiserver (authn → authz → decode → default → admit → validate) → store (one revision)
//!         → watch feed → controllers · scheduler → apiserver … → node agent → runtime (wasm | docker)
//!         → status → apiserver → EndpointSlices → router table → requests
//! ```
//!
//! Nobody but [`apiserver`] touches the [`store`]; nobody but [`node`] touches the [`runtime`]; the
//! request path of [`network`] reads one immutable table. Every component except the API server is a
//! client of the Kubernetes API through one `kube::Client` ([`client`]).
//!
//! # Rooms, and what each may import
//!
//! | room | owns | imports |
//! |---|---|---|
//! | [`wire`] | the HTTP body, the call and its errors: the nouns that rooms hand to each other | nothing |
//! | [`cel`] | CEL: the expressions that users write, evaluated within a budget | nothing |
//! | [`kinds`] | the rules of each Kubernetes kind, pure | `cel` |
//! | [`store`] | bytes and revisions; knows no Kubernetes | nothing |
//! | [`oci`] | registries: pulling, pushing, what was pulled; knows no pods | nothing |
//! | [`telemetry`] | logging set-up, pages of metrics | nothing |
//! | [`apiserver`] | the Kubernetes API over a store | `cel`, `kinds`, `store`, `telemetry` |
//! | [`client`] | a `kube::Client` from a router, a kubeconfig or node credentials | nothing |
//! | [`reconcile`] | shared watches, the planner's kit | `client`, `telemetry` |
//! | [`controllers`] | one file a controller | `reconcile`, `kinds` |
//! | [`scheduler`] | which node a pod runs on | `reconcile`, `kinds` |
//! | [`runtime`] | running containers: the Wasm host, a Docker Engine's | `wire` |
//! | [`network`] | route table, balancing, ingress, service router | `wire`, `kinds` |
//! | [`node`] | the node agent | `reconcile`, `runtime`, `network`, `kinds`, `wire`, `client`, `oci`, `telemetry` |
//! | [`app`], [`cli`] | the composition root; the commands | all |
//!
//! `tests/architecture.rs` reads every `use crate::` and holds it against this table.

pub mod apiserver;
pub mod app;
pub mod cel;
pub mod cli;
pub mod client;
pub mod controllers;
pub mod kinds;
pub mod network;
pub mod node;
pub mod oci;
pub mod reconcile;
pub mod runtime;
pub mod scheduler;
pub mod store;
pub mod telemetry;
pub mod wire;
