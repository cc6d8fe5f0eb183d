//! What holds for every kind, whatever is in the object: defaults settle, and nothing panics.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::schema::{self, Shape, Type, conform::conform};
use super::{KINDS, Kind, meta};

/// Deeper values are left out; the interesting fields of pods are this deep.
const DEPTH: u32 = 7;

/// Strings that rules look at, good and bad.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9.-]{0,8}",
        2 => prop::sample::select(vec![
            "Always", "Never", "OnFailure", "TCP", "ClusterFirst", "None", "Localhost", "Exists", "In", "Equal",
            "NoExecute", "RollingUpdate", "Recreate", "metadata.name", "metadata.labels['a']", "10.0.0.1", "50%", "..",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ]
}

fn quantity() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["0", "1", "100m", "-1", "1.5Gi", "64Mi", "1e3", "0.1n"]).prop_map(str::to_owned)
}

/// A value of a shape; some are absent, so that required fields get missed, too.
fn value_of(shape: &'static Shape, depth: u32) -> BoxedStrategy<Value> {
    match shape {
        Shape::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Int32 => {
            prop_oneof![Just(0i32), Just(1), Just(-1), Just(80), any::<i32>()].prop_map(Value::from).boxed()
        }
        Shape::Int64 => prop_oneof![Just(0i64), Just(30), Just(-1), any::<i64>()].prop_map(Value::from).boxed(),
        Shape::Double => Just(json!(1.5)).boxed(),
        Shape::Bytes => Just(json!("YQ==")).boxed(),
        Shape::Quantity => quantity().prop_map(Value::from).boxed(),
        Shape::IntOrString => prop_oneof![text().prop_map(Value::from), any::<i32>().prop_map(Value::from)].boxed(),
        Shape::Time => Just(json!("2026-01-01T00:00:00Z")).boxed(),
        Shape::MicroTime => Just(json!("2026-01-01T00:00:00.000000Z")).boxed(),
        Shape::Raw | Shape::FieldsV1 | Shape::Or(..) => Just(json!({})).boxed(),
        Shape::Message(inner) => object_of(inner.get(), depth),
        Shape::List(inner) => {
            prop::collection::vec(value_of(inner, depth.saturating_sub(1)), 0..3).prop_map(Value::from).boxed()
        }
        Shape::Map(_, inner) => prop::collection::vec((text(), value_of(inner, depth.saturating_sub(1))), 0..3)
            .prop_map(|entries| Value::Object(entries.into_iter().collect()))
            .boxed(),
        Shape::String(_) => text().prop_map(Value::from).boxed(),
    }
}

/// A few fields of a message, drawn anew each time: all of them together would be huge.
fn object_of(ty: &'static Type, depth: u32) -> BoxedStrategy<Value> {
    if depth == 0 || ty.fields.is_empty() {
        return Just(json!({})).boxed();
    }
    let fields: Vec<_> = ty.fields.iter().collect();
    let most = fields.len().min(6);
    prop::sample::subsequence(fields, 0..=most)
        .prop_flat_map(move |chosen| {
            let parts: Vec<_> = chosen
                .into_iter()
                .map(|field| {
                    let name = field.name.to_owned();
                    value_of(&field.shape, depth - 1).prop_map(move |value| (name.clone(), value))
                })
                .collect();
            parts.prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>()))
        })
        .boxed()
}

/// The place of a kind in the table, and an object of its type.
fn any_object() -> impl Strategy<Value = (usize, Value)> {
    (0..KINDS.len()).prop_flat_map(|i| {
        let ty = schema::lookup(KINDS[i].info().schema).expect("every kind has a type");
        (Just(i), object_of(ty, DEPTH))
    })
}

/// As the decoder hands it to the rules; `None` where it refuses the object.
fn decoded(kind: &dyn Kind, mut object: Value) -> Option<Value> {
    let ty = schema::lookup(kind.info().schema)?;
    conform(ty, &mut object, &mut Vec::new()).ok()?;
    meta::normalize(&mut object);
    Some(object)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn defaults_settle((i, object) in any_object()) {
        let kind = KINDS[i];
        if let Some(mut once) = decoded(kind, object) {
            kind.default(&mut once);
            let mut twice = once.clone();
            kind.default(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn conversions_lose_nothing((i, object) in any_object()) {
        let kind = KINDS[i];
        let (Some(conversion), Some(mut object)) = (kind.conversion(), decoded(kind, object)) else { return Ok(()) };
        kind.default(&mut object);
        let stored = conversion.to_stored(object);
        let shown = conversion.from_stored(stored.clone());
        prop_assert_eq!(conversion.to_stored(shown), stored);
    }

    #[test]
    fn nothing_panics((i, object) in any_object(), other in any::<prop::sample::Index>(), (_, stray) in any_object()) {
        let kind = KINDS[i];
        let Some(mut new) = decoded(kind, object) else { return Ok(()) };
        kind.default(&mut new);
        let mut old = new.clone();
        // Something else somewhere: what another writer might have put there.
        if let Some(fields) = new["spec"].as_object_mut().filter(|fields| !fields.is_empty()) {
            let name = fields.keys().nth(other.index(fields.len())).cloned().unwrap_or_default();
            fields.remove(&name);
        }
        let now = jiff::Timestamp::UNIX_EPOCH;
        kind.prepare_create(&mut old);
        let _ = kind.validate(&old);
        let _ = meta::validate_create(&old, kind.info(), kind.name_rule());
        let mut status = new.clone();
        kind.prepare_update(&mut new, &old);
        let _ = meta::validate_update(&new, &old);
        for error in kind.validate_update(&new, &old).0 {
            let _ = error.to_string();
        }
        kind.prepare_status_update(&mut status, &old);
        let _ = kind.validate_status_update(&status, &old);
        let _ = kind.warnings(&new, Some(&old));
        prop_assert_eq!(kind.row(&new, now).len(), kind.columns().len());
        let _ = kind.selectable(&new);
        let _ = kind.graceful_delete_seconds(&new, None);
        // And what no decoder lets through does no harm either.
        let mut stray = stray;
        kind.default(&mut stray);
        let _ = kind.validate(&stray);
        let _ = kind.row(&stray, now);
    }
}

#[test]
fn selectable_fields_are_the_named_ones() {
    for kind in KINDS {
        let names: Vec<_> = kind.selectable(&json!({})).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, kind.selectable_names(), "{}", kind.info().kind);
        assert_eq!(kind.row(&json!({}), jiff::Timestamp::UNIX_EPOCH).len(), kind.columns().len());
    }
}

/// Upstream's hash of the version in which a kind is stored.
#[test]
fn storage_version_hashes_are_those_of_the_stored_kind() {
    use base64::Engine as _;
    use sha2::Digest as _;
    for kind in KINDS {
        let storage = kind.info().storage;
        let stored = KINDS.iter().find(|other| other.info().storage == storage && other.conversion().is_none());
        let info = stored.unwrap_or_else(|| panic!("nobody's form is that of {storage}")).info();
        let digest = sha2::Sha256::digest(format!("{}/{}/{}", info.group, info.version, info.kind));
        let hash = base64::engine::general_purpose::STANDARD.encode(&digest[..8]);
        assert_eq!(kind.info().storage_version_hash, hash, "{} {}", kind.info().group, kind.info().kind);
    }
}
