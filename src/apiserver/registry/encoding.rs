//! Objects as bytes: how they lie in the store, and how they become answers without being parsed.
//!
//! A stored value is the object's JSON without `apiVersion`, `kind` and `resourceVersion`, with
//! `metadata` first, and in it `managedFields`: `{"metadata":{"managedFields":[…],…},…}`. What is left
//! out is known from elsewhere (the kind, the store's revision) and is spliced in on the way out, so
//! that a get, a list of ten thousand and a watch event are copies of bytes. The owners of fields are half
//! of a typical object and hardly anybody reads them, so who asks for it gets the copy without them.
//! Where two kinds show one stored object (both Events, both versions of autoscalers), one of them is the
//! stored form; the other is parsed and converted ([`Kind::conversion`]).
//!
//! A custom resource says in front which version of its definition it was written in, because that may
//! be another one tomorrow: `{"apiVersion":"v1","metadata":{…},…}`. Shown as that version it is copied,
//! too; as another one it is parsed, and becomes what that version's schema says it is. Where a webhook
//! converts, [`definitions::convert`](crate::apiserver::definitions::convert) has brought the bytes into
//! the version that is asked for before they come here.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::kinds::{Kind, KindInfo};
use crate::store::Entry;

/// What every stored value begins with.
const HEAD: &[u8] = br#"{"metadata":{"#;
/// What the value of a custom resource begins with, then its version, then [`VERSIONED_HEAD`].
const VERSION: &[u8] = br#"{"apiVersion":""#;
const VERSIONED_HEAD: &[u8] = br#"","metadata":{"#;
/// What follows where fields have owners.
const OWNERS: &[u8] = br#""managedFields":"#;

/// `v1`, `apps/v1`.
pub fn api_version(info: &KindInfo) -> String {
    if info.group.is_empty() { info.version.to_owned() } else { format!("{}/{}", info.group, info.version) }
}

/// The store key of an object.
pub fn key(info: &KindInfo, namespace: &str, name: &str) -> String {
    let storage = info.storage;
    if info.namespaced {
        format!("/registry/{storage}/{namespace}/{name}")
    } else {
        format!("/registry/{storage}/{name}")
    }
}

/// The prefix of all objects of a kind, or of those in a namespace ("" is all).
pub fn prefix(info: &KindInfo, namespace: &str) -> String {
    let storage = info.storage;
    if namespace.is_empty() { format!("/registry/{storage}/") } else { format!("/registry/{storage}/{namespace}/") }
}

/// The version that a stored custom resource was written in, and what follows its `{"metadata":{`.
fn split_version(stored: &[u8]) -> Option<(&str, &[u8])> {
    let rest = stored.strip_prefix(VERSION)?;
    let (version, rest) = rest.split_at_checked(memchr::memchr(b'"', rest)?)?;
    Some((std::str::from_utf8(version).ok()?, rest.strip_prefix(VERSIONED_HEAD)?))
}

/// The version that a stored custom resource was written in.
pub fn version(stored: &[u8]) -> Option<&str> {
    split_version(stored).map(|(version, _)| version)
}

/// What follows the stored value's `{"metadata":{`, where that is what `kind` shows.
fn shown_as_stored<'a>(kind: &dyn Kind, stored: &'a [u8], revision: u64) -> Option<&'a [u8]> {
    let Some(custom) = kind.custom() else {
        return stored.strip_prefix(HEAD).filter(|_| kind.conversion().is_none());
    };
    let (version, rest) = split_version(stored)?;
    (version == custom.info().version && custom.is_current(revision)).then_some(rest)
}

/// Whether `kind` shows an object as it is stored.
pub fn is_shown_as_stored(kind: &dyn Kind, stored: &[u8], revision: u64) -> bool {
    shown_as_stored(kind, stored, revision).is_some()
}

/// The bytes to store for `object`, in the form or version that is `kind`'s.
pub fn encode(kind: &dyn Kind, object: &Value) -> Bytes {
    let version = kind.custom().map(|custom| custom.info().version);
    match kind.conversion() {
        Some(conversion) => write_stored(&conversion.to_stored(object.clone()), version),
        None => write_stored(object, version),
    }
}

fn write_stored(object: &Value, version: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    match version {
        // A version is a DNS label: nothing in it is to be escaped.
        Some(version) => out.extend_from_slice(format!(r#"{{"apiVersion":"{version}","metadata":"#).as_bytes()),
        None => out.extend_from_slice(br#"{"metadata":"#),
    }
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let owners = metadata.get_key_value("managedFields");
    let rest = metadata.iter().filter(|(name, _)| !matches!(name.as_str(), "managedFields" | "resourceVersion"));
    out.push(b'{');
    for (i, (name, value)) in owners.into_iter().chain(rest).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json(&mut out, name);
        out.push(b':');
        write_json(&mut out, value);
    }
    out.push(b'}');
    for (name, value) in fields {
        if matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
            continue;
        }
        out.push(b',');
        write_json(&mut out, name);
        out.push(b':');
        write_json(&mut out, value);
    }
    out.push(b'}');
    out.into()
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("JSON values with string keys serialise into memory");
}

/// The object as `kind` shows it, with all that [`encode`] left out. A revision of 0 leaves the
/// version out: a dry run has none.
pub fn decode(kind: &dyn Kind, stored: &[u8], revision: u64) -> Result<Value, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(stored)?;
    if let Some(conversion) = kind.conversion() {
        object = conversion.from_stored(object);
    }
    let info = kind.info();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), api_version(info).into());
        fields.insert("kind".into(), info.kind.into());
        if revision > 0
            && let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("resourceVersion".into(), revision.to_string().into());
        }
    }
    if let Some(custom) = kind.custom().filter(|_| !is_shown_as_stored(kind, stored, revision)) {
        custom.bring_up(&mut object);
    }
    Ok(object)
}

