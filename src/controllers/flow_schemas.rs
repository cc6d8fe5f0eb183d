//! FlowSchemas: whether the priority level that one names is there.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaCondition, FlowSchemaStatus, PriorityLevelConfiguration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::diff::merge_patch;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// The controller. Its keys are FlowSchemas.
pub(super) struct FlowSchemas {
    schemas: Shared<FlowSchema>,
    levels: Shared<PriorityLevelConfiguration>,
}

/// A schema, and whether its level is there.
pub(super) struct View {
    schema: Arc<FlowSchema>,
    found: bool,
}

impl FlowSchemas {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { schemas: cluster.watch(), levels: cluster.watch() }
    }
}

impl Reconciler for FlowSchemas {
    type View = View;

    fn name(&self) -> &'static str {
        "flow-schema-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.schemas);
        let (queue, schemas) = (queue.clone(), self.schemas.clone());
        self.levels.on_change(move |old, new| {
            // A level that comes or goes; its numbers are no business of schemas.
            if old.is_some() != new.is_some() {
                schemas.keys().into_iter().for_each(|key| queue.add(key));
            }
            true
        });
    }

    async fn synced(&self) {
        self.schemas.synced().await;
        self.levels.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.schemas.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let schema = self.schemas.get(key)?;
        let level = ObjectKey::cluster(level(&schema));
        Some(View { found: self.levels.get(&level).is_some(), schema })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn level(schema: &FlowSchema) -> &str {
    schema.spec.as_ref().map_or("", |spec| &spec.priority_level_configuration.name)
}

fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let what =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {:?}", level(&view.schema));
    let (status, reason, message) = match view.found {
        true => ("False", "Found", format!("{what} and it exists")),
        false => ("True", "NotFound", format!("{what} but there is no such object")),
    };
    let old = view.schema.status.clone().unwrap_or_default();
    let known = old.conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some("Dangling"));
    let since = known.filter(|known| known.status.as_deref() == Some(status));
    let condition = FlowSchemaCondition {
        type_: Some("Dangling".to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.and_then(|known| known.last_transition_time.clone()).or(Some(Time(now))),
    };
    let new = FlowSchemaStatus { conditions: Some(vec![condition]) };
    if let Some(patch) = merge_patch(&old, &new) {
        plan.write(Write::patch(&*view.schema, "status", json!({"status": patch})));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::fake::Fake;

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let schema: FlowSchema = serde_json::from_value(json!({"metadata": {"name": "s"},
            "spec": {"priorityLevelConfiguration": {"name": "p"}, "matchingPrecedence": 9}}))
        .expect("a schema");
        let mut fake = Fake::default();
        fake.put(&schema);
        for (found, wanted) in [(false, "True"), (true, "False")] {
            fake.settle(|fake| {
                let schema = fake.get::<FlowSchema>("", "s").map(Arc::new).expect("it");
                plan(Timestamp::UNIX_EPOCH, &View { schema, found })
            });
            let schema: FlowSchema = fake.get("", "s").expect("it");
            let conditions = schema.status.and_then(|status| status.conditions).expect("conditions");
            assert_eq!((conditions.len(), conditions[0].status.as_deref()), (1, Some(wanted)));
        }
    }
}
