//! The ranges of Services: whether a ServiceCIDR is in use, and when one that is to go may.
//!
//! A range that is being deleted gives no more addresses, and stays until no Service has one that no other range
//! holds. Which ranges can be used is a rule of the kind ([`Ranges::usable`]), which the server goes by as well.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::diff::merge_patch;
use crate::kinds::service_cidr::{FINALIZER, Ranges};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// The controller. Its keys are ServiceCIDRs.
pub(super) struct ServiceRanges {
    ranges: Shared<ServiceCIDR>,
    addresses: Shared<IPAddress>,
    started_with: Option<Ranges>,
}

/// A range, and what decides about its end.
pub(super) struct View {
    range: Arc<ServiceCIDR>,
    usable: Result<Ipv4Net, &'static str>,
    /// Other ranges that stay.
    others: Vec<Ipv4Net>,
    /// The addresses that are taken; known for a range that is to go.
    taken: Vec<Ipv4Addr>,
}

impl ServiceRanges {
    pub(super) fn new(cluster: &Cluster, started_with: Option<Ranges>) -> Self {
        Self { ranges: cluster.watch(), addresses: cluster.watch(), started_with }
    }

    fn usable(&self, range: &ServiceCIDR) -> Result<Ipv4Net, &'static str> {
        let ranges = self.started_with.ok_or("nobody knows the range that the server was started with")?;
        ranges.usable(&serde_json::to_value(range).unwrap_or_default())
    }
}

fn is_going(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some()
}

impl Reconciler for ServiceRanges {
    type View = View;

    fn name(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.ranges);
        let (queue, ranges) = (queue.clone(), self.ranges.clone());
        self.addresses.on_change(move |_, new| {
            // An address that has gone may be the last that a range was kept for.
            let going = ranges.list().into_iter().filter(|range| new.is_none() && is_going(range));
            going.for_each(|range| queue.add(ObjectKey::of(&*range)));
            true
        });
    }

    async fn synced(&self) {
        self.ranges.synced().await;
        self.addresses.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.ranges.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let range = self.ranges.get(key)?;
        let (mut others, mut taken) = (Vec::new(), Vec::new());
        if is_going(&range) {
            let staying = self.ranges.list().into_iter().filter(|other| !is_going(other));
            others = staying.filter_map(|other| self.usable(&other).ok()).collect();
            taken = self.addresses.keys().iter().filter_map(|key| key.name.parse().ok()).collect();
        }
        Some(View { usable: self.usable(&range), range, others, taken })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let range = &*view.range;
    let kept = range.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    match is_going(range) {
        true if kept && !is_needed(view) => plan.write(with_finalizer(range, false)),
        true if kept => plan.write_status(
            now,
            range,
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        ),
        true => {}
        false if view.usable.is_ok() && !kept => plan.write(with_finalizer(range, true)),
        false => match view.usable {
            Ok(_) => plan.write_status(now, range, "True", "", "Kubernetes Service CIDR is ready"),
            Err(why) => plan.write_status(now, range, "False", "NotInUse", why),
        },
    }
    plan
}

/// Whether a Service has an address of the range that no other range holds.
fn is_needed(view: &View) -> bool {
    let Ok(range) = view.usable else { return false };
    let alone = |ip: &&Ipv4Addr| range.contains(*ip) && !view.others.iter().any(|other| other.contains(*ip));
    view.taken.iter().any(|ip| alone(&ip))
}

fn with_finalizer(range: &ServiceCIDR, wanted: bool) -> Write {
    let mut finalizers = range.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
    let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    let metadata = json!({"finalizers": finalizers, "resourceVersion": range.metadata.resource_version});
    Write::patch(range, "", json!({"metadata": metadata}))
}

impl Plan {
    /// Writes the condition `Ready`, if that changes it.
    fn write_status(&mut self, now: Timestamp, range: &ServiceCIDR, status: &str, reason: &str, message: &str) {
        let old = range.status.clone().unwrap_or_default();
        let known = old.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let since = known.filter(|known| known.status == status).map(|known| known.last_transition_time.clone());
        let condition = Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: None,
        };
        let new = ServiceCIDRStatus { conditions: Some(vec![condition]) };
        if let Some(patch) = merge_patch(&old, &new) {
            self.write(Write::patch(range, "status", json!({"status": patch})));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::fake::Fake;

    const MORE: &str = "127.97.0.0/24";

    fn range(going: bool) -> ServiceCIDR {
        let mut object = json!({"metadata": {"name": "more"}, "spec": {"cidrs": [MORE]}});
        if going {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            object["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        serde_json::from_value(object).expect("a ServiceCIDR")
    }

    /// What comes of the range when all is done: its finalizers, and the status and reason of its condition.
    fn settled(range: &ServiceCIDR, usable: Result<&str, &'static str>, others: &[&str], taken: &[&str]) -> Value {
        let net = |text: &str| text.parse::<Ipv4Net>().expect("a range");
        let mut fake = Fake::default();
        fake.put(range);
        fake.settle(|fake| match fake.get::<ServiceCIDR>("", "more") {
            Some(range) => plan(
                Timestamp::UNIX_EPOCH,
                &View {
                    range: Arc::new(range),
                    usable: usable.map(net),
                    others: others.iter().map(|text| net(text)).collect(),
                    taken: taken.iter().map(|text| text.parse().expect("an address")).collect(),
                },
            ),
            None => Plan::nothing(),
        });
        let Some(range) = fake.get::<ServiceCIDR>("", "more") else { return Value::Null };
        let condition = range.status.and_then(|status| status.conditions).and_then(|mut all| all.pop());
        json!([range.metadata.finalizers, condition.map(|condition| json!([condition.status, condition.reason]))])
    }

    #[test]
    fn a_range_in_use_is_ready_and_kept() {
        assert_eq!(settled(&range(false), Ok(MORE), &[], &[]), json!([[FINALIZER], ["True", ""]]));
        assert_eq!(settled(&range(false), Err("it cannot be"), &[], &[]), json!([null, ["False", "NotInUse"]]));
    }

    #[test]
    fn a_range_goes_when_no_address_needs_it() {
        let needed = settled(&range(true), Ok(MORE), &["127.96.0.0/16"], &["127.97.0.9", "127.96.0.1"]);
        assert_eq!(needed, json!([[FINALIZER], ["False", "Terminating"]]));
        for (others, taken) in [(vec![], vec!["127.96.0.1"]), (vec!["127.97.0.0/16"], vec!["127.97.0.9"])] {
            let free = settled(&range(true), Ok(MORE), &others, &taken);
            assert!(free.is_null() || free[0].is_null(), "{free}");
        }
    }
}
