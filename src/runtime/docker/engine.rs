//! The connection to a Docker Engine, and what it says happens to containers.
//!
//! The engine may be absent, stop and come back at any time. So nothing here is held open but one stream of
//! events, which is opened again for as long as the runtime lives. An event carries nothing: it makes
//! whoever watches the container ask for its state, and so does the stream's return, for what was said in
//! between was said to nobody.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use dashmap::DashMap;
use futures::StreamExt as _;
use tokio::sync::{Notify, watch};

use super::super::Health;

/// The label of all that is ours, on containers, networks and images; its value says whose.
pub const OWNER: &str = "coracle.dev/owner";
/// How long the engine may take to begin an answer.
const ANSWER_SECONDS: u64 = 120;
/// Between attempts to reach an engine that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Between two questions whether it answers, and how long it may take to.
const EXAMINED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(4);

/// What an engine did not do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It does not answer.
    #[error(
        "cannot reach the Docker Engine at {address}: {why}; start it (systemctl start docker), or start the node with \
         another address (--docker=unix://…)"
    )]
    Away { address: String, why: String },
    #[error("{0}")]
    NotFound(String),
    /// There is such a thing already, or it is in another state.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Refused(String),
}

/// An engine, as far as this node uses it.
pub struct Engine {
    address: String,
    owner: String,
    /// Made when it is first wanted, and anew when the engine has been away: it may be another version.
    client: Mutex<Option<Docker>>,
    watched: DashMap<String, Arc<Notify>>,
    /// Counts the times that the stream of events was opened.
    returns: watch::Sender<u64>,
    health: watch::Sender<Health>,
}

impl Engine {
    pub fn new(address: String, owner: String) -> Engine {
        let (returns, health) = (watch::Sender::new(0), watch::Sender::default());
        Engine { address, owner, client: Mutex::default(), watched: DashMap::new(), returns, health }
    }

    /// The value of [`OWNER`] for what this node makes.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A client of the engine, that speaks its version.
    pub async fn client(&self) -> Result<Docker, Failure> {
        if let Some(client) = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        let away = |error: Error| Failure::Away { address: self.address.clone(), why: words(&error) };
        let client = match self.address.split_once("://") {
            Some(("tcp" | "http", _)) => {
                Docker::connect_with_http(&self.address, ANSWER_SECONDS, API_DEFAULT_VERSION).map_err(away)?
            }
            _ => Docker::connect_with_unix(&self.address, ANSWER_SECONDS, API_DEFAULT_VERSION).map_err(away)?,
        };
        let client = client.negotiate_version().await.map_err(away)?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// What an answer means.
    pub fn failure(&self, error: Error) -> Failure {
        match error {
            Error::DockerResponseServerError { status_code, message } => match status_code {
                404 => Failure::NotFound(message),
                409 => Failure::Conflict(message),
                _ => Failure::Refused(message),
            },
            Error::DockerStreamError { error } => Failure::Refused(error),
            other => Failure::Away { address: self.address.clone(), why: words(&other) },
        }
    }

    /// Prompted by whatever happens to the container, until it is dropped.
    pub fn watch(self: &Arc<Self>, id: &str) -> Watch {
        let prompt = Arc::new(Notify::new());
        self.watched.insert(id.to_owned(), prompt.clone());
        Watch { engine: self.clone(), id: id.to_owned(), prompt, returns: self.returns.subscribe() }
    }

    /// Changes when the engine has been reached, or reached again.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// How it does.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Whether it answers, and soon: one that is stopped or overwhelmed may well take connections.
    pub async fn answers(&self) -> Result<(), Failure> {
        let asked = async {
            let client = self.client().await?;
            client.ping().await.map(drop).map_err(|error| self.failure(error))
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            let why = format!("it does not answer within {} s", PATIENCE.as_secs());
            Err(Failure::Away { address: self.address.clone(), why })
        })
    }

    /// Asks how it does for as long as somebody has it.
    pub async fn examine(engine: Weak<Engine>) {
        while let Some(engine) = engine.upgrade() {
            let health = match engine.answers().await {
                Ok(()) => Health::Well,
                Err(failure) => Health::Ill(failure.to_string()),
            };
            engine.health.send_if_modified(|known| {
                // Another word for the same illness is no news.
                let news = std::mem::discriminant(known) != std::mem::discriminant(&health);
                if news {
                    *known = health;
                }
                news
            });
            let mut returns = engine.returns();
            drop(engine);
            tokio::select! {
                () = tokio::time::sleep(EXAMINED) => {}
                Ok(()) = returns.changed() => {}
            }
        }
    }

    /// Listens to the engine for as long as somebody has it.
    pub async fn listen(engine: Weak<Engine>) {
        let mut pause = FIRST_PAUSE;
        while let Some(engine) = engine.upgrade() {
            if engine.hear().await {
                pause = FIRST_PAUSE;
            }
            // What was negotiated is not what comes back, perhaps.
            *engine.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
            drop(engine);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Passes events on until the stream ends; whether it began.
    async fn hear(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        let of = |key: &str, values: Vec<String>| (key.to_owned(), values);
        let filters = HashMap::from([
            of("type", vec!["container".to_owned()]),
            of("label", vec![format!("{OWNER}={}", self.owner)]),
            of("event", ["die", "oom", "destroy"].map(str::to_owned).to_vec()),
        ]);
        let mut events = client.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
        // The stream has no beginning that could be seen; that the engine answers after it was asked for is one.
        let first = tokio::select! {
            first = events.next() => Some(first),
            answered = client.ping() => match answered {
                Ok(_) => None,
                Err(_) => return false,
            },
        };
        self.returns.send_modify(|count| *count += 1);
        let mut next = match first {
            Some(first) => first,
            None => events.next().await,
        };
        while let Some(Ok(event)) = next {
            let id = event.actor.and_then(|actor| actor.id);
            if let Some(prompt) = id.and_then(|id| self.watched.get(&id)) {
                prompt.notify_one();
            }
            next = events.next().await;
        }
        true
    }
}

/// Who waits for a container.
pub struct Watch {
    engine: Arc<Engine>,
    id: String,
    prompt: Arc<Notify>,
    returns: watch::Receiver<u64>,
}

impl Watch {
    /// Something may have happened: to the container, or while the engine was away. Looked at now and then
    /// anyway, for a prompt may be lost.
    pub async fn prompted(&mut self) {
        const ANYWAY: Duration = Duration::from_secs(30);
        tokio::select! {
            () = self.prompt.notified() => {}
            _ = self.returns.changed() => {}
            () = tokio::time::sleep(ANYWAY) => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.engine.watched.remove_if(&self.id, |_, prompt| Arc::ptr_eq(prompt, &self.prompt));
    }
}

/// An error with what is behind it.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_of_with_what_to_do() {
        let engine = Engine::new("unix:///nowhere/docker.sock".into(), "me".into());
        let why = engine.client().await.err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(why.starts_with("cannot reach the Docker Engine at unix:///nowhere/docker.sock: "), "{why}");
        assert!(why.contains("--docker="), "{why}");
    }

    #[test]
    fn answers_are_sorted_by_what_may_be_done() {
        let engine = Engine::new("unix:///x".into(), "me".into());
        let answer = |status_code| {
            engine.failure(Error::DockerResponseServerError { status_code, message: "no such container".into() })
        };
        assert!(matches!(answer(404), Failure::NotFound(_)));
        assert!(matches!(answer(409), Failure::Conflict(_)));
        assert!(matches!(answer(500), Failure::Refused(_)));
        assert!(matches!(engine.failure(Error::RequestTimeoutError), Failure::Away { .. }));
    }
}
