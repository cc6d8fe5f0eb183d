//! A pod's row: one word for what it is up to, found in a dozen places of its status.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::time;

/// What the containers' statuses come to.
struct Tally {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let tally = tally(spec, status);
    let reason = match pod["metadata"]["deletionTimestamp"].is_null() {
        true => tally.reason.as_str(),
        false if status["reason"] == "NodeLost" => "Unknown",
        false if matches!(text(&status["phase"]), "Failed" | "Succeeded") => tally.reason.as_str(),
        false => "Terminating",
    };
    let restarts = match tally.last_restart {
        Some(then) if tally.restarts != 0 => {
            format!("{} ({} ago)", tally.restarts, time::human_duration(now.as_second() - then.as_second()))
        }
        _ => tally.restarts.to_string(),
    };
    let total =
        list(&spec["containers"]).len() + list(&spec["initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    vec![
        pod["metadata"]["name"].clone(),
        format!("{}/{total}", tally.ready).into(),
        reason.into(),
        restarts.into(),
        time::object_age(pod, now).into(),
        or_none(text(&status["podIPs"][0]["ip"])),
        or_none(text(&spec["nodeName"])),
        or_none(text(&status["nominatedNodeName"])),
        readiness_gates(spec, status),
    ]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { json!("<none>") } else { json!(text) }
}

/// An init container that keeps running beside the others.
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn has_condition(status: &Value, kind: &str) -> bool {
    list(&status["conditions"]).iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn tally(spec: &Value, status: &Value) -> Tally {
    let mut reason = match text(&status["reason"]) {
        "" => text(&status["phase"]),
        reason => reason,
    }
    .to_owned();
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if list(&status["conditions"]).iter().any(gated) {
        reason = "SchedulingGated".to_owned();
    }
    let mut tally = Tally { reason, ready: 0, restarts: 0, last_restart: None };
    let (sidecars, initializing) = init(&mut tally, spec, status);
    if !initializing || has_condition(status, "Initialized") {
        tally.restarts = sidecars.restarts;
        tally.last_restart = sidecars.last_restart;
        regular(&mut tally, status);
    }
    tally
}

fn count_restarts(tally: &mut Tally, status: &Value) {
    tally.restarts += status["restartCount"].as_i64().unwrap_or(0);
    let finished = time::parse(&status["lastState"]["terminated"]["finishedAt"]);
    tally.last_restart = tally.last_restart.max(finished);
}

/// Goes through the init containers up to the first that has not done its part; returns the count of
/// the sidecars' restarts, and whether the pod is still held up.
fn init(tally: &mut Tally, spec: &Value, status: &Value) -> (Tally, bool) {
    let mut sidecars = Tally { reason: String::new(), ready: 0, restarts: 0, last_restart: None };
    let containers = list(&spec["initContainers"]);
    for (i, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        count_restarts(tally, container);
        let sidecar = containers.iter().any(|c| c["name"] == container["name"] && is_sidecar(c));
        if sidecar {
            count_restarts(&mut sidecars, container);
        }
        let (terminated, waiting) = (&container["state"]["terminated"], text(&container["state"]["waiting"]["reason"]));
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            tally.ready += usize::from(container["ready"] == true);
            continue;
        }
        tally.reason = if terminated.is_object() {
            format!("Init:{}", end_of(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", containers.len())
        };
        return (sidecars, true);
    }
    (sidecars, false)
}

/// The reason of a termination, or else what it came from.
fn end_of(terminated: &Value) -> String {
    let number = |name: &str| terminated[name].as_i64().unwrap_or(0);
    match text(&terminated["reason"]) {
        "" if number("signal") != 0 => format!("Signal:{}", number("signal")),
        "" => format!("ExitCode:{}", number("exitCode")),
        reason => reason.to_owned(),
    }
}

/// From the last container to the first, so that the first one's trouble is what shows.
fn regular(tally: &mut Tally, status: &Value) {
    let mut running = false;
    for container in list(&status["containerStatuses"]).iter().rev() {
        count_restarts(tally, container);
        let state = &container["state"];
        let waiting = text(&state["waiting"]["reason"]);
        if !waiting.is_empty() {
            tally.reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            tally.reason = end_of(&state["terminated"]);
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" && running {
        tally.reason = if has_condition(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(spec: &Value, status: &Value) -> Value {
    let gates = list(&spec["readinessGates"]);
    if gates.is_empty() {
        return json!("<none>");
    }
    let passed = gates.iter().filter(|gate| has_condition(status, text(&gate["conditionType"]))).count();
    format!("{passed}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(spec: Value, status: Value, deleted: bool) -> (String, String, String) {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let now = "2026-01-01T00:10:00Z".parse().expect("a literal time");
        let row = row(&pod, now);
        let cell = |i: usize| row[i].as_str().expect("a text").to_owned();
        (cell(1), cell(2), cell(3))
    }

    fn expect(spec: Value, status: Value, ready: &str, reason: &str, restarts: &str) {
        let shown = cells(spec.clone(), status.clone(), false);
        assert_eq!(shown, (ready.to_owned(), reason.to_owned(), restarts.to_owned()), "{spec} {status}");
    }

    #[test]
    fn regular_containers() {
        let two = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
        expect(two(), json!({"phase": "Pending"}), "0/2", "Pending", "0");
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        expect(two(), json!({"phase": "Running", "containerStatuses": [running, running]}), "2/2", "Running", "0");
        let crashing = json!({"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}});
        let status = json!({"phase": "Running", "containerStatuses": [crashing, running]});
        expect(two(), status.clone(), "1/2", "CrashLoopBackOff", "3 (5m ago)");
        assert_eq!(cells(two(), status, true).1, "Terminating");
        let done = json!({"ready": false, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        expect(two(), json!({"phase": "Succeeded", "containerStatuses": [done, done]}), "0/2", "Completed", "0");
        expect(two(), json!({"phase": "Running", "containerStatuses": [done, running]}), "1/2", "NotReady", "0");
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"phase": "Running", "conditions": ready, "containerStatuses": [done, running]});
        expect(two(), status, "1/2", "Running", "0");
        let killed = json!({"state": {"terminated": {"exitCode": 137}}});
        expect(two(), json!({"phase": "Failed", "containerStatuses": [killed]}), "0/2", "ExitCode:137", "0");
        let killed = json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}});
        expect(two(), json!({"phase": "Failed", "containerStatuses": [killed]}), "0/2", "Signal:9", "0");
        expect(two(), json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted", "0");
        assert_eq!(cells(two(), json!({"phase": "Failed", "reason": "Evicted"}), true).1, "Evicted");
        assert_eq!(cells(two(), json!({"phase": "Running", "reason": "NodeLost"}), true).1, "Unknown");
    }

    #[test]
    fn init_containers() {
        let spec = || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let running = json!({"name": "j", "state": {"running": {}}});
        expect(spec(), json!({"phase": "Pending", "initContainerStatuses": [done, running]}), "0/1", "Init:1/2", "0");
        let failed = json!({"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 3}}});
        expect(spec(), json!({"initContainerStatuses": [failed]}), "0/1", "Init:ExitCode:3", "2");
        let error = json!({"name": "i", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}});
        expect(spec(), json!({"initContainerStatuses": [error]}), "0/1", "Init:Error", "0");
        let waiting = json!({"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        expect(spec(), json!({"initContainerStatuses": [waiting]}), "0/1", "Init:CrashLoopBackOff", "0");
        let waiting = json!({"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}});
        expect(spec(), json!({"initContainerStatuses": [waiting]}), "0/1", "Init:0/2", "0");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
        let sidecar = json!({"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}});
        let main = json!({"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}});
        let status = json!({"phase": "Running", "initContainerStatuses": [sidecar], "containerStatuses": [main]});
        expect(spec, status, "2/2", "Running", "2");
    }
}
