//! The OpenAPI documents: what `kubectl explain` prints, what `kubectl apply` merges by, and how clients
//! find out that the server validates fields.
//!
//! Everything is derived: the shapes, list types and merge keys from the field table
//! ([`crate::kinds::schema`]), the descriptions from the typed structs' own schemas, the paths from the
//! kinds. Version 3 has a document for each group version and an index with their hashes; version 2 is
//! one document for all, in JSON and as protobuf. They are built when somebody asks, and kept: no client needs one
//! to start.

mod gnostic;
mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::definitions::{Served, Table};
use super::discovery::{Discovery, etag};
use crate::kinds::{KINDS, Kind, KindInfo};

/// A document as it is sent.
#[derive(Debug, Clone)]
pub struct Document {
    pub body: Bytes,
    /// Quoted, for the `ETag` header; in the index without its quotes, as the `hash` parameter.
    pub etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        Self::of_bytes(value.to_string().into_bytes())
    }

    fn of_bytes(body: Vec<u8>) -> Self {
        Self { etag: etag(&body), body: body.into() }
    }

    fn hash(&self) -> &str {
        self.etag.trim_matches('"')
    }
}

/// How the two versions of OpenAPI write the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The documents that show custom kinds: those of their group versions, and all that name everything.
#[derive(Debug, Default)]
pub struct Documents {
    index: OnceLock<Document>,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    /// By path; one of a built-in group's version that has custom kinds beside its own shows both.
    versions: OnceLock<BTreeMap<String, Document>>,
}

/// `/openapi/v3`: where the document of each group version is.
pub fn index(custom: &Table) -> Document {
    let own = custom.documents.get_or_init(Documents::default);
    let made = own.index.get_or_init(|| {
        let url = |(path, document): (&String, &Document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash());
            (path.clone(), json!({"serverRelativeURL": url}))
        };
        let paths: Map<String, Value> = documents().iter().chain(versions(custom)).map(url).collect();
        Document::new(&json!({"paths": paths}))
    });
    made.clone()
}

/// `/openapi/v3/PATH`, where PATH is `api/v1` or `apis/GROUP/VERSION`.
pub fn group_version(custom: &Table, path: &str) -> Option<Document> {
    let path = path.trim_matches('/');
    versions(custom).get(path).or_else(|| documents().get(path)).cloned()
}

/// `/openapi/v2`.
pub fn v2(custom: &Table) -> Document {
    let own = custom.documents.get_or_init(Documents::default);
    own.v2.get_or_init(|| Document::new(&swagger(custom))).clone()
}

/// The same as protobuf.
pub fn v2_protobuf(custom: &Table) -> Document {
    let own = custom.documents.get_or_init(Documents::default);
    own.v2_protobuf.get_or_init(|| Document::of_bytes(gnostic::encode(&swagger(custom)))).clone()
}

fn swagger(custom: &Table) -> Value {
    let infos: Vec<&KindInfo> = KINDS.iter().map(|kind| kind.info()).chain(infos(custom.served())).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::health::GIT_VERSION},
        "paths": paths::of(&infos, Dialect::V2),
        "definitions": schemas::components(&infos, custom.served(), Dialect::V2),
    })
}

fn infos(served: &[Served]) -> impl Iterator<Item = &'static KindInfo> {
    served.iter().map(|served| served.kind.info())
}

fn versions(custom: &Table) -> &BTreeMap<String, Document> {
    let own = custom.documents.get_or_init(Documents::default);
    own.versions.get_or_init(|| {
        let paths = infos(custom.served()).map(|info| (info.group, info.version));
        paths.map(|(group, version)| (path_of(group, version), document(group, version, custom.served()))).collect()
    })
}

fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let discovery = Discovery::new(KINDS.iter().map(|kind| kind.info()));
        let versions = discovery.group_versions().into_iter();
        versions.map(|(group, version)| (path_of(group, version), document(group, version, &[]))).collect()
    })
}

/// `api/v1`, `apis/apps/v1`.
fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str, custom: &[Served]) -> Document {
    let of_version = |info: &&KindInfo| info.group == group && info.version == version;
    let infos: Vec<&KindInfo> = KINDS.iter().map(|kind| kind.info()).chain(infos(custom)).filter(of_version).collect();
    Document::new(&json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::health::GIT_VERSION},
        "paths": paths::of(&infos, Dialect::V3),
        "components": {"schemas": schemas::components(&infos, custom, Dialect::V3)},
    }))
}

#[cfg(test)]
mod tests;
