//! Server-side apply by stock kubectl: owners, conflicts, force, and the way over from client-side apply.

use crate::harness::both;
use crate::kubectl::{Session, with_each};

/// Pipes `manifest` into a command that reads `-`, and wants this outcome and these words.
fn pipe(k: &Session<'_>, line: &str, manifest: &str, succeeds: bool, wanted: &[&str]) {
    let output = k.output(line, Some(manifest));
    let text = both(&output);
    assert_eq!(output.status.success(), succeeds, "{line}:\n{text}");
    for word in wanted {
        assert!(text.contains(word), "{line} does not say {word:?}:\n{text}");
    }
}

fn config_map(data: &str) -> String {
    format!(r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "c"}}, "data": {data}}}"#)
}

#[test]
fn managers_share_an_object_and_conflict_over_its_fields() {
    with_each(&[], |k| {
        let one = "apply --server-side --field-manager=one -f -";
        let two = "apply --server-side --field-manager=two -f -";
        pipe(k, one, &config_map(r#"{"a": "1", "b": "2"}"#), true, &["configmap/c serverside-applied"]);
        pipe(k, two, &config_map(r#"{"c": "3"}"#), true, &[]);
        k.says("get cm c -o jsonpath={.data}", &[r#"{"a":"1","b":"2","c":"3"}"#]);
        pipe(
            k,
            two,
            &config_map(r#"{"a": "other"}"#),
            false,
            &["Apply failed with 1 conflict: conflict with \"one\": .data.a", "--force-conflicts"],
        );
        k.says("get cm c -o jsonpath={.data.a}", &["1"]);
        let force = "apply --server-side --force-conflicts --field-manager=two -f -";
        pipe(k, force, &config_map(r#"{"a": "other"}"#), true, &[]);
        k.says("get cm c -o jsonpath={.data}", &[r#"{"a":"other","b":"2"}"#]);
        k.says(
            "get cm c -o yaml --show-managed-fields",
            &["manager: one", "manager: two", "operation: Apply", "f:b: {}"],
        );
        // What one lets go of and nobody else owns is gone.
        pipe(k, one, &config_map("{}"), true, &[]);
        k.says("get cm c -o jsonpath={.data}", &[r#"{"a":"other"}"#]);
        pipe(k, "diff --server-side --field-manager=two -f -", &config_map(r#"{"a": "new"}"#), false, &["+  a: new"]);
        k.says("get cm c -o jsonpath={.data.a}", &["other"]);
    });
}

#[test]
fn a_user_changes_from_client_side_to_server_side_apply_and_back() {
    let web = |image: &str, env: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "web"}}, "spec": {{
                "replicas": 0, "selector": {{"matchLabels": {{"app": "web"}}}}, "template": {{
                "metadata": {{"labels": {{"app": "web"}}}}, "spec": {{"containers": [
                {{"name": "web", "image": "{image}", "env": [{env}], "ports": [{{"containerPort": 80}}]}}]}}}}}}}}"#
        )
    };
    let a = r#"{"name": "A", "value": "1"}"#;
    let b = r#"{"name": "B", "value": "2"}"#;
    with_each(&[], |k| {
        pipe(k, "apply -f -", &web("hello:1", &format!("{a}, {b}")), true, &["deployment.apps/web created"]);
        pipe(k, "apply --server-side -f -", &web("hello:2", b), true, &["serverside-applied"]);
        k.says("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}", &["hello:2"]);
        k.says(
            "get deploy web -o jsonpath={.spec.template.spec.containers[0].env}",
            &[r#"[{"name":"B","value":"2"}]"#],
        );
        k.says("get deploy web -o yaml --show-managed-fields", &["manager: kubectl\n", "operation: Apply"]);
        // And back: the annotation has been kept up to date.
        pipe(k, "apply -f -", &web("hello:3", a), true, &["configured"]);
        k.says(
            "get deploy web -o jsonpath={.spec.template.spec.containers[0].env}",
            &[r#"[{"name":"A","value":"1"}]"#],
        );
    });
}

#[test]
fn a_scale_is_owned_by_who_scaled() {
    let web = |replicas: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "web"}}, "spec": {{ {replicas}
                "paused": true, "selector": {{"matchLabels": {{"app": "web"}}}}, "template": {{
                "metadata": {{"labels": {{"app": "web"}}}}, "spec": {{"containers": [{{"name": "web", "image": "hello:1"}}]}}}}}}}}"#
        )
    };
    with_each(&[], |k| {
        let line = "apply --server-side --field-manager=one -f -";
        pipe(k, line, &web(r#""replicas": 0,"#), true, &[]);
        k.ok("scale deploy web --replicas=2");
        k.says("get deploy web -o yaml --show-managed-fields", &["subresource: scale"]);
        pipe(
            k,
            line,
            &web(r#""replicas": 0,"#),
            false,
            &["conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"],
        );
        // Whoever leaves the replicas out leaves them to the one who scales.
        pipe(k, line, &web(""), true, &[]);
        k.says("get deploy web -o jsonpath={.spec.replicas}", &["2"]);
    });
}
