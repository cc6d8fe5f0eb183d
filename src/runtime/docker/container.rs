//! One life of a container: what the engine says of its state, how it is stopped, what it used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bollard::models::ContainerState;
use bollard::query_parameters::{InspectContainerOptionsBuilder, KillContainerOptionsBuilder};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::{Container, ExecCommand, ExecEnd, ExecStreams, Exit, Output, RunState, Usage};
use super::engine::{Engine, Failure, Watch};
use super::logs::{self, Attached};
use super::{exec, time};
use crate::wire::HttpService;

/// How long the last of what a container said may take after its end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Between attempts to signal a container whose engine is away.
const RETRY: Duration = Duration::from_millis(500);

/// A container of the engine. Dropping it lets go of it; it runs on.
pub struct DockerContainer {
    life: Arc<Life>,
    _task: AbortOnDropHandle<()>,
}

/// What is known of it.
pub struct Life {
    engine: Arc<Engine>,
    pub id: String,
    /// e.g. `SIGTERM`
    stop_signal: String,
    state: watch::Sender<RunState>,
    usage: Mutex<Usage>,
}

impl Life {
    pub fn new(engine: Arc<Engine>, id: String, stop_signal: String, started_at: SystemTime) -> Arc<Life> {
        let stop_signal = if stop_signal.is_empty() { "SIGTERM".to_owned() } else { stop_signal };
        let state = watch::Sender::new(RunState::Running { started_at });
        let usage = Mutex::new(Usage { instances: 1, ..Usage::default() });
        Arc::new(Life { engine, id, stop_signal, state, usage })
    }

