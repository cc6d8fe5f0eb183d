//! SPDY frames, as port-forward sends them, in pieces of any size.

#![no_main]

use coracle::node::spdy::Decoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<&[u8]>| {
    let mut decoder = Decoder::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
