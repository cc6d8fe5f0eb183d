//! Hostile and broken modules: none ends the host or hangs it, each is told in words of its own, and
//! whoever runs beside them notices nothing.
//!
//! `table` names each module with what becomes of it; `bytes` writes those that no assembler would make.

mod bytes;
mod mutate;
mod table;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use self::table::{CORPUS, Case, Fate};
use crate::harness::{Cluster, Options, both, coracle, eventually, kubectls, repository};
use crate::limits::{faults, served};

/// All of them one after the other, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(900);

fn write(dir: &Path, case: &Case) {
    std::fs::write(dir.join(format!("{}.wasm", case.name)), (case.make)()).expect("written");
}

fn pods() -> String {
    let pod = |case: &Case| {
        let name = case.name;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{corpus: \"yes\"}}}}\nspec:\n  restartPolicy: Never\n  \
             containers:\n  - {{name: c, image: {name}, resources: {{limits: {{memory: 256Mi, cpu: 100m}}, requests: {{memory: 1Mi, cpu: 1m}}}}}}\n"
        )
    };
    CORPUS.iter().map(pod).collect::<Vec<_>>().join("---\n")
}

/// Whether the pod has met its fate; otherwise what it says.
fn met(case: &Case, pod: &Value) -> Result<(), String> {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    let (waiting, ended) = (&state["waiting"], &state["terminated"]);
    let says = |state: &Value, words: &str| state["message"].as_str().unwrap_or_default().contains(words);
    let met = match case.fate {
        Fate::Refused(words) => waiting.is_object() && says(waiting, words),
        Fate::Ends(code, words) => ended["exitCode"] == code && says(ended, words),
        Fate::Runs => state["running"].is_object(),
    };
    met.then_some(()).ok_or_else(|| format!("{}: {:?}, but {state}", case.name, case.fate))
}

#[test]
fn as_pods_they_meet_their_fates_and_a_neighbour_answers_all_the_while() {
    if kubectls().is_empty() {
        return;
    }
    let images = tempfile::tempdir().expect("a directory");
    CORPUS.iter().for_each(|case| write(images.path(), case));
    std::fs::create_dir(images.path().join("hello")).expect("a directory");
    let hello = repository().join("workloads/prebuilt/hello/1.wasm");
    std::fs::copy(hello, images.path().join("hello/1.wasm")).expect("copied");
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    cluster.apply(&faults("hello", "", "").replace("faults:1", "hello:1"));
    served(&cluster, "hello.example");
    let node = cluster.pid("node-1");
    cluster.apply(&pods());
    let mut left: Vec<&Case> = CORPUS.iter().collect();
    eventually("all to meet their fates", PATIENCE, || {
        assert_eq!(cluster.request_host("hello.example", "/").status, 200);
        let list = cluster.get(&["pods", "-l", "corpus=yes"]);
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let of = |case: &Case| pods.iter().find(|pod| pod["metadata"]["name"] == case.name).cloned();
        let mut unmet = Vec::new();
        // Those that are refused are tried again, which is another state; once is enough.
        left.retain(|case| met(case, &of(case).unwrap_or_default()).map_err(|why| unmet.push(why)).is_err());
        left.is_empty().then_some(()).ok_or(unmet)
    });

    assert_eq!(cluster.pid("node-1"), node, "the host is the same process");
    cluster.kubectl(&["delete", "pods", "-l", "corpus=yes", "--grace-period=1", "--timeout=60s"]);
}

#[test]
fn check_tells_the_same_of_each_before_it_is_deployed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut others = Vec::new();
    CORPUS.iter().for_each(|case| write(dir.path(), case));
    // Those with a fault; the others only take long.
    for case in CORPUS.iter().filter(|case| !matches!(case.fate, Fate::Ends(0, _))) {
        let file = dir.path().join(format!("{}.wasm", case.name));
        let output = coracle().arg("check").arg(&file).output().expect("coracle runs");
        let text = both(&output);
        let expected = match case.fate {
            Fate::Refused(words) => (Some(1), words),
            Fate::Ends(..) | Fate::Runs => (Some(0), "will run as a "),
        };
        if output.status.code() != expected.0 || !text.contains(expected.1) {
            others.push(format!("{}: wanted {expected:?}, got {}: {text}", case.name, output.status));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}
