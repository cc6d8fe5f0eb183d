//! Slices and Endpoints against hand-made views.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{legacy, mirror, slices};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Action, Plan};

fn service(change: Value) -> Arc<Service> {
    let mut object = json!({"metadata": {"name": "s", "namespace": "ns", "uid": "s-uid"}, "spec": {
        "clusterIP": "127.96.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "e"},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    json_patch::merge(&mut object, &change);
    Arc::new(serde_json::from_value(object).expect("a Service"))
}

fn pod(number: usize, change: Value) -> Arc<Pod> {
    let ip = format!("10.9.{}.{}", number / 250, number % 250 + 1);
    let mut object = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}"), "labels": {"app": "e"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9000}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    json_patch::merge(&mut object, &change);
    Arc::new(serde_json::from_value(object).expect("a Pod"))
}

fn unready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn view(service: Arc<Service>, pods: Vec<Arc<Pod>>, slices: Vec<EndpointSlice>) -> slices::View {
    let slices = slices.into_iter().map(Arc::new).collect();
    slices::View { service, pods, slices, ..Default::default() }
}

/// The slices after the plan, in a cluster where `before` were.
fn after(before: &Fake, plan: &Plan) -> Fake {
    let mut fake = before.clone();
    Fake::writes(plan).iter().for_each(|write| fake.apply(write).expect("it can be done"));
    fake
}

fn conditions(slice: &EndpointSlice) -> Value {
    json!(slice.endpoints.iter().flatten().map(|e| json!(e.conditions)).collect::<Vec<_>>())
}

#[test]
fn a_slice_is_what_upstream_writes() {
    let plan = slices::plan(&view(service(json!({})), vec![pod(0, json!({}))], Vec::new()));
    let writes = Fake::writes(&plan);
    let [write] = writes.as_slice() else { panic!("one write: {writes:?}") };
    let Action::Create(body) = &write.action else { panic!("a creation") };
    let labels = json!({
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "kubernetes.io/service-name": "s"});
    assert_eq!(body["metadata"]["labels"], labels);
    assert_eq!(body["metadata"]["generateName"], "s-");
    assert_eq!(body["metadata"]["ownerReferences"][0]["kind"], "Service");
    assert_eq!(body["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(
        body["endpoints"],
        json!([{
        "addresses": ["10.9.0.1"],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "n",
        "targetRef": {"kind": "Pod", "name": "p0", "namespace": "ns", "uid": "u0"}}])
    );
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let pods = vec![pod(0, unready()), pod(1, going), pod(2, json!({"status": {"phase": "Failed"}}))];
    let of = |service| {
        let fake = after(&Fake::default(), &slices::plan(&view(service, pods.clone(), Vec::new())));
        conditions(&fake.all::<EndpointSlice>()[0])
    };
    let unready = json!({"ready": false, "serving": false, "terminating": false});
    let going = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(of(service(json!({}))), json!([unready, going]));
    let published = of(service(json!({"spec": {"publishNotReadyAddresses": true}})));
    assert_eq!((&published[0]["ready"], &published[1]["ready"]), (&json!(true), &json!(true)));
}

#[test]
fn one_pods_change_rewrites_one_slice_and_nothing_else() {
    let pods: Vec<Arc<Pod>> = (0..250).map(|n| pod(n, json!({}))).collect();
    let fake = after(&Fake::default(), &slices::plan(&view(service(json!({})), pods.clone(), Vec::new())));
    let made: Vec<EndpointSlice> = fake.all();
    let sizes: Vec<usize> = made.iter().map(|s| s.endpoints.iter().flatten().count()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 250);
    assert!(sizes.iter().all(|n| *n <= 100), "{sizes:?}");
    let again = slices::plan(&view(service(json!({})), pods.clone(), made.clone()));
    assert!(again.steps.is_empty(), "nothing changed: {again:?}");
    let mut changed = pods;
    changed[7] = pod(7, unready());
    assert_eq!(Fake::writes(&slices::plan(&view(service(json!({})), changed, made))).len(), 1);
}

#[test]
fn the_empty_slice_stays_and_is_filled_again() {
    let fake = after(&Fake::default(), &slices::plan(&view(service(json!({})), Vec::new(), Vec::new())));
    let empty: Vec<EndpointSlice> = fake.all();
    assert_eq!((empty.len(), &empty[0].ports, &empty[0].endpoints), (1, &None, &None));
    assert!(slices::plan(&view(service(json!({})), Vec::new(), empty.clone())).steps.is_empty());
    let fake = after(&fake, &slices::plan(&view(service(json!({})), vec![pod(0, json!({}))], empty)));
    let filled: Vec<EndpointSlice> = fake.all();
    assert_eq!((filled.len(), filled[0].endpoints.iter().flatten().count()), (1, 1));
    let fake = after(&fake, &slices::plan(&view(service(json!({})), Vec::new(), filled)));
    let again: Vec<EndpointSlice> = fake.all();
    assert_eq!((again.len(), &again[0].ports, &again[0].endpoints), (1, &None, &None));
}

#[test]
fn pods_with_other_numbers_for_a_named_port_get_slices_of_their_own() {
    let named = service(json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}));
    let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9001}]}]}});
    let fake = after(&Fake::default(), &slices::plan(&view(named, vec![pod(0, json!({})), pod(1, other)], Vec::new())));
    let mut ports: Vec<Value> = fake.all::<EndpointSlice>().iter().map(|s| json!(s.ports)).collect();
    ports.sort_by_key(Value::to_string);
    let port = |number| json!([{"name": "", "port": number, "protocol": "TCP"}]);
    assert_eq!(ports, [port(9000), port(9001)]);
}

