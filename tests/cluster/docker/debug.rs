//! `kubectl debug` of a pod of ordinary images.

use std::process::Command;

use serde_json::{Value, json};

use super::{BUSYBOX, Engine, pod, ready};
use crate::harness::{Cluster, PATIENCE, both, eventually, kubectls, run_with_input};

/// The status of a container that was added, once it is what is waited for.
fn added(cluster: &Cluster, pod: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually("the added container's state", PATIENCE, || {
        let pod = cluster.get(&["pod", pod]);
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.into_iter().find(|status| status["name"] == name).unwrap_or_default();
        if is(&found) { Ok(found) } else { Err(pod["status"].clone()) }
    })
}

#[test]
fn a_container_that_is_added_sees_its_pods_network_and_its_targets_processes() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let serve = "mkdir -p /tmp/www; echo within > /tmp/www/page; exec httpd -f -p 127.0.0.1:8080 -h /tmp/www";
    cluster.apply(&pod("web", serve, json!({ "volumes": [{ "name": "data", "emptyDir": {} }] }), json!({})));
    ready(&cluster, "web");
    for (number, kubectl) in kubectls().iter().enumerate() {
        let image = format!("--image={BUSYBOX}");
        let debug = |name: &str, more: &[&str], input: Option<&str>| {
            let name = format!("--container={name}-{number}");
            let args: Vec<&str> = ["debug", "web", &image, &name].iter().chain(more).copied().collect();
            cluster.with_kubectl(kubectl, &args, input)
        };
        // One that looks and ends; it is not started again, and its log stays.
        let script = "wget -qO- http://127.0.0.1:8080/page; cat /proc/1/cmdline | tr '\\0' ' '; hostname; exit 3";
        let looked = debug("look", &["--target=main", "--", "/bin/sh", "-c", script], None);
        assert!(looked.status.success(), "{}", both(&looked));
        let name = format!("look-{number}");
        let status = added(&cluster, "web", &name, |status| status["state"]["terminated"].is_object());
        assert_eq!((&status["state"]["terminated"]["exitCode"], &status["restartCount"]), (&json!(3), &json!(0)));
        assert_eq!((&status["ready"], status.get("started")), (&json!(false), None), "{status}");
        assert!(status["containerID"].as_str().is_some_and(|id| id.starts_with("docker://")), "{status}");
        let heard = cluster.kubectl(&["logs", "web", "-c", &name]);
        assert_eq!(heard, "within\nhttpd -f -p 127.0.0.1:8080 -h /tmp/www web\n");

        // One that is talked to; without a target, its own process is the first that it sees.
        let typed = "echo I am $$\nexit 0\n";
        let talked = debug("talk", &["-i", "--", "/bin/sh"], Some(typed));
        assert!(both(&talked).contains("I am 1"), "{}", both(&talked));
        added(&cluster, "web", &format!("talk-{number}"), |status| status["state"]["terminated"]["exitCode"] == 0);

        // One that stays is entered like any other container.
        let stays = debug("stays", &["--target=main", "--", "/bin/sleep", "1000"], None);
        assert!(stays.status.success(), "{}", both(&stays));
        let name = format!("stays-{number}");
        added(&cluster, "web", &name, |status| status["state"]["running"].is_object());
        let inside = cluster.kubectl(&["exec", "web", "-c", &name, "--", "/bin/cat", "/proc/1/comm"]);
        assert_eq!(inside, "httpd\n");

        // At a terminal, as people do it.
        let words = format!(
            "{} --kubeconfig {} debug web -it {image} --container=at-{number} --target=main -- /bin/sh",
            kubectl.display(),
            cluster.kubeconfig().display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &words, "/dev/null"]);
        let output = run_with_input(command, Some("test -t 0 && echo a ter''minal; exit\n"));
        assert!(both(&output).contains("a terminal"), "{}", both(&output));
        added(&cluster, "web", &format!("at-{number}"), |status| status["state"]["terminated"].is_object());
    }
    // The pod is as it was.
    let web = ready(&cluster, "web");
    assert_eq!(web["status"]["containerStatuses"][0]["restartCount"], 0);
    let events = super::events(&cluster, "web");
    assert!(events.contains("Container started"), "{events}");

    // Who names nobody is told so; containers are added and never taken away.
    let path = "/api/v1/namespaces/default/pods/web/ephemeralcontainers";
    let replace = |pod: &Value| {
        let kubectl = kubectls().remove(0);
        both(&cluster.with_kubectl(&kubectl, &["replace", "--raw", path, "-f", "-"], Some(&pod.to_string())))
    };
    let mut changed = cluster.get(&["pod", "web"]);
    changed["spec"]["ephemeralContainers"].as_array_mut().expect("a list").push(json!({
        "name": "lost", "image": BUSYBOX, "targetContainerName": "nobody" }));
    let said = replace(&changed);
    assert!(said.contains("targetContainerName: Not found: \"nobody\""), "{said}");
    changed["spec"].as_object_mut().expect("a spec").remove("ephemeralContainers");
    let said = replace(&changed);
    assert!(said.contains("existing ephemeral containers \"look-0\" may not be removed"), "{said}");

    // What was added goes with the pod.
    cluster.kubectl(&["delete", "pod", "web"]);
    eventually("its containers to go", PATIENCE, || {
        let left = engine.containers();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
