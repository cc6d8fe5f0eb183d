//! Frames of SPDY, cut anywhere: they come out the same however they are cut, and nothing grows without bound.

#![no_main]

use coracle::node::streams::spdy::{Decoder, Frame, SpdyError};
use libfuzzer_sys::fuzz_target;

fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Option<SpdyError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|input: (usize, &[u8])| {
    let (at, bytes) = input;
    let (first, second) = bytes.split_at(if bytes.is_empty() { 0 } else { at % bytes.len() });
    assert_eq!(read(&[first, second]), read(&[bytes]));
});