#[test]
fn a_service_that_loses_its_selector_loses_its_slices() {
    let fake = after(&Fake::default(), &slices::plan(&view(service(json!({})), vec![pod(0, json!({}))], Vec::new())));
    let free = service(json!({"spec": {"selector": null}}));
    let fake = after(&fake, &slices::plan(&view(free, Vec::new(), fake.all())));
    assert!(fake.all::<EndpointSlice>().is_empty());
}

#[test]
fn endpoints_tell_ready_and_unready_apart_and_go_with_their_service() {
    let pods = vec![pod(0, json!({})), pod(1, unready())];
    let view = |service, endpoints: Option<Endpoints>| legacy::View {
        service,
        pods: pods.clone(),
        endpoints: endpoints.map(Arc::new),
    };
    let fake = after(&Fake::default(), &legacy::plan(&view(Some(service(json!({}))), None)));
    let made: Endpoints = fake.get("ns", "s").expect("it was created");
    let target = |n: usize| json!({"kind": "Pod", "name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")});
    assert_eq!(
        json!(made.subsets),
        json!([{
        "addresses": [{"ip": "10.9.0.1", "nodeName": "n", "targetRef": target(0)}],
        "notReadyAddresses": [{"ip": "10.9.0.2", "nodeName": "n", "targetRef": target(1)}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}])
    );
    assert!(legacy::plan(&view(Some(service(json!({}))), Some(made.clone()))).steps.is_empty());
    let fake = after(&fake, &legacy::plan(&view(None, Some(made))));
    assert!(fake.all::<Endpoints>().is_empty());
}

#[test]
fn hand_written_endpoints_of_a_service_without_selector_are_mirrored() {
    let object = json!({"metadata": {"name": "s", "namespace": "ns", "uid": "e-uid"}, "subsets": [
        {"addresses": [{"ip": "10.1.1.1"}], "ports": [{"port": 5432}]}]});
    let endpoints: Arc<Endpoints> = Arc::new(serde_json::from_value(object).expect("Endpoints"));
    let free = service(json!({"spec": {"selector": null}}));
    let view = |service, slices: Vec<EndpointSlice>| mirror::View {
        service,
        endpoints: Some(endpoints.clone()),
        slices: slices.into_iter().map(Arc::new).collect(),
    };
    let fake = after(&Fake::default(), &mirror::plan(&view(Some(free.clone()), Vec::new())));
    let made: Vec<EndpointSlice> = fake.all();
    assert_eq!(made.len(), 1);
    assert_eq!(json!(made[0].endpoints), json!([{"addresses": ["10.1.1.1"], "conditions": {"ready": true}}]));
    assert!(mirror::plan(&view(Some(free), made.clone())).steps.is_empty());
    let selecting = mirror::plan(&view(Some(service(json!({}))), made));
    assert_eq!(Fake::writes(&selecting).len(), 1, "with a selector the mirror goes");
}
