//! `kubectl debug` of a pod of modules.

use std::process::{Command, Stdio};

use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, both, eventually, kubectls};
use crate::streams;

/// The status of a container that was added, once it is what is waited for.
fn added(cluster: &Cluster, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually("the added container's state", PATIENCE, || {
        let pod = cluster.get(&["pod", "web"]);
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.into_iter().find(|status| status["name"] == name).unwrap_or_default();
        if is(&found) { Ok(found) } else { Err(pod["status"].clone()) }
    })
}

#[test]
fn a_module_is_added_to_a_running_pod() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = streams::with_pods();
    for (number, kubectl) in kubectls().iter().enumerate() {
        let debug = |name: &str, more: &[&str]| {
            let name = format!("--container={name}-{number}");
            let args: Vec<&str> = ["debug", "web", &name].iter().chain(more).copied().collect();
            let output = cluster.with_kubectl(kubectl, &args, None);
            assert!(output.status.success(), "{}", both(&output));
        };
        // It runs once, whatever comes of it.
        debug("fails", &["--image=tool:1", "--", "tool", "x"]);
        let name = format!("fails-{number}");
        let status = added(&cluster, &name, |status| status["state"]["terminated"].is_object());
        assert_eq!((&status["state"]["terminated"]["exitCode"], &status["restartCount"]), (&json!(3), &json!(0)));
        assert_eq!(cluster.kubectl(&["logs", "web", "-c", &name]), "oops\n");

        // It is typed to.
        let mut attached = Command::new(kubectl);
        attached.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["debug", "web", "--image=tool:1", "-i"]);
        attached.args([&format!("--container=copies-{number}"), "--", "tool", "copy"]);
        let mut attached = attached.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl starts");
        attached.stdin.as_mut().expect("its input").write_all(b"one\ntwo\n").expect("written");
        let name = format!("copies-{number}");
        eventually("what was typed to be said", PATIENCE, || {
            let heard = both(&cluster.try_kubectl(&["logs", "web", "-c", &name]));
            if heard == "one\ntwo\n" { Ok(()) } else { Err(heard) }
        });
        let _ = attached.kill();
        let _ = attached.wait();
        // While it runs it is entered like any other.
        let listed = cluster.try_kubectl(&["exec", "web", "-c", &name, "--", "echo", "within"]);
        assert_eq!(both(&listed), "within\n");

        // What cannot be shared is said.
        debug("sees", &["--image=tool:1", "--target=main", "--", "tool", "x"]);
        let status = added(&cluster, &format!("sees-{number}"), |status| {
            status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        });
        let words = status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(words.contains("no processes") && words.contains("without --target"), "{words}");
        debug("serves", &["--image=hello:1"]);
        let status = added(&cluster, &format!("serves-{number}"), |status| status["state"]["terminated"].is_object());
        let ended = &status["state"]["terminated"];
        assert!(ended["message"].as_str().unwrap_or_default().contains("serves HTTP"), "{status}");
    }
    // The pod serves as before, and starts nothing again that was added when its node comes back.
    let before = cluster.get(&["pod", "web"])["status"]["ephemeralContainerStatuses"].clone();
    cluster.kill("node-1");
    eventually("the added containers to have ended", PATIENCE, || {
        let pod = cluster.get(&["pod", "web"]);
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
        let running = statuses.iter().any(|status| status["state"]["running"].is_object());
        let again = statuses.iter().any(|status| status["restartCount"] != 0);
        assert!(!again && statuses.len() == before.as_array().map_or(0, Vec::len), "{statuses:?}");
        if running { Err(statuses) } else { Ok(()) }
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
}
