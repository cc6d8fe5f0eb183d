//! `kubectl exec -it`, `attach` and `run -it` of Wasm pods, by a kubectl on a terminal.

use std::path::Path;
use std::process::Command;

use crate::clients::python;
use crate::harness::{Cluster, kubectls, repository};
use crate::streams::{speakers, text, with_pods};

/// kubectl on a terminal of 91 columns and 17 rows; its exit code and all that was shown.
fn on_terminal(cluster: &Cluster, kubectl: &Path, steps: &[&str], args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(python("pty").expect("a python"));
    command.arg(repository().join("tests/clients/terminal.py")).arg("91x17").args(steps).arg("--");
    command.arg(kubectl).arg("--kubeconfig").arg(cluster.kubeconfig()).args(args);
    command.env("HOME", cluster.dir.path()).env_remove("KUBECONFIG").env("TERM", "xterm");
    let output = command.output().expect("python runs");
    (output.status.code(), text(&output.stdout))
}

#[test]
fn a_terminal_shows_keys_and_lets_lines_be_corrected() {
    if kubectls().is_empty() || python("pty").is_none() {
        return;
    }
    let (cluster, _images) = with_pods();
    let speakers = speakers();
    for kubectl in &speakers.all {
        let terminal = |steps: &[&str], args: &[&str]| on_terminal(&cluster, kubectl, steps, args);
        // The program says of its input what it reads; the end of input is its end.
        let copy = ["exec", "-it", "tool", "--", "tool", "copy"];
        let (code, shown) = terminal(&["", "helpo\x7f\x7flo\r", "hello\r\n", "\x04"], &copy);
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("helpo\x08 \x08\x08 \x08lo\r\nhello\r\n"), "{shown:?}");
        let (code, shown) = terminal(&["", "one\r", "one\r\none\r\n", "two\x03"], &copy);
        assert!(code == Some(130) && shown.contains("^C"), "{code:?} {shown:?}");
        // A tool of the host's, and what it sees of the terminal.
        let (code, shown) = terminal(&[], &["exec", "-it", "tool", "--", "env"]);
        assert_eq!(code, Some(0), "{shown}");
        for line in ["COLUMNS=91\r\n", "LINES=17\r\n", "TERM=xterm\r\n"] {
            assert!(shown.contains(line), "{shown:?}");
        }
        // Who reads nothing can still be left.
        let wait = ["exec", "-it", "tool", "--", "sleep", "1000"];
        let (code, shown) = terminal(&["", "unread\r", "unread", "\x03"], &wait);
        assert_eq!(code, Some(130), "{shown:?}");
    }
    for (number, kubectl) in speakers.all.iter().enumerate() {
        let run = ["run", &format!("talk-{number}"), "--image=tool:1", "--restart=Never", "-it", "--rm", "--", "copy"];
        let (code, shown) = on_terminal(&cluster, kubectl, &["", "late\x08r\r", "latr\r\n", "\x04"], &run);
        assert!(code == Some(0) && shown.contains("late\x08 \x08r\r\nlatr\r\n"), "{code:?} {shown:?}");
    }
}