/// How an object is written for the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// With `kind` and `apiVersion`, which items of a list do not have.
    pub typed: bool,
    /// With `managedFields`.
    pub owners: bool,
}

/// Writes the object as JSON for the wire.
pub fn splice(kind: &dyn Kind, stored: &[u8], revision: u64, form: Form, out: &mut BytesMut) {
    let info = kind.info();
    let Form { typed, owners } = form;
    let Some(mut rest) = shown_as_stored(kind, stored, revision) else {
        return splice_slowly(kind, stored, revision, form, out);
    };
    if !owners && let Some(list) = rest.strip_prefix(OWNERS) {
        rest = list.get(value_len(list)..).unwrap_or_default();
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    out.reserve(rest.len() + 128);
    out.put_u8(b'{');
    if typed {
        out.put_slice(b"\"kind\":\"");
        out.put_slice(info.kind.as_bytes());
        out.put_slice(b"\",\"apiVersion\":\"");
        if !info.group.is_empty() {
            out.put_slice(info.group.as_bytes());
            out.put_u8(b'/');
        }
        out.put_slice(info.version.as_bytes());
        out.put_slice(b"\",");
    }
    out.put_slice(b"\"metadata\":{");
    if revision > 0 {
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(revision.to_string().as_bytes());
        out.put_u8(b'"');
        if rest.first() != Some(&b'}') {
            out.put_u8(b',');
        }
    }
    out.put_slice(rest);
}

/// How long the JSON value is that `text` begins with, where it is a list or an object.
fn value_len(text: &[u8]) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

fn splice_slowly(kind: &dyn Kind, stored: &[u8], revision: u64, form: Form, out: &mut BytesMut) {
    let Form { typed, owners } = form;
    let mut object = decode(kind, stored, revision).unwrap_or_default();
    if !owners && let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if !typed && let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    out.put_slice(object.to_string().as_bytes());
}

/// One object as it is stored, with the revision that it shows.
#[derive(Debug, Clone)]
pub struct Stored {
    pub bytes: Bytes,
    pub revision: u64,
}

impl From<&Entry> for Stored {
    fn from(entry: &Entry) -> Self {
        Self { bytes: entry.value.clone(), revision: entry.mod_revision }
    }
}

impl Stored {
    pub fn to_json(&self, kind: &dyn Kind, owners: bool) -> Bytes {
        let mut out = BytesMut::new();
        splice(kind, &self.bytes, self.revision, Form { typed: true, owners }, &mut out);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{deployment::Deployment, event::Event, event_v1::EventV1, pod::Pod};
    use serde_json::json;

    #[test]
    fn splicing_and_decoding_agree() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"replicas": 1},
        });
        let stored = encode(&Deployment, &object);
        assert!(stored.starts_with(HEAD) && !stored.windows(9).any(|w| w == b"resourceV"));
        let spliced: Value =
            serde_json::from_slice(&Stored { bytes: stored.clone(), revision: 7 }.to_json(&Deployment, true))
                .expect("valid JSON");
        assert_eq!(spliced, decode(&Deployment, &stored, 7).expect("valid JSON"));
        assert_eq!(spliced["metadata"]["resourceVersion"], "7");
        let mut item = BytesMut::new();
        splice(&Deployment, &stored, 7, Form { typed: false, owners: true }, &mut item);
        assert!(item.starts_with(br#"{"metadata":{"resourceVersion":"7","#));
    }

    #[test]
    fn owners_are_left_out_for_who_does_not_want_them() {
        let owners = json!([{"manager": "a\\\"]}", "fieldsV1": {"f:x": {"k:{\"a\":[1]}": {}}}}]);
        for rest in [json!({}), json!({"name": "a"})] {
            let mut object = json!({"metadata": rest, "spec": {}});
            let lean = encode(&Pod, &object);
            object["metadata"]["managedFields"] = owners.clone();
            let stored = encode(&Pod, &object);
            let written = |bytes, owners| Stored { bytes, revision: 3 }.to_json(&Pod, owners);
            assert_eq!(written(stored.clone(), false), written(lean, true));
            let whole: Value = serde_json::from_slice(&written(stored, true)).expect("valid JSON");
            assert_eq!(whole["metadata"]["managedFields"], owners);
        }
    }

    #[test]
    fn an_empty_metadata_still_takes_a_version() {
        let stored = encode(&Pod, &json!({}));
        let bytes = Stored { bytes: stored, revision: 2 }.to_json(&Pod, true);
        let object: Value = serde_json::from_slice(&bytes).expect("valid JSON");
        assert_eq!(object["metadata"]["resourceVersion"], "2");
    }

    #[test]
    fn both_events_are_one_object() {
        let stored = encode(&EventV1, &json!({"metadata": {"name": "e"}, "note": "n", "regarding": {"name": "p"}}));
        let core = decode(&Event, &stored, 1).expect("valid JSON");
        assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("n"), &json!("p")));
        let back: Value =
            serde_json::from_slice(&Stored { bytes: stored, revision: 1 }.to_json(&EventV1, true)).expect("JSON");
        assert_eq!((&back["note"], &back["apiVersion"]), (&json!("n"), &json!("events.k8s.io/v1")));
        assert!(back.get("message").is_none());
    }
}
