//! The samples in Go, JavaScript and Python, each with its language's runtime inside.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, Options, both, eventually, missing};

/// Whole language runtimes are compiled, at the lowest priority.
const COMPILATION: Duration = Duration::from_secs(300);

/// Where `workloads/languages.sh` has built them.
fn modules() -> Option<PathBuf> {
    let built = std::env::var_os("CORACLE_LANGUAGES").map(PathBuf::from);
    let built = built.filter(|dir| ["shipping", "reviews", "recommend"].iter().all(|name| dir.join(name).exists()));
    if built.is_none() {
        missing("the modules of workloads/languages.sh, in the directory that CORACLE_LANGUAGES names");
    }
    built
}

#[test]
fn services_in_go_javascript_and_python_answer_and_call_each_other() {
    let Some(modules) = modules() else { return };
    let cluster = Cluster::with(Options { images: Some(modules), ..Options::default() });
    let applied = cluster.coracle(&["apply", "-f", "manifests/languages.yaml"]);
    assert!(applied.status.success(), "{}", both(&applied));
    for (name, path) in [("shipping", "/"), ("recommend", "/?bought=hat"), ("reviews", "/reviews/coracle")] {
        eventually(&format!("{name} to be compiled and to answer"), COMPILATION, || {
            let answer = cluster.request_host(&format!("{name}.example"), path);
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        });
    }
    let ask = |name: &str, path: &str| -> (u16, Value) {
        let answer = cluster.request_host(&format!("{name}.example"), path);
        let body = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body));
        (answer.status, body)
    };
    let price = json!({"to": "GB", "items": 2, "cents": 1150, "days": 2});
    assert_eq!(ask("shipping", "/quote?items=2&to=GB"), (200, price), "{}", cluster.output());
    assert_eq!(ask("shipping", "/quote?items=none&to=GB").0, 400);
    assert_eq!(ask("shipping", "/none").0, 404);

    let recommended =
        json!([{"product": "paddle", "orders": 2}, {"product": "hat", "orders": 1}, {"product": "lamp", "orders": 1}]);
    let (status, body) = ask("recommend", "/?bought=coracle");
    assert_eq!((status, &body["recommended"]), (200, &recommended), "{body}");
    assert_eq!(ask("recommend", "/").0, 400);

    let (status, body) = ask("reviews", "/reviews/coracle");
    assert_eq!((status, &body["stars"]), (200, &json!(4.5)), "{body}");
    let (status, body) = ask("reviews", "/delivered/paddle");
    assert_eq!((status, &body["shipping"]["cents"]), (200, &json!(900)), "JavaScript asks Go: {body}");
    assert_eq!(ask("reviews", "/reviews/toString").0, 404);
}
