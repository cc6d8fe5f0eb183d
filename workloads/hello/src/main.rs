//! Says hello, and which pod and version said it.

use wstd::http::{Body, Request, Response, Result};

/// The image's tag: one source makes `hello:1` and `hello:2`, so that a rollout has somewhere to go.
const VERSION: &str = match option_env!("WORKLOAD_VERSION") {
    Some(version) => version,
    None => "1",
};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| "nowhere".to_owned());
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let body = match request.uri().path() {
        "/version" => format!("{VERSION}\n"),
        path => format!("{greeting} from {pod}, version {VERSION}, path {path}\n"),
    };
    Ok(Response::new(body.into()))
}
