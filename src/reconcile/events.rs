//! Events: what a component tells people about an object.
//!
//! Best effort by design. Recording never waits and never fails the caller: beyond the bounds below an
//! event is dropped, and an event that the server does not take is forgotten. What repeats is counted
//! on one Event; what is alike but never quite the same is combined; an object that causes a flood is
//! muted.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

/// Waiting events: a burst of pod creations fits, a stuck server does not cost memory.
const QUEUE: usize = 2048;
/// Remembered series; the oldest go first.
const MAX_SERIES: usize = 4096;
/// Older series are begun anew.
const SERIES_AGE: Duration = Duration::from_secs(600);
/// From this many different messages of one reason about one object on, they are combined.
const COMBINE_FROM: usize = 10;
/// An object may cause this many events at once …
const BURST: f64 = 25.0;
/// … and then one in this time.
const REFILL: Duration = Duration::from_secs(300);

/// The `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Normal,
    Warning,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        })
    }
}

/// Records events of one component; clones share the queue. It ends with the last clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
struct Occurrence {
    about: ObjectReference,
    kind: EventKind,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the recorder; needs a tokio runtime around it. `host` is the node that the component runs
    /// on, empty for the control plane's.
    pub fn start(client: Client, component: &str, host: &str) -> Self {
        let (queue, mut incoming) = mpsc::channel::<Occurrence>(QUEUE);
        let mut log = Log::new(component, host);
        tokio::spawn(async move {
            while let Some(occurrence) = incoming.recv().await {
                if let Some(write) = log.take_in(occurrence)
                    && let Err(error) = send(&client, &write).await
                {
                    tracing::debug!(%error, "event not recorded");
                    log.forget(&write);
                }
            }
        });
        Self { queue }
    }

    /// Tells something about an object.
    pub fn record<K: Resource<DynamicType = ()>>(&self, about: &K, kind: EventKind, reason: &str, message: &str) {
        self.record_about(about.object_ref(&()), kind, reason, message);
    }

    /// Tells something about the object that `about` names; `fieldPath` may point at a container.
    pub fn record_about(&self, about: ObjectReference, kind: EventKind, reason: &str, message: &str) {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let _ = self.queue.try_send(Occurrence { about, kind, reason, message, at: Timestamp::now() });
    }
}

/// What to tell the server.
#[derive(Debug)]
enum Write {
    Create(Box<Event>),
    /// The same again: namespace, name, count, time, message.
    Repeat {
        namespace: String,
        name: String,
        count: i32,
        at: Timestamp,
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    object: String,
    kind: EventKind,
    reason: String,
    /// `None`: alike, but combined.
    message: Option<String>,
}

#[derive(Debug)]
struct Series {
    namespace: String,
    name: String,
    count: i32,
    last: Timestamp,
}

/// How much an object has told lately.
#[derive(Debug)]
struct Budget {
    tokens: f64,
    last: Timestamp,
}

/// Decides what becomes of an occurrence. Pure but for its memory.
#[derive(Debug)]
struct Log {
    component: String,
    host: String,
    series: HashMap<SeriesKey, Series>,
    budgets: HashMap<String, Budget>,
}

impl Log {
    fn new(component: &str, host: &str) -> Self {
        Self { component: component.into(), host: host.into(), series: HashMap::new(), budgets: HashMap::new() }
    }

    fn take_in(&mut self, mut occurrence: Occurrence) -> Option<Write> {
        let object = identity(&occurrence.about);
        if !self.may_tell(&object, occurrence.at) {
            return None;
        }
        self.make_room(occurrence.at);
        let mut key = SeriesKey {
            object,
            kind: occurrence.kind,
            reason: occurrence.reason.clone(),
            message: Some(occurrence.message.clone()),
        };
        if !self.series.contains_key(&key) && self.alike(&key) >= COMBINE_FROM {
            key.message = None;
            occurrence.message = format!("(combined from similar events): {}", occurrence.message);
        }
        if let Some(series) = self.series.get_mut(&key) {
            series.count += 1;
            series.last = occurrence.at;
            let (namespace, name) = (series.namespace.clone(), series.name.clone());
            let Occurrence { at, message, .. } = occurrence;
            return Some(Write::Repeat { namespace, name, count: series.count, at, message });
        }
        let event = self.event(&occurrence);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        self.series.insert(key, Series { namespace, name, count: 1, last: occurrence.at });
        Some(Write::Create(Box::new(event)))
    }

