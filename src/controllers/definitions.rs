//! Which custom kinds the server should have, as their definitions say, and word of it when that changes:
//! so that garbage collection sees the objects of a new kind at once, not when it next asks around.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::Notify;

use super::resources::Discovered;
use crate::kinds::custom_resource_definition::is_established;

/// The definitions that are in force.
#[derive(Default)]
pub(super) struct Definitions {
    /// Group and plural, by the definition's name.
    served: Mutex<HashMap<String, (String, String)>>,
    changed: Notify,
}

impl Definitions {
    /// Follows the definitions until the task is aborted.
    pub async fn follow(&self, client: Client) {
        let resource = ApiResource {
            group: "apiextensions.k8s.io".into(),
            version: "v1".into(),
            api_version: "apiextensions.k8s.io/v1".into(),
            kind: "CustomResourceDefinition".into(),
            plural: "customresourcedefinitions".into(),
        };
        let api = Api::<DynamicObject>::all_with(client, &resource);
        let events = watcher(api, watcher::Config::default().streaming_lists()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listed = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(definition)) => listed.extend(served(&definition)),
                Ok(Event::InitDone) => {
                    let listed = std::mem::take(&mut listed);
                    self.change(|known| {
                        let differs = *known != listed;
                        *known = listed;
                        differs
                    });
                }
                Ok(Event::Apply(definition)) => self.change(|known| match served(&definition) {
                    Some((name, served)) => known.insert(name, served.clone()) != Some(served),
                    None => known.remove(definition.metadata.name.as_deref().unwrap_or_default()).is_some(),
                }),
                Ok(Event::Delete(definition)) => {
                    self.change(|known| {
                        known.remove(definition.metadata.name.as_deref().unwrap_or_default()).is_some()
                    });
                }
                Err(error) => tracing::debug!(%error, "the watch of definitions was interrupted, trying again"),
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, (String, String)>) -> bool) {
        let differs = change(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner));
        if differs {
            self.changed.notify_one();
        }
    }

    /// Returns when something has changed since it last did.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether discovery shows all of them: the server has a kind a moment after its definition says so.
    pub fn are_all_in(&self, found: &[Discovered]) -> bool {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.values().all(|(group, plural)| {
            found.iter().any(|known| known.resource.group == *group && known.resource.plural == *plural)
        })
    }
}

/// Name, group and plural of a definition that is in force and serves something.
fn served(definition: &DynamicObject) -> Option<(String, (String, String))> {
    let data = &definition.data;
    let serves = data["spec"]["versions"].as_array().into_iter().flatten().any(|version| version["served"] == true);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = definition.metadata.name.clone().filter(|_| is_established(data) && serves)?;
    Some((name, (text(&data["spec"]["group"]), text(&data["spec"]["names"]["plural"]))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_counts_while_it_is_established_and_serves() {
        let definition = |established: &str, served: bool| -> DynamicObject {
            serde_json::from_value(json!({"metadata": {"name": "boats.sea.example.com"},
                "spec": {"group": "sea.example.com", "names": {"plural": "boats"}, "versions": [{"served": served}]},
                "status": {"conditions": [{"type": "Established", "status": established}]}}))
            .expect("an object")
        };
        let named = ("boats.sea.example.com".to_owned(), ("sea.example.com".to_owned(), "boats".to_owned()));
        assert_eq!(served(&definition("True", true)), Some(named));
        assert_eq!(served(&definition("False", true)), None);
        assert_eq!(served(&definition("True", false)), None);
    }
}
