//! `kubectl attach`: what a running container says from now on, and its input where it has one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::channels::Wanted;
use super::{channels, exec};
use crate::node::console::Console;
use crate::node::server::NodeApi;
use crate::reconcile::ObjectKey;
use crate::runtime::{ExecEnd, ExecStreams, RunState, Stream};

/// `/attach/{namespace}/{pod}/{container}?input=1&output=1&error=1&tty=1`
pub async fn attach(
    State(api): State<NodeApi>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    mut request: Request<Body>,
) -> Response {
    let key = ObjectKey::new(namespace.as_str(), pod.as_str());
    let (wanted, _) = exec::parse(query.as_deref().unwrap_or_default());
    let entry = api.context.register.get(&key);
    let found = entry.and_then(|entry| Some((entry.running(&container)?, entry.console(&container)?)));
    let Some((running, console)) = found else {
        let text = format!("unable to upgrade connection: container not found ({container:?})");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let (state, wanted) = (running.state(), Wanted { raw: running.has_terminals(), ..wanted });
    api.sessions.begin(&mut request, &channels::PROTOCOLS, move |connection, protocol| {
        channels::serve(connection, protocol, wanted, move |streams| session(console, state, streams))
    })
}

async fn session(
    console: Arc<Console>,
    mut state: watch::Receiver<RunState>,
    streams: ExecStreams,
) -> Result<ExecEnd, String> {
    let mut said = console.listen();
    let ExecStreams { stdin, mut stdout, mut stderr, .. } = streams;
    let typing = console.type_in(stdin);
    tokio::pin!(typing);
    let (mut types, mut ended) = (true, false);
    loop {
        let piece = tokio::select! {
            biased;
            piece = said.recv() => piece,
            // Only once all that it said has been passed on.
            _ = state.wait_for(|state| matches!(state, RunState::Exited(_))), if !ended => {
                ended = true;
                continue;
            }
            typed = &mut typing, if types => {
                types = false;
                typed?;
                continue;
            }
            () = std::future::ready(()), if ended => return Ok(ExecEnd { code: 0, message: String::new() }),
        };
        let written = match piece {
            Ok((Stream::Stdout, bytes)) => stdout.write_all(&bytes).await,
            Ok((Stream::Stderr, bytes)) => stderr.write_all(&bytes).await,
            Err(RecvError::Lagged(missed)) => {
                stderr.write_all(format!("[{missed} pieces of output were missed here]\n").as_bytes()).await
            }
            Err(RecvError::Closed) => return Ok(ExecEnd { code: 0, message: String::new() }),
        };
        if written.is_err() {
            return Err("the client has gone".to_owned());
        }
    }
}
