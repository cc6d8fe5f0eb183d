//! Fails in every way a guest can, one path each, to show what the host makes of it.
//!
//! `/trap` panics · `/exit` ends the process · `/oom` allocates for ever · `/loop` never returns ·
//! `/recurse` overflows the stack · `/flood` writes 10,000 log lines · `/slow?ms=200` takes its time ·
//! anything else answers `ok`.

use std::hint::black_box;
use std::time::Duration as StdDuration;

use wstd::http::{Body, Request, Response, Result};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let body = match request.uri().path() {
        "/trap" => panic!("trapped on request"),
        "/exit" => std::process::exit(3),
        "/oom" => hog(),
        "/loop" => spin(),
        "/recurse" => format!("{}\n", recurse(1)),
        "/flood" => flood(),
        "/slow" => slow(request.uri().query().unwrap_or("")).await,
        _ => "ok\n".to_owned(),
    };
    Ok(Response::new(body.into()))
}

fn hog() -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(black_box(vec![1; 1 << 20]));
    }
}

fn spin() -> String {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Not a tail call: the addition comes after.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { frame[0] } else { recurse(depth + 1) + black_box(frame)[7] }
}

fn flood() -> String {
    for n in 0..10_000 {
        println!("flood {n} ................................................................");
    }
    "flooded\n".to_owned()
}

async fn slow(query: &str) -> String {
    let ms = query.strip_prefix("ms=").and_then(|text| text.parse().ok()).unwrap_or(100);
    wstd::task::sleep(Duration::from(StdDuration::from_millis(ms))).await;
    format!("slept {ms} ms\n")
}
