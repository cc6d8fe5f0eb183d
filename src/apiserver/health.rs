//! The paths that tell how the server is and what it is.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::{ApiServer, metrics, reply};
use crate::telemetry::page::CONTENT_TYPE;

/// The Kubernetes version whose API is served.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
pub const GIT_VERSION: &str = "v1.36.2+coracle";

/// `None` where the path is none of these.
pub fn answer(server: &ApiServer, method: &Method, path: &str) -> Option<Response> {
    if method != Method::GET {
        return None;
    }
    match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/healthz/ping" | "/livez/ping" => Some(text(StatusCode::OK, "ok")),
        "/readyz" if server.shutdown.is_cancelled() => Some(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "[-]shutdown failed: the server is stopping\nreadyz check failed\n",
        )),
        "/readyz" | "/readyz/ping" => Some(text(StatusCode::OK, "ok")),
        "/metrics" => Some(
            ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], metrics::page(server)).into_response(),
        ),
        "/version" => Some(reply::json_value(StatusCode::OK, &version())),
        _ => None,
    }
}

fn text(code: StatusCode, body: &'static str) -> Response {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    (
        code,
        [(header::CONTENT_TYPE, plain), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"))],
        body,
    )
        .into_response()
}

fn version() -> serde_json::Value {
    json!({
        "major": MAJOR, "minor": MINOR, "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

/// The architecture as Go names it, which clients compare with node labels.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
