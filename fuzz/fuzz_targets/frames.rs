//! SPDY frames, as exec and port-forward send them, in pieces of any size: they come out the same however they
//! are cut.

#![no_main]

use coracle::node::spdy::{Decoder, Frame, SpdyError};
use libfuzzer_sys::fuzz_target;

fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Option<SpdyError>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|pieces: Vec<&[u8]>| {
    assert_eq!(read(&pieces), read(&[&pieces.concat()]));
});