    /// The server did not take it: the next occurrence begins a new series.
    fn forget(&mut self, write: &Write) {
        let name = match write {
            Write::Create(event) => event.metadata.name.as_deref(),
            Write::Repeat { name, .. } => Some(name.as_str()),
        };
        self.series.retain(|_, series| Some(series.name.as_str()) != name);
    }

    fn alike(&self, key: &SeriesKey) -> usize {
        let same = |k: &SeriesKey| k.object == key.object && k.reason == key.reason && k.kind == key.kind;
        self.series.keys().filter(|k| same(k)).count()
    }

    fn may_tell(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= MAX_SERIES && !self.budgets.contains_key(object) {
            self.budgets.retain(|_, b| age(b.last, now) < REFILL);
            if self.budgets.len() >= MAX_SERIES {
                self.budgets.clear();
            }
        }
        let budget = self.budgets.entry(object.to_owned()).or_insert(Budget { tokens: BURST, last: now });
        let refilled = age(budget.last, now).as_secs_f64() / REFILL.as_secs_f64();
        budget.tokens = (budget.tokens + refilled).min(BURST);
        budget.last = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.series.len() < MAX_SERIES {
            return;
        }
        self.series.retain(|_, series| age(series.last, now) < SERIES_AGE);
        if self.series.len() >= MAX_SERIES {
            self.series.clear();
        }
    }

    fn event(&self, occurrence: &Occurrence) -> Event {
        let Occurrence { about, kind, reason, message, at } = occurrence;
        // Events about cluster-scoped objects live where people look first.
        let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let subject = about.name.as_deref().unwrap_or("unknown");
        let metadata = ObjectMeta {
            name: Some(format!("{subject}.{:x}", at.as_nanosecond())),
            namespace: Some(namespace),
            ..Default::default()
        };
        Event {
            metadata,
            involved_object: about.clone(),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            type_: Some(kind.to_string()),
            count: Some(1),
            first_timestamp: Some(Time(*at)),
            last_timestamp: Some(Time(*at)),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()).filter(|h| !h.is_empty()),
            ..Default::default()
        }
    }
}

fn identity(about: &ObjectReference) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    [&about.kind, &about.namespace, &about.name, &about.uid, &about.field_path].map(part).join("/")
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

async fn send(client: &Client, write: &Write) -> kube::Result<()> {
    match write {
        Write::Create(event) => {
            let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
            Api::<Event>::namespaced(client.clone(), namespace).create(&PostParams::default(), event).await?;
        }
        Write::Repeat { namespace, name, count, at, message } => {
            let patch = json!({"count": count, "lastTimestamp": Time(*at), "message": message});
            let events = Api::<Event>::namespaced(client.clone(), namespace);
            events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(name: &str, message: &str) -> Occurrence {
        let about = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("ns".into()),
            name: Some(name.into()),
            ..Default::default()
        };
        let (reason, message) = ("Started".to_owned(), message.to_owned());
        Occurrence { about, kind: EventKind::Normal, reason, message, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut log = Log::new("c", "");
        assert!(matches!(log.take_in(occurrence("p", "m")), Some(Write::Create(_))));
        assert!(matches!(log.take_in(occurrence("p", "m")), Some(Write::Repeat { count: 2, .. })));
        assert!(matches!(log.take_in(occurrence("q", "m")), Some(Write::Create(_))));
    }

    #[test]
    fn a_failed_write_begins_a_new_series() {
        let mut log = Log::new("c", "");
        let write = log.take_in(occurrence("p", "m")).expect("the first is told");
        log.forget(&write);
        assert!(matches!(log.take_in(occurrence("p", "m")), Some(Write::Create(_))));
    }

    #[test]
    fn alike_messages_are_combined_and_a_flood_is_muted() {
        let mut log = Log::new("c", "");
        let told: Vec<_> = (0..40).filter_map(|n| log.take_in(occurrence("p", &n.to_string()))).collect();
        assert_eq!(told.len(), BURST as usize);
        let created = told.iter().filter(|w| matches!(w, Write::Create(_))).count();
        assert_eq!(created, COMBINE_FROM + 1);
    }
}
