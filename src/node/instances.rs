//! How a container's instances are made, kept and bounded, as its pod's annotations say. Pure.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/requests-per-instance: "100"      # reuse; 1 (the default) gives each request its own
//!     coracle.dev/concurrent-requests-per-instance: "8"   # of WASI 0.3, where instances are reused; 1 is the default
//!     coracle.dev/min-instances: "2"                # made before a request comes; 0 is the default
//!     coracle.dev/max-concurrent-requests: "16"     # answered at a time, per container
//!     coracle.dev/max-queued-requests: "64"         # in line behind them; then 503 and Retry-After
//!     coracle.dev/instance-idle-timeout: 5s         # how long an instance waits to be used again
//!     coracle.dev/request-timeout: 10s              # then 504, and the instance ends
//!     coracle.dev/request-timeout.web: 2m           # for the container `web` alone
//!     coracle.dev/snapshot: "true"                  # initialised once; instances start from there
//! ```

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use super::backoff::go_duration;
use crate::runtime::InstancePolicy;

/// One annotation: what it may be, and where its value goes.
struct Knob {
    name: &'static str,
    value: Value,
}

enum Value {
    Count(RangeInclusive<u32>, fn(&mut InstancePolicy, u32)),
    Time(RangeInclusive<Duration>, fn(&mut InstancePolicy, Duration)),
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// Requests in flight or in line: what one node can hold of anything.
const MOST_REQUESTS: u32 = 10_000;

const KNOBS: &[Knob] = &[
    Knob {
        name: "coracle.dev/requests-per-instance",
        value: Value::Count(1..=1_000_000, |policy, count| policy.max_requests_per_instance = count),
    },
    Knob {
        name: "coracle.dev/concurrent-requests-per-instance",
        value: Value::Count(1..=1024, |policy, count| policy.max_concurrent_per_instance = count as usize),
    },
    Knob {
        name: "coracle.dev/min-instances",
        value: Value::Count(0..=64, |policy, count| policy.min_instances = count as usize),
    },
    Knob {
        name: "coracle.dev/max-concurrent-requests",
        value: Value::Count(1..=MOST_REQUESTS, |policy, count| policy.max_concurrent = count as usize),
    },
    Knob {
        name: "coracle.dev/max-queued-requests",
        value: Value::Count(0..=MOST_REQUESTS, |policy, count| policy.max_queued = count as usize),
    },
    Knob {
        name: "coracle.dev/instance-idle-timeout",
        value: Value::Time(MILLISECOND..=Duration::from_secs(3600), |policy, time| policy.idle_timeout = time),
    },
    Knob {
        // A Service's listener waits no longer than this either.
        name: "coracle.dev/request-timeout",
        value: Value::Time(MILLISECOND..=Duration::from_secs(600), |policy, time| policy.request_timeout = time),
    },
];

/// Whether its program is initialised once, before the first instance.
const SNAPSHOT: &str = "coracle.dev/snapshot";

/// Whether `container` is to start from where its own initialisation leaves it.
pub fn snapshot(pod: &core::Pod, container: &str) -> Result<bool, String> {
    let Some(annotations) = &pod.metadata.annotations else { return Ok(false) };
    check_suffixes(SNAPSHOT, pod, annotations)?;
    match own(SNAPSHOT, annotations, container) {
        None => Ok(false),
        Some((key, text)) => match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("annotation {key}: {text:?} is not allowed: it must be true or false")),
        },
    }
}

/// The policy of `container`; the error names the annotation, its value and what is allowed.
pub fn policy(pod: &core::Pod, container: &str) -> Result<InstancePolicy, String> {
    let mut policy = InstancePolicy::default();
    let Some(annotations) = &pod.metadata.annotations else { return Ok(policy) };
    for knob in KNOBS {
        check_suffixes(knob.name, pod, annotations)?;
        if let Some((key, text)) = own(knob.name, annotations, container) {
            let refused = || format!("annotation {key}: {text:?} is not allowed: {}", knob.allowed());
            knob.set(&mut policy, text.trim()).ok_or_else(refused)?;
        }
    }
    Ok(policy)
}

/// What is said for a container: its own stands before the pod's.
fn own<'a>(name: &str, annotations: &'a BTreeMap<String, String>, container: &str) -> Option<(&'a String, &'a String)> {
    let own = format!("{name}.{container}");
    annotations.get_key_value(own.as_str()).or_else(|| annotations.get_key_value(name))
}

impl Knob {
    /// `None`: not what is allowed.
    fn set(&self, policy: &mut InstancePolicy, text: &str) -> Option<()> {
        match &self.value {
            Value::Count(range, set) => {
                let count = text.parse().ok().filter(|count| range.contains(count))?;
                set(policy, count);
            }
            Value::Time(range, set) => {
                let time = duration(text).filter(|time| range.contains(time))?;
                set(policy, time);
            }
        }
        Some(())
    }

