//! What the process says about itself: structured logs on standard error, and pages of metrics ([`page`]).
//!
//! `CORACLE_LOG` filters them in `tracing`'s notation (`info`, `coracle::node=debug`); `CORACLE_LOG_FORMAT=json`
//! writes one JSON object a line. Commands that talk to a person print to standard output instead.

pub mod page;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging; `default` is the filter when `CORACLE_LOG` is not set. A second call does nothing.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let json = std::env::var("CORACLE_LOG_FORMAT").is_ok_and(|format| format == "json");
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = if json { registry.with(layer.json()).try_init() } else { registry.with(layer).try_init() };
}
