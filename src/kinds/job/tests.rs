//! Jobs as users write them, against what upstream makes of them.

use serde_json::{Value, json};

use super::Job;
use crate::kinds::Kind as _;
use crate::kinds::field::Errors;

fn job(change: Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "j", "namespace": "ns", "uid": "u"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    json_patch::merge(&mut job, &change);
    Job.default(&mut job);
    Job.prepare_create(&mut job);
    job
}

fn texts(errors: &Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_depend_on_each_other() {
    let spec = |change: Value| job(json!({"spec": change}))["spec"].clone();
    let plain = spec(json!({}));
    assert_eq!((&plain["completions"], &plain["parallelism"]), (&json!(1), &json!(1)));
    let queue = spec(json!({"parallelism": 4}));
    assert_eq!((&queue["completions"], &queue["backoffLimit"]), (&Value::Null, &json!(6)));
    let indexed = spec(json!({"completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1}));
    assert_eq!(indexed["backoffLimit"], i32::MAX);
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
    let policy = spec(json!({"podFailurePolicy": {"rules": rules}}));
    assert_eq!(policy["podReplacementPolicy"], "Failed");
    assert_eq!(policy["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
}

#[test]
fn selectors_are_generated_once_and_checked() {
    let made = job(json!({}));
    assert_eq!(made["spec"]["selector"]["matchLabels"], json!({super::UID_LABEL: "u"}));
    assert_eq!(made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(texts(&Job.validate(&made)), Vec::<String>::new());
    let own = json!({"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}}}});
    let made = job(own);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(texts(&Job.validate(&made)), Vec::<String>::new());
    let wrong = job(json!({"spec": {"template": {"metadata": {"labels": {"job-name": "other"}}}}}));
    assert_eq!(
        texts(&Job.validate(&wrong))[0],
        "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"u\",\"job-name\":\"other\"}: must be 'j'"
    );
}

#[test]
fn policies_are_checked() {
    let cases: &[(Value, &[&str])] = &[
        (
            json!({"podFailurePolicy": {"rules": [{"action": "Stop", "onExitCodes": {"operator": "In", "values": [0, 3, 2, 3]}}]}}),
            &[
                "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Stop\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: 3",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,3,2,3]: must be ordered",
            ],
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}}]}}),
            &[
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            ],
        ),
        (
            json!({"successPolicy": {"rules": [{"succeededCount": 9, "succeededIndexes": "0-1"}]}, "completions": 3, "completionMode": "Indexed"}),
            &[
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 9: must be less than or equal to 3 (the number of specified completions)",
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 9: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ],
        ),
        (
            json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1}),
            &[
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
            ],
        ),
        (
            json!({"managedBy": "me"}),
            &["spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
        ),
    ];
    for (change, wanted) in cases {
        assert_eq!(texts(&Job.validate(&job(json!({"spec": change})))), *wanted, "{change}");
    }
}

#[test]
fn what_may_change_and_when() {
    let old = job(json!({"spec": {"completions": 3, "completionMode": "Indexed", "suspend": true}}));
    let update = |old: &Value, change: Value| {
        let mut new = old.clone();
        json_patch::merge(&mut new, &change);
        let cut = |text: String| text.chars().take(60).collect::<String>();
        texts(&Job.validate_update(&new, old)).into_iter().map(cut).collect::<Vec<_>>()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(update(&old, json!({"spec": {"completions": 5, "parallelism": 5}})), none);
    assert_eq!(
        update(&old, json!({"spec": {"completions": 5}})),
        ["spec.completions: Invalid value: 5: can only be modified in "]
    );
    let placed = json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}});
    assert_eq!(update(&old, placed.clone()), none);
    let mut begun = old.clone();
    begun["status"]["startTime"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(update(&begun, placed).len(), 1);
    assert_eq!(update(&old, json!({"spec": {"suspend": false, "backoffLimit": 1}})), none);
}

#[test]
fn a_status_ends_once() {
    let job = job(json!({}));
    let status = |status: Value| {
        let mut new = job.clone();
        new["status"] = status;
        new
    };
    let done = status(
        json!({"completionTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]}),
    );
    assert!(Job.validate_status_update(&done, &job).is_empty());
    assert_eq!(
        texts(&Job.validate_status_update(&status(json!({"active": 1})), &done)),
        [
            "status.conditions: Invalid value: null: cannot disable the terminal Job Complete=True condition",
            "status.completionTime: Invalid value: null: field is immutable"
        ]
    );
    let both = json!({"active": 1, "conditions": [{"type": "Failed", "status": "True"}], "uncountedTerminatedPods": {"failed": ["a"]}});
    assert_eq!(
        texts(&Job.validate_status_update(&status(both), &job)),
        [
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
            "status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: uncountedTerminatedPods needs to be empty for finished job"
        ]
    );
}

#[test]
fn rows_show_how_far_it_is() {
    let now = "2026-01-01T00:02:00Z".parse().expect("a time");
    let mut shown = job(json!({"spec": {"parallelism": 3}}));
    shown["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let cells =
        |job: &Value| Job.row(job, now)[1..4].iter().map(|c| c.as_str().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(cells(&shown), ["Running", "0/1 of 3", ""]);
    shown["status"] = json!({"startTime": "2026-01-01T00:00:30Z", "succeeded": 1,
        "conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]});
    assert_eq!(cells(&shown), ["Failed", "1/1 of 3", "30s"]);
}
