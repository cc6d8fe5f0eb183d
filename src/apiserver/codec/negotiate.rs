//! What a client accepts, and what it is given.
//!
//! Three things are negotiated at once: the bytes (JSON or YAML), the shape of an answer (the object,
//! a Table, only its metadata) and, for discovery, its aggregated form. Clients list several in order
//! of preference; upstream's rule is to take the first clause that it can serve, after sorting by `q`.

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    Object,
    /// `as=Table`, of `meta.k8s.io/v1` or, for old clients, `v1beta1`.
    Table {
        v1beta1: bool,
    },
    /// `as=PartialObjectMetadata`.
    Metadata {
        v1beta1: bool,
    },
    /// `as=PartialObjectMetadataList`.
    MetadataList {
        v1beta1: bool,
    },
    /// `as=APIGroupDiscoveryList`, of `apidiscovery.k8s.io` `v2` or `v2beta1`.
    AggregatedDiscovery {
        v2beta1: bool,
    },
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Representation {
    pub shape: Shape,
    pub yaml: bool,
    /// Indented: `pretty=true`, or a person with a browser or curl. Set by the caller.
    pub pretty: bool,
}

impl Representation {
    /// A plain JSON object.
    pub const JSON: Self = Self { shape: Shape::Object, yaml: false, pretty: false };

    /// The `Content-Type` of the answer. Only discovery's says its shape.
    pub fn content_type(&self) -> &'static str {
        match self.shape {
            Shape::AggregatedDiscovery { v2beta1: false } => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            Shape::AggregatedDiscovery { v2beta1: true } => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
            _ if self.yaml => "application/yaml",
            _ => "application/json",
        }
    }

    /// The bytes of an answer.
    pub fn encode(&self, value: &serde_json::Value) -> Vec<u8> {
        if self.yaml {
            // A JSON value always has a YAML form; an empty text would be the answer of a bug here.
            return serde_yaml::to_string(value).unwrap_or_default().into_bytes();
        }
        let mut bytes =
            if self.pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) }.unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// What an endpoint can serve beside the plain object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accept {
    /// Tables and metadata: endpoints of objects.
    pub tables: bool,
    /// The aggregated form: `/api` and `/apis`.
    pub discovery: bool,
}

/// The accepted types in the text of a 406.
pub const NOT_ACCEPTABLE: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Clauses beyond this are not read; clients send three or four.
const MAX_CLAUSES: usize = 64;

/// Picks what to send for an `Accept` header; `None` is 406 ([`NOT_ACCEPTABLE`]).
pub fn negotiate(accept: Option<&str>, can: Accept) -> Option<Representation> {
    let accept = accept.map(str::trim).filter(|text| !text.is_empty());
    let Some(accept) = accept else { return Some(Representation::JSON) };
    let mut clauses: Vec<(f32, Clause<'_>)> = accept.split(',').take(MAX_CLAUSES).map(parse_clause).collect();
    clauses.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    clauses.iter().find_map(|(_, clause)| clause.serve(can))
}

#[derive(Debug, Default)]
struct Clause<'a> {
    media: &'a str,
    kind: &'a str,
    group: &'a str,
    version: &'a str,
}

fn parse_clause(text: &str) -> (f32, Clause<'_>) {
    let mut parts = text.split(';').map(str::trim);
    let mut clause = Clause { media: parts.next().unwrap_or_default(), ..Clause::default() };
    let mut quality = 1.0;
    for part in parts {
        match part.split_once('=') {
            Some(("as", kind)) => clause.kind = kind,
            Some(("g", group)) => clause.group = group,
            Some(("v", version)) => clause.version = version,
            Some(("q", number)) => quality = number.parse().unwrap_or(1.0),
            _ => {}
        }
    }
    (quality, clause)
}

impl Clause<'_> {
    fn serve(&self, can: Accept) -> Option<Representation> {
        let yaml = match self.media.to_ascii_lowercase().as_str() {
            "*/*" | "application/*" | "application/json" => false,
            "application/yaml" => true,
            _ => return None,
        };
        Some(Representation { shape: self.shape(can)?, yaml, pretty: false })
    }

    /// The shape that `as`, `g` and `v` name; a clause that names one the endpoint has not is passed over.
    fn shape(&self, can: Accept) -> Option<Shape> {
        if self.kind.is_empty() {
            return Some(Shape::Object);
        }
        let v1beta1 = match (self.group, self.version) {
            ("meta.k8s.io", "v1") => Some(false),
            ("meta.k8s.io", "v1beta1") => Some(true),
            _ => None,
        };
        match (self.kind, v1beta1) {
            ("Table", Some(v1beta1)) if can.tables => Some(Shape::Table { v1beta1 }),
            ("PartialObjectMetadata", Some(v1beta1)) if can.tables => Some(Shape::Metadata { v1beta1 }),
            ("PartialObjectMetadataList", Some(v1beta1)) if can.tables => Some(Shape::MetadataList { v1beta1 }),
            ("APIGroupDiscoveryList", _) if can.discovery => match (self.group, self.version) {
                ("apidiscovery.k8s.io", "v2") => Some(Shape::AggregatedDiscovery { v2beta1: false }),
                ("apidiscovery.k8s.io", "v2beta1") => Some(Shape::AggregatedDiscovery { v2beta1: true }),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: Accept = Accept { tables: true, discovery: false };
    const DISCOVERY: Accept = Accept { tables: false, discovery: true };
    const PLAIN: Accept = Accept { tables: false, discovery: false };

    fn shape(accept: &str, can: Accept) -> Option<Shape> {
        negotiate(Some(accept), can).map(|representation| representation.shape)
    }

    #[test]
    fn the_headers_of_stock_clients() {
        let kubectl_get = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(shape(kubectl_get, OBJECTS), Some(Shape::Table { v1beta1: false }));
        assert_eq!(shape(kubectl_get, PLAIN), Some(Shape::Object));
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(shape(typed, OBJECTS), Some(Shape::Object));
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(shape(discovery, DISCOVERY), Some(Shape::AggregatedDiscovery { v2beta1: false }));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(shape(metadata, OBJECTS), Some(Shape::MetadataList { v1beta1: false }));
        assert_eq!(negotiate(None, PLAIN), Some(Representation::JSON));
        assert_eq!(shape("*/*", OBJECTS), Some(Shape::Object));
    }

    #[test]
    fn what_cannot_be_served() {
        for accept in
            ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v9;g=meta.k8s.io"]
        {
            assert_eq!(negotiate(Some(accept), OBJECTS), None, "{accept}");
        }
        assert_eq!(shape("application/json;as=Table;v=v1;g=meta.k8s.io", PLAIN), None);
    }

    #[test]
    fn quality_orders_clauses() {
        let chosen = negotiate(Some("application/json;q=0.5, application/yaml;q=0.9"), PLAIN);
        assert_eq!(chosen.map(|chosen| chosen.content_type()), Some("application/yaml"));
    }
}