    pub fn used(&self, usage: Usage) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }

    pub fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Exited(_))
    }

    fn started_at(&self) -> SystemTime {
        match &*self.state.borrow() {
            RunState::Running { started_at } => *started_at,
            RunState::Exited(exit) => exit.started_at,
        }
    }

    /// Waits for its end. While the engine is away it counts as running: it may well be.
    async fn ended(&self, mut watch: Watch) -> Exit {
        loop {
            if let Ok(client) = self.engine.client().await {
                match client.inspect_container(&self.id, None).await.map_err(|error| self.engine.failure(error)) {
                    Ok(known) => {
                        let state = known.state.unwrap_or_default();
                        if state.running != Some(true) {
                            return exit(&state, self.started_at());
                        }
                    }
                    Err(Failure::NotFound(_)) => return self.removed(),
                    Err(_) => {}
                }
            }
            watch.prompted().await;
        }
    }

    fn removed(&self) -> Exit {
        let message = "the container was removed from the engine by somebody else".to_owned();
        let (started_at, finished_at) = (self.started_at(), SystemTime::now());
        Exit { code: 137, reason: "Error", message, started_at, finished_at }
    }

    /// Sends a signal, as soon as the engine takes it; at once if there is nobody to send it to.
    async fn signal(&self, signal: &str) {
        loop {
            let sent = async {
                let client = self.engine.client().await?;
                let options = KillContainerOptionsBuilder::new().signal(signal).build();
                let sent = client.kill_container(&self.id, Some(options)).await;
                sent.map_err(|error| self.engine.failure(error))
            };
            match sent.await {
                Err(Failure::Away { .. }) => {
                    let mut returns = self.engine.returns();
                    tokio::select! {
                        _ = returns.changed() => {}
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
                _ => return,
            }
        }
    }
}

impl DockerContainer {
    /// Follows a container that has been started. `attached`: its streams, where they are held.
    pub fn follow(life: Arc<Life>, watch: Watch, output: Arc<dyn Output>, attached: Option<Attached>) -> Self {
        let task = tokio::spawn({
            let life = life.clone();
            async move {
                let listening = async {
                    match attached {
                        Some(attached) => attached.carry(output).await,
                        None => logs::follow(life.engine.clone(), life.id.clone(), output).await,
                    }
                };
                tokio::pin!(listening);
                let mut said_all = false;
                let ended = life.ended(watch);
                tokio::pin!(ended);
                let exit = loop {
                    tokio::select! {
                        exit = &mut ended => break exit,
                        () = &mut listening, if !said_all => said_all = true,
                    }
                };
                if !said_all {
                    let _ = tokio::time::timeout(LAST_WORDS, listening).await;
                }
                let last = Usage { instances: 0, memory_bytes: 0, ..life.usage() };
                life.used(last);
                life.state.send_replace(RunState::Exited(exit));
            }
        });
        Self { life, _task: AbortOnDropHandle::new(task) }
    }
}

#[async_trait::async_trait]
impl Container for DockerContainer {
    fn id(&self) -> Option<String> {
        Some(format!("docker://{}", self.life.id))
    }

    fn state(&self) -> watch::Receiver<RunState> {
        self.life.state.subscribe()
    }

    /// Whoever calls it comes over its network.
    fn http(&self) -> Option<Arc<dyn HttpService>> {
        None
    }

    async fn stop(&self, grace: Duration) {
        let mut state = self.life.state.subscribe();
        let over = |state: &RunState| matches!(state, RunState::Exited(_));
        if !grace.is_zero() {
            let softly = async {
                self.life.signal(&self.life.stop_signal).await;
                let _ = state.wait_for(over).await;
            };
            let _ = tokio::time::timeout(grace, softly).await;
        }
        if !self.life.is_over() {
            self.life.signal("SIGKILL").await;
        }
        let _ = state.wait_for(over).await;
    }

    fn usage(&self) -> Usage {
        self.life.usage()
    }

    async fn written_bytes(&self) -> u64 {
        let Ok(client) = self.life.engine.client().await else { return 0 };
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let known = client.inspect_container(&self.life.id, Some(options)).await;
        known.ok().and_then(|known| u64::try_from(known.size_rw?).ok()).unwrap_or(0)
    }

    async fn answers(&self) -> bool {
        self.life.engine.answers().await.is_ok()
    }

    fn has_terminals(&self) -> bool {
        true
    }

    async fn exec(&self, command: ExecCommand, streams: ExecStreams) -> Result<ExecEnd, String> {
        exec::run(&self.life.engine, &self.life.id, command, streams).await
    }
}

/// How a container that does not run ended.
pub fn exit(state: &ContainerState, started_at: SystemTime) -> Exit {
    let code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(i32::MAX);
    let reason = match (state.oom_killed, code) {
        (Some(true), _) => "OOMKilled",
        (_, 0) => "Completed",
        _ => "Error",
    };
    Exit {
        code,
        reason,
        message: state.error.clone().unwrap_or_default(),
        started_at: state.started_at.as_deref().and_then(time).unwrap_or(started_at),
        finished_at: state.finished_at.as_deref().and_then(time).unwrap_or_else(SystemTime::now),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_are_told_as_kubernetes_tells_them() {
        let at = SystemTime::UNIX_EPOCH;
        for (said, code, reason) in [
            (json!({ "ExitCode": 0 }), 0, "Completed"),
            (json!({ "ExitCode": 3 }), 3, "Error"),
            (json!({ "ExitCode": 137, "OOMKilled": true }), 137, "OOMKilled"),
            (json!({ "ExitCode": 137, "OOMKilled": false }), 137, "Error"),
        ] {
            let exit = exit(&serde_json::from_value(said.clone()).expect("a state"), at);
            assert_eq!((exit.code, exit.reason), (code, reason), "{said}");
        }
        let dated =
            json!({ "ExitCode": 0, "StartedAt": "1970-01-01T00:00:01Z", "FinishedAt": "1970-01-01T00:00:02.5Z" });
        let exit = exit(&serde_json::from_value(dated).expect("a state"), at);
        assert_eq!(exit.finished_at.duration_since(exit.started_at).ok(), Some(Duration::from_millis(1500)));
    }
}
