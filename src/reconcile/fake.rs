//! A cluster of plain JSON for tests of plans: it does what a [`Write`] asks as the API would, without
//! defaults, validation or time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::key::{ObjectKey, owner_uid};
use super::reconciler::{Plan, Step};
use super::shared::Watched;
use super::write::{Action, ResourceType, Write};

/// Objects by resource and key.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    objects: BTreeMap<(String, ObjectKey), Value>,
    revision: u64,
}

impl Fake {
    /// Every object of a kind.
    pub fn all<K: Watched + DeserializeOwned>(&self) -> Vec<K> {
        let plural = K::plural(&()).into_owned();
        let of_kind = self.objects.iter().filter(|((p, _), _)| *p == plural);
        of_kind.map(|(_, o)| serde_json::from_value(o.clone()).expect("an object of its kind")).collect()
    }

    pub fn get<K: Watched + DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        let id = (K::plural(&()).into_owned(), ObjectKey::new(namespace, name));
        self.objects.get(&id).map(|o| serde_json::from_value(o.clone()).expect("an object of its kind"))
    }

    /// Puts an object in from outside.
    pub fn put<K: Watched + serde::Serialize>(&mut self, object: &K) {
        self.apply(&Write::create(object)).expect("it can be created");
    }

    /// Merges into an object from outside; `subresource` as in [`Action::Patch`].
    pub fn merge<K: Watched>(&mut self, object: &K, subresource: &'static str, body: Value) {
        self.apply(&Write::patch(object, subresource, body)).expect("it can be patched");
    }

    /// The objects of a kind: those that the owner with this uid controls, and the others.
    pub fn owned_and_others<K: Watched + DeserializeOwned>(&self, uid: &str) -> (Vec<Arc<K>>, Vec<Arc<K>>) {
        self.all().into_iter().map(Arc::new).partition(|object: &Arc<K>| owner_uid(object.meta()) == Some(uid))
    }

    /// Carries plans out until one has nothing to write.
    pub fn settle(&mut self, plan: impl Fn(&Self) -> Plan) {
        for _ in 0..100 {
            let writes = Self::writes(&plan(self));
            if writes.is_empty() {
                return;
            }
            for write in writes {
                self.apply(&write).expect("the write goes through");
            }
        }
        panic!("it never comes to rest");
    }

    /// The writes of a plan, in order.
    pub fn writes(plan: &Plan) -> Vec<Write> {
        let of = |step: &Step| match step {
            Step::Write(write) => vec![(**write).clone()],
            Step::Batch(writes) => writes.clone(),
            Step::Tell(_) => Vec::new(),
        };
        plan.steps.iter().flat_map(of).collect()
    }

    /// Does what the write asks; an error is the HTTP code that the API would answer.
    pub fn apply(&mut self, write: &Write) -> Result<(), u16> {
        self.revision += 1;
        match &write.action {
            Action::Create(body) => self.create(&write.resource, &write.key, body.clone()),
            Action::Put { subresource, body } => self.change(write, |object| match *subresource {
                "" => *object = body.clone(),
                "finalize" => object["spec"]["finalizers"] = body["spec"]["finalizers"].clone(),
                part => object[part] = body[part].clone(),
            }),
            Action::Patch { subresource, body } => self.change(write, |object| {
                let status = object["status"].clone();
                let spec = object["spec"].clone();
                json_patch::merge(object, body);
                match *subresource {
                    "status" => object["spec"] = spec,
                    _ => object["status"] = status,
                }
            }),
            Action::Delete { uid, .. } => self.delete(write, uid.as_deref()),
        }
    }

    fn create(&mut self, resource: &ResourceType, key: &ObjectKey, mut object: Value) -> Result<(), u16> {
        let mut key = key.clone();
        if key.name.is_empty() {
            let base = object["metadata"]["generateName"].as_str().unwrap_or_default();
            key = ObjectKey::new(key.namespace, format!("{base}{}", self.revision));
        }
        let id = (resource.plural.to_string(), key.clone());
        if self.objects.contains_key(&id) {
            return Err(409);
        }
        object["metadata"]["name"] = json!(&*key.name);
        object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        object["metadata"]["generation"] = json!(1);
        let created = jiff::Timestamp::from_second(self.revision.try_into().unwrap_or(0)).expect("a small number");
        object["metadata"]["creationTimestamp"] = json!(created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        self.objects.insert(id, object);
        Ok(())
    }

    fn change(&mut self, write: &Write, change: impl FnOnce(&mut Value)) -> Result<(), u16> {
        let id = (write.resource.plural.to_string(), write.key.clone());
        let object = self.objects.get_mut(&id).ok_or(404_u16)?;
        let (Action::Patch { body, .. } | Action::Put { body, .. }) = &write.action else { return Err(400) };
        for precondition in ["uid", "resourceVersion"] {
            let wanted = &body["metadata"][precondition];
            if !wanted.is_null() && *wanted != object["metadata"][precondition] {
                return Err(409);
            }
        }
        let spec = object["spec"].clone();
        change(object);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        if object["spec"] != spec {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        Ok(())
    }

    fn delete(&mut self, write: &Write, uid: Option<&str>) -> Result<(), u16> {
        let id = (write.resource.plural.to_string(), write.key.clone());
        let held = self.objects.get(&id).ok_or(404_u16)?;
        if uid.is_some_and(|uid| held["metadata"]["uid"] != uid) {
            return Err(409);
        }
        self.objects.remove(&id);
        Ok(())
    }
}
