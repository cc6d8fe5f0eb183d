//! Messages of every type of the table, and whole bodies with their envelope.

#![no_main]

use coracle::apiserver::codec::protobuf::{message, open};
use coracle::kinds::schema::{conform::conform, types};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (pick, body) = input;
    let _ = open(body);
    let _ = open(&[b"k8s\0", body].concat());
    let types = types();
    let ty = &types[usize::from(pick) % types.len()];
    if let Ok(mut value) = message(ty, body) {
        let _ = conform(ty, &mut value, &mut Vec::new());
    }
});
