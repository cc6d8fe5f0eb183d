//! A patch of each type against an object that was itself made from the input.

#![no_main]

use coracle::apiserver::codec::{FieldValidation, decode};
use coracle::apiserver::patch::{PatchType, apply};
use coracle::kinds::KINDS;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, &[u8], &[u8])| {
    let (pick, patch_type, object, patch) = input;
    let info = KINDS[usize::from(pick) % KINDS.len()].info();
    let Ok(current) = decode(object, None, info, FieldValidation::Ignore) else { return };
    let patch_type = [PatchType::Json, PatchType::Merge, PatchType::Strategic][usize::from(patch_type) % 3];
    let _ = apply(info, &current.object, patch_type, patch, FieldValidation::Warn);
});
