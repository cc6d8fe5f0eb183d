//! `kubectl exec`: one command in a running container.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};

use super::channels::{self, Wanted};
use crate::node::command;
use crate::node::server::NodeApi;
use crate::reconcile::ObjectKey;
use crate::runtime::ExecCommand;

/// Words of one command, and their bytes together: what fits a URL.
const MAX_WORDS: usize = 1024;

/// `/exec/{namespace}/{pod}/{container}?command=ls&command=/data&input=1&output=1&error=1&tty=1`
pub async fn exec(
    State(api): State<NodeApi>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    mut request: Request<Body>,
) -> Response {
    let key = ObjectKey::new(namespace.as_str(), pod.as_str());
    let (wanted, words) = parse(query.as_deref().unwrap_or_default());
    if words.is_empty() || words.len() > MAX_WORDS {
        return (StatusCode::BAD_REQUEST, format!("give a command of 1 to {MAX_WORDS} words")).into_response();
    }
    let Some(running) = api.context.register.get(&key).and_then(|entry| entry.running(&container)) else {
        let text = format!("unable to upgrade connection: container not found ({container:?})");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let wanted = Wanted { raw: running.has_terminals(), ..wanted };
    let program_names = api.pods.get(&key).map(|pod| command::program_names(&pod, &container)).unwrap_or_default();
    let command = ExecCommand { args: words, program_names };
    api.sessions.begin(&mut request, &channels::PROTOCOLS, move |connection, protocol| {
        channels::serve(
            connection,
            protocol,
            wanted,
            move |streams| async move { running.exec(command, streams).await },
        )
    })
}

/// Which streams, and the command's words in order.
pub fn parse(query: &str) -> (Wanted, Vec<String>) {
    let (mut wanted, mut words) = (Wanted::default(), Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_encoding::percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
        let yes = matches!(value.as_str(), "1" | "true");
        match key {
            "command" => words.push(value),
            "input" => wanted.stdin = yes,
            "output" => wanted.stdout = yes,
            "error" => wanted.stderr = yes,
            "tty" => wanted.tty = yes,
            _ => {}
        }
    }
    (wanted, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_streams_and_words() {
        let (wanted, words) = parse("command=ls&command=%2Fa+b&input=0&output=1&error=1");
        assert_eq!(wanted, Wanted { stdin: false, stdout: true, stderr: true, tty: false, raw: false });
        assert_eq!(words, ["ls", "/a b"]);
    }
}