    fn allowed(&self) -> String {
        match &self.value {
            Value::Count(range, _) => format!("it must be a whole number from {} to {}", range.start(), range.end()),
            Value::Time(range, _) => {
                let (least, most) = (go_duration(*range.start()), go_duration(*range.end()));
                format!("it must be a time from {least} to {most}, written as 250ms, 1.5s or 1m30s")
            }
        }
    }
}

/// A suffix that names no container is a mistake that would otherwise do nothing.
fn check_suffixes(name: &str, pod: &core::Pod, annotations: &BTreeMap<String, String>) -> Result<(), String> {
    let spec = pod.spec.as_ref();
    let names = || {
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        main.iter().chain(init).map(|container| container.name.as_str())
    };
    for (key, value) in annotations {
        let suffix = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        if let Some(suffix) = suffix.filter(|suffix| !names().any(|name| name == *suffix)) {
            let known = names().collect::<Vec<_>>().join(", ");
            return Err(format!(
                "annotation {key}: {value:?} is for container {suffix:?}, which the pod does not have: {known}"
            ));
        }
    }
    Ok(())
}

/// A time as Go writes it, e.g. `1m30s`; without a unit only 0.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        whole = whole.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(annotations: serde_json::Value) -> Result<InstancePolicy, String> {
        let pod = json!({
            "metadata": { "annotations": annotations },
            "spec": { "containers": [{ "name": "web" }, { "name": "side" }] },
        });
        policy(&serde_json::from_value(pod).expect("a pod"), "web")
    }

    #[test]
    fn what_is_not_said_is_as_ever() {
        assert_eq!(with(json!({})), Ok(InstancePolicy::default()));
        assert_eq!(policy(&core::Pod::default(), "web"), Ok(InstancePolicy::default()));
        assert_eq!(with(json!({ "coracle.dev/request-timeout.side": "1s" })), Ok(InstancePolicy::default()));
    }

    #[test]
    fn each_annotation_sets_its_field_and_the_containers_own_comes_first() {
        let policy = with(json!({
            "coracle.dev/requests-per-instance": "100",
            "coracle.dev/concurrent-requests-per-instance": "8",
            "coracle.dev/min-instances": "2",
            "coracle.dev/max-concurrent-requests": "16",
            "coracle.dev/max-queued-requests": "0",
            "coracle.dev/instance-idle-timeout": "1m30s",
            "coracle.dev/request-timeout": "250ms",
            "coracle.dev/request-timeout.web": "1.5s",
        }));
        let wanted = InstancePolicy {
            max_requests_per_instance: 100,
            max_concurrent_per_instance: 8,
            min_instances: 2,
            max_concurrent: 16,
            max_queued: 0,
            idle_timeout: Duration::from_secs(90),
            request_timeout: Duration::from_millis(1500),
        };
        assert_eq!(policy, Ok(wanted));
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        let cases = [
            ("coracle.dev/requests-per-instance", "0", "a whole number from 1 to 1000000"),
            ("coracle.dev/max-concurrent-requests", "many", "a whole number from 1 to 10000"),
            ("coracle.dev/max-concurrent-requests", "-1", "a whole number from 1 to 10000"),
            ("coracle.dev/min-instances", "65", "a whole number from 0 to 64"),
            ("coracle.dev/request-timeout", "10", "a time from 1ms to 10m0s"),
            ("coracle.dev/request-timeout.web", "1h", "a time from 1ms to 10m0s"),
            ("coracle.dev/instance-idle-timeout", "", "a time from 1ms to 1h0m0s"),
            ("coracle.dev/request-timeout.wbe", "1s", "which the pod does not have: web, side"),
        ];
        for (key, value, allowed) in cases {
            let error = with(json!({ key: value })).expect_err(key);
            assert!(error.starts_with(&format!("annotation {key}: {value:?} ")), "{error}");
            assert!(error.contains(allowed), "{error}");
        }
    }

    #[test]
    fn a_snapshot_is_asked_for_by_container() {
        let asked = |annotations| {
            let pod =
                json!({ "metadata": { "annotations": annotations }, "spec": { "containers": [{ "name": "web" }] } });
            snapshot(&serde_json::from_value(pod).expect("a pod"), "web")
        };
        assert_eq!(asked(json!({})), Ok(false));
        assert_eq!(asked(json!({ SNAPSHOT: "true" })), Ok(true));
        assert_eq!(asked(json!({ SNAPSHOT: "true", "coracle.dev/snapshot.web": "false" })), Ok(false));
        assert!(asked(json!({ SNAPSHOT: "yes" })).is_err_and(|why| why.ends_with("it must be true or false")));
        assert!(asked(json!({ "coracle.dev/snapshot.wbe": "true" })).is_err_and(|why| why.contains("does not have")));
    }

    #[test]
    fn times_are_read_as_go_reads_them() {
        let cases = [("5s", Some(5000)), ("1h0m0.5s", Some(3_600_500)), ("2", None), ("s", None), ("1x", None)];
        for (text, millis) in cases {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
