//! Replays recorded conversations with a real API server against ours.
//!
//! `tests/oracle/` holds what kube-apiserver v1.36.2 answered. Every step must get the same answer, but
//! for those that `tests/oracle/differences.txt` lists, each with its reason on a line above it. A line is
//! a step, which must differ (one that gives the recorded answer is to be taken off the list), or a
//! scenario of what is not served at all, which is not replayed.

use std::collections::BTreeSet;
use std::process::{Child, Command};

use crate::harness::{PATIENCE, both, coracle, eventually, free_address, missing, repository};

/// A control plane alone: the recorded server had no nodes and no scheduler either.
struct Server {
    process: Child,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = coracle();
        command.args(["server", "--api-addr", &free_address().to_string(), "--data-dir"]).arg(dir.path().join("data"));
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let server = Self { process: command.spawn().expect("the server starts"), dir };
        eventually("the server to be ready", PATIENCE, || {
            let mut get = coracle();
            get.args(["get", "namespace", "default", "--kubeconfig"]).arg(server.dir.path().join("data/kubeconfig"));
            let output = get.output().expect("coracle runs");
            output.status.success().then_some(()).ok_or_else(|| both(&output))
        });
        // The recorded server came without classes.
        for (kind, class) in [("ingressclass", "coracle"), ("storageclass", "local")] {
            let mut delete = coracle();
            delete.args(["delete", kind, class, "--kubeconfig"]).arg(server.dir.path().join("data/kubeconfig"));
            let output = delete.output().expect("coracle runs");
            assert!(output.status.success(), "{}", both(&output));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Python that has PyYAML: `CORACLE_PYTHON`, or the one on the PATH.
fn python() -> Option<String> {
    let python = std::env::var("CORACLE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let works = Command::new(&python).args(["-c", "import yaml"]).output().is_ok_and(|o| o.status.success());
    works.then_some(python)
}

/// The steps and whole scenarios that differ.
#[derive(Default)]
struct Differences {
    steps: BTreeSet<String>,
    scenarios: BTreeSet<String>,
}

fn differences() -> Differences {
    let file = repository().join("tests/oracle/differences.txt");
    let text = std::fs::read_to_string(&file).expect("the list of differences");
    let mut listed = Differences::default();
    // Not trimmed: a name may end with a space.
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let kind = if line.contains(" #") { &mut listed.steps } else { &mut listed.scenarios };
        assert!(kind.insert(line.to_owned()), "{line} is listed twice");
    }
    listed
}

#[test]
fn the_recorded_server_and_ours_give_the_same_answers() {
    let Some(python) = python() else { return missing("python3 with PyYAML") };
    let server = Server::start();
    let oracle = repository().join("tests/oracle");
    let listed = differences();
    let output = Command::new(python)
        .arg(oracle.join("replay.py"))
        .arg("--kubeconfig")
        .arg(server.dir.path().join("data/kubeconfig"))
        .arg("--compare")
        .arg(oracle.join("golden"))
        .args(["--jobs", "4", "--verbose"])
        .args(listed.scenarios.iter().flat_map(|scenario| ["--skip", scenario]))
        .output()
        .expect("the replay runs");
    let text = both(&output);
    let mut surprises = String::new();
    let mut passed = 0;
    let mut failing = false;
    for line in text.lines() {
        if let Some(label) = line.strip_prefix("ok   ") {
            failing = false;
            passed += 1;
            if listed.steps.contains(label) {
                surprises.push_str(&format!("{label} passes: take it off differences.txt\n"));
            }
        } else if let Some(label) = line.strip_prefix("FAIL ") {
            failing = !listed.steps.contains(label);
            if failing {
                surprises.push_str(&format!("{label} differs:\n"));
            }
        } else if failing {
            surprises.push_str(&format!("{line}\n"));
        }
    }
    let (steps, scenarios) = (listed.steps.len(), listed.scenarios.len());
    println!("{passed} steps gave the recorded answer; {steps} are listed as different, and {scenarios} scenarios");
    assert!(surprises.is_empty(), "{surprises}");
    assert!(passed > 700, "only {passed} steps passed; did the replay run?\n{text}");
}
