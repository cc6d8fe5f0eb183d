//! Bodies in JSON and YAML, of every kind. What is decoded must decode again to itself.

#![no_main]

use coracle::apiserver::codec::{FieldValidation, decode};
use coracle::kinds::KINDS;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (pick, yaml, body) = input;
    let info = KINDS[usize::from(pick) % KINDS.len()].info();
    let media = if yaml { "application/yaml" } else { "application/json" };
    if let Ok(decoded) = decode(body, Some(media), info, FieldValidation::Warn) {
        let text = serde_json::to_vec(&decoded.object).expect("a value can be written");
        let again = decode(&text, None, info, FieldValidation::Strict).expect("what was decoded is valid");
        assert_eq!(again.object, decoded.object);
    }
});
