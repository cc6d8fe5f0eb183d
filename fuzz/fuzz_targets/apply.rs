//! Server-side apply by two managers, of configurations in YAML, to an object that was made from the input.

#![no_main]

use coracle::apiserver::codec::{Expected, FieldValidation, decode, yaml};
use coracle::apiserver::patch::apply::{Writer, apply, track_update};
use coracle::kinds::KINDS;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (u8, &[u8], &[u8], &[u8])| {
    let (pick, live, first, second) = input;
    let kind = KINDS[usize::from(pick) % KINDS.len()];
    let info = kind.info();
    let expected = Expected::of_kind(kind).expect("every kind has a type");
    let Ok(live) = decode(live, None, info, FieldValidation::Ignore) else { return };
    let version = expected.api_version();
    let config = |text: &[u8]| -> Option<Value> {
        let mut value = yaml::parse(text).ok()?.value;
        let fields = value.as_object_mut()?;
        fields.insert("apiVersion".into(), version.as_str().into());
        fields.insert("kind".into(), info.kind.into());
        Some(value)
    };
    let mut object = live.object;
    for (manager, text, force) in [("one", first, false), ("two", second, true), ("one", first, true)] {
        let writer =
            Writer { manager, api_version: &version, subresource: "", reset: &[], now: "2026-01-01T00:00:00Z" };
        let Some(config) = config(text) else { continue };
        let Ok(applied) = apply(&expected.model, &object, &config, &writer, force) else { continue };
        // What has just been applied is there: to apply it again changes nothing and is in nobody's way.
        let again = apply(&expected.model, &applied, &config, &writer, false).expect("no conflict with oneself");
        assert_eq!(again, applied);
        object = applied;
    }
    let mut updated = expected.model.empty();
    let writer = Writer { manager: "three", api_version: &version, subresource: "", reset: &[], now: "" };
    track_update(&expected.model, &object, &mut updated, &writer);
});
