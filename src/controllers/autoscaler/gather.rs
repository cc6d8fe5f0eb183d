//! What an autoscaler's decision depends on, asked of the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use kube::core::{Expression, Selector};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::controllers::pods;
use crate::kinds::quantity::Quantity;
use crate::reconcile::{ObjectKey, ResourceType, Shared, reason};

/// The target's scale, as it was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Scale {
    /// The URL path of the subresource.
    pub path: String,
    pub object: Value,
    pub replicas: i32,
    /// As a query; empty where the target does not say which pods are its own.
    pub selector: String,
}

/// What one pod uses.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PodUsage {
    pub at: Timestamp,
    /// The time over which rates are averages.
    pub window: SignedDuration,
    /// By container and resource, in thousandths.
    pub containers: BTreeMap<String, BTreeMap<String, i64>>,
}

/// All that concerns one autoscaler.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    /// The scale, or why there is none.
    pub scale: Result<Scale, String>,
    /// The pods that the scale selects.
    pub pods: Vec<Arc<Pod>>,
    /// By name of the pod; or why nothing is known.
    pub usage: Result<BTreeMap<String, PodUsage>, String>,
    /// Other autoscalers that scale the same pods.
    pub rivals: Vec<ObjectKey>,
}

impl Sight {
    fn nothing(why: String) -> Self {
        Self { scale: Err(why), pods: Vec::new(), usage: Ok(BTreeMap::new()), rivals: Vec::new() }
    }
}

pub(super) async fn gather(client: &Client, autoscaler: &HorizontalPodAutoscaler, pods: &Shared<Pod>) -> Sight {
    let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
    let scale = match scale(client, autoscaler, namespace).await {
        Ok(scale) => scale,
        Err(why) => return Sight::nothing(why),
    };
    let selected: Vec<Arc<Pod>> = match selector(&scale.selector) {
        Some(selector) => {
            let selects = |pod: &Arc<Pod>| pods::matches(&selector, pod.metadata.labels.as_ref());
            pods.list_in(namespace).into_iter().filter(selects).collect()
        }
        None => Vec::new(),
    };
    let usage = if selected.is_empty() { Ok(BTreeMap::new()) } else { usage(client, namespace, &scale.selector).await };
    Sight { scale: Ok(scale), pods: selected, usage, rivals: Vec::new() }
}

async fn scale(client: &Client, autoscaler: &HorizontalPodAutoscaler, namespace: &str) -> Result<Scale, String> {
    let target = &autoscaler.spec.scale_target_ref;
    let api_version = target.api_version.as_deref().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let plural = plural(client, group, version, &target.kind).await?;
    let resource = ResourceType {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        plural: plural.into(),
        kind: target.kind.clone().into(),
    };
    let path = format!("{}/scale", resource.object_path(&ObjectKey::new(namespace, target.name.as_str())));
    let object = get(client, &path).await?;
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let replicas = number("/spec/replicas").unwrap_or(0);
    let selector = object["status"]["selector"].as_str().unwrap_or_default().to_owned();
    Ok(Scale { path, replicas, selector, object })
}

/// The resource of a kind that can be scaled.
async fn plural(client: &Client, group: &str, version: &str, kind: &str) -> Result<String, String> {
    let unknown = || match group {
        "" => format!("no matches for kind \"{kind}\" in version \"{version}\""),
        group => format!("no matches for kind \"{kind}\" in group \"{group}\""),
    };
    let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let Ok(list) = get(client, &path).await else { return Err(unknown()) };
    let list: APIResourceList = serde_json::from_value(list).map_err(|error| error.to_string())?;
    let resource = list.resources.iter().find(|resource| resource.kind == kind && !resource.name.contains('/'));
    resource.map(|resource| resource.name.clone()).ok_or_else(unknown)
}

async fn usage(client: &Client, namespace: &str, selector: &str) -> Result<BTreeMap<String, PodUsage>, String> {
    let selector = utf8_percent_encode(selector, NON_ALPHANUMERIC);
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}");
    let list =
        get(client, &path).await.map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"))?;
    Ok(list["items"].as_array().into_iter().flatten().filter_map(read_usage).collect())
}

/// A PodMetrics, by the name of its pod.
fn read_usage(metrics: &Value) -> Option<(String, PodUsage)> {
    let name = metrics["metadata"]["name"].as_str()?.to_owned();
    let at = crate::kinds::time::parse(&metrics["timestamp"])?;
    let window = metrics["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or(SignedDuration::ZERO);
    let amounts = |usage: &Value| {
        let amounts = usage.as_object().into_iter().flatten();
        amounts.map(|(resource, _)| (resource.clone(), Quantity::of(usage, resource).millis())).collect()
    };
    let containers = metrics["containers"].as_array().into_iter().flatten();
    let containers = containers.map(|c| (c["name"].as_str().unwrap_or_default().to_owned(), amounts(&c["usage"])));
    Some((name, PodUsage { at, window, containers: containers.collect() }))
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request(request).await.map_err(|error| reason(&error))
}

/// The selector of a scale, which is a query's: `a=1,b in (x,y),!c`. `None` for none at all.
pub(super) fn selector(query: &str) -> Option<Selector> {
    if query.is_empty() {
        return None;
    }
    let mut terms = Vec::new();
    let (mut begin, mut depth) = (0, 0_i32);
    for (at, letter) in query.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&query[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&query[begin..]);
    Some(terms.into_iter().map(term).collect())
}

fn term(text: &str) -> Expression {
    let text = text.trim();
    let values =
        |list: &str| list.trim_matches(['(', ')', ' ']).split(',').map(|value| value.trim().to_owned()).collect();
    if let Some((key, list)) = text.split_once(" notin ") {
        return Expression::NotIn(key.to_owned(), values(list));
    }
    if let Some((key, list)) = text.split_once(" in ") {
        return Expression::In(key.to_owned(), values(list));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Expression::NotEqual(key.to_owned(), value.to_owned());
    }
    match (text.split_once('='), text.strip_prefix('!')) {
        (Some((key, value)), _) => Expression::Equal(key.to_owned(), value.trim_start_matches('=').to_owned()),
        (None, Some(key)) => Expression::DoesNotExist(key.to_owned()),
        (None, None) => Expression::Exists(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scales_selector_selects() {
        let selector = selector("a=1,b in (x,y),!c,d").expect("a selector");
        let matches = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            pods::matches(&selector, Some(&labels))
        };
        assert!(matches(&[("a", "1"), ("b", "y"), ("d", "")]));
        assert!(!matches(&[("a", "1"), ("b", "z"), ("d", "")]));
        assert!(!matches(&[("a", "1"), ("b", "x"), ("c", ""), ("d", "")]));
        assert!(!matches(&[("a", "1"), ("b", "x")]));
        assert!(super::selector("").is_none());
    }

    #[test]
    fn pod_metrics_are_read_in_thousandths() {
        let metrics = json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "7.5s",
            "containers": [{"name": "c", "usage": {"cpu": "1500001n", "memory": "64Ki"}}]});
        let (name, usage) = read_usage(&metrics).expect("figures");
        assert_eq!((name.as_str(), usage.window), ("p", SignedDuration::from_millis(7_500)));
        assert_eq!(usage.containers["c"], [("cpu".to_owned(), 2), ("memory".to_owned(), 65_536_000)].into());
    }
}
