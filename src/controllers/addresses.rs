//! The address book of Services: an IPAddress for each ClusterIP.
//!
//! The server hands the addresses out by itself; the book is kept for those who read it. What others have written
//! into it is left alone, and the server hands such an address to nobody.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::kinds::ip_address::{MANAGED_BY, MANAGER};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// Index over Services: by each of their addresses.
const BY_ADDRESS: &str = "address";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The controller of IPAddresses. Its keys are addresses.
pub(super) struct Addresses {
    services: Shared<Service>,
    addresses: Shared<IPAddress>,
}

/// An address: who has it, and what the book says.
pub(super) struct View {
    address: String,
    service: Option<Arc<Service>>,
    entry: Option<Arc<IPAddress>>,
}

impl Addresses {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let services = cluster.watch::<Service>();
        services.add_index(BY_ADDRESS, of_service);
        Self { services, addresses: cluster.watch() }
    }
}

fn of_service(service: &Service) -> Vec<String> {
    let addresses = service.spec.as_ref().and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    addresses.into_iter().filter(|address| address != "None" && !address.is_empty()).collect()
}

impl Reconciler for Addresses {
    type View = View;

    fn name(&self) -> &'static str {
        "ipallocator-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.addresses);
        let queue = queue.clone();
        self.services.on_change(move |old, new| {
            for address in old.into_iter().chain(new).flat_map(of_service) {
                queue.add(ObjectKey::cluster(address));
            }
            true
        });
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.addresses.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let taken = self.services.list().into_iter().flat_map(|service| of_service(&service));
        self.addresses.keys().into_iter().chain(taken.map(ObjectKey::cluster)).collect()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let service = self.services.by_index(BY_ADDRESS, &key.name).into_iter().next();
        Some(View { address: key.name.to_string(), service, entry: self.addresses.get(key) })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let wanted = view.service.as_deref().map(|service| entry(&view.address, service));
    match (wanted, &view.entry) {
        (Some(wanted), None) => plan.write(Write::create(&wanted)),
        (wanted, Some(entry)) if is_own(entry) => {
            if wanted.is_none_or(|wanted| wanted.spec != entry.spec) {
                // Its parent cannot be changed. The next look makes it anew, where there is one.
                plan.write(Write::delete(&**entry));
            }
        }
        (_, _) => {}
    }
    plan
}

fn is_own(entry: &IPAddress) -> bool {
    let labels = entry.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

fn entry(address: &str, service: &Service) -> IPAddress {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let parent = ParentReference {
        group: None,
        resource: "services".to_owned(),
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone().unwrap_or_default(),
    };
    IPAddress {
        metadata: ObjectMeta { name: Some(address.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() },
        spec: IPAddressSpec { parent_ref: parent },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::fake::Fake;

    fn service(name: &str, address: &str) -> Service {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIPs": [address]}});
        serde_json::from_value(object).expect("a Service")
    }

    fn settle(fake: &mut Fake, address: &str) {
        fake.settle(|fake| {
            let service = fake.all::<Service>().into_iter().find(|s| of_service(s) == [address.to_owned()]);
            let entry = fake.get::<IPAddress>("", address).map(Arc::new);
            plan(&View { address: address.to_owned(), service: service.map(Arc::new), entry })
        });
    }

    #[test]
    fn the_book_follows_the_services() {
        let mut fake = Fake::default();
        fake.put(&service("web", "127.96.0.7"));
        settle(&mut fake, "127.96.0.7");
        let entry: IPAddress = fake.get("", "127.96.0.7").expect("an entry");
        assert!(is_own(&entry));
        assert_eq!(entry.spec.parent_ref.name, "web");
        // Another Service gets the address.
        let mut fake = fake.clone();
        let gone: Service = fake.get("shop", "web").expect("it is there");
        fake.merge(&gone, "", json!({"spec": {"clusterIPs": ["None"]}}));
        fake.put(&service("shop", "127.96.0.7"));
        settle(&mut fake, "127.96.0.7");
        let entry: IPAddress = fake.get("", "127.96.0.7").expect("an entry");
        assert_eq!(entry.spec.parent_ref.name, "shop");
    }

    #[test]
    fn headless_services_have_no_address_and_strangers_entries_stay() {
        assert!(of_service(&service("a", "None")).is_empty());
        let entry: IPAddress = serde_json::from_value(json!({"metadata": {"name": "10.0.0.1"},
            "spec": {"parentRef": {"resource": "things", "name": "t"}}}))
        .expect("an entry");
        let view = View { address: "10.0.0.1".to_owned(), service: None, entry: Some(Arc::new(entry)) };
        assert!(plan(&view).steps.is_empty());
    }
}
