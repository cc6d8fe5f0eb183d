//! Label and field selectors of every kind, held against an object of it.

#![no_main]

use coracle::apiserver::codec::{FieldValidation, decode};
use coracle::apiserver::selector::Selector;
use coracle::kinds::{KINDS, selector};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (u8, &str, &str, &[u8])| {
    let (pick, labels, fields, object) = input;
    let kind = KINDS[usize::from(pick) % KINDS.len()];
    let decoded = decode(object, None, kind.info(), FieldValidation::Ignore);
    let object = decoded.map(|decoded| decoded.object).unwrap_or_default();
    if let Ok(parsed) = Selector::parse(kind, labels, fields) {
        parsed.matches(kind, &object);
    }
    // The form that objects have: of any shape, for it comes from the store of other versions too.
    if let Ok(any) = serde_json::from_slice::<Value>(object.to_string().as_bytes()) {
        selector::matches(&any["spec"]["selector"], &any["metadata"]["labels"]);
    }
});
