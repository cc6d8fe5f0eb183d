//! A long-running command of WASI preview 1: ticks until it is told to stop.
//!
//! Arguments: `worker [milliseconds between ticks] [number of ticks, 0 for ever]`.

use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap_or(0));
    let pause = Duration::from_millis(args.next().filter(|ms| *ms > 0).unwrap_or(1000));
    let ticks = args.next().unwrap_or(0);
    let mut tick = 0u64;
    while ticks == 0 || tick < ticks {
        tick += 1;
        println!("tick {tick}");
        std::thread::sleep(pause);
    }
}
