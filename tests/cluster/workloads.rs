//! The prebuilt modules are what their sources build to.

use std::process::Command;

use crate::harness::{both, missing, repository};

#[test]
fn each_prebuilt_module_is_what_its_source_builds_to() {
    let cargo = std::env::var("CARGO_WASM").unwrap_or_else(|_| "cargo".to_owned());
    if !can_build(&cargo) {
        return missing_toolchain();
    }
    let out = tempfile::tempdir().expect("a directory");
    let mut script = Command::new(repository().join("workloads/build.sh"));
    script.arg(out.path()).env("CARGO_WASM", &cargo);
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER"] {
        script.env_remove(variable);
    }
    script.env("WORKLOADS_TARGET_DIR", out.path().join("target"));
    let output = script.output().expect("the script runs");
    assert!(output.status.success(), "{}", both(&output));
    let prebuilt = repository().join("workloads/prebuilt");
    let mut compared = 0;
    for package in std::fs::read_dir(&prebuilt).expect("prebuilt modules") {
        let package = package.expect("an entry").path();
        for module in std::fs::read_dir(&package).expect("a directory") {
            let module = module.expect("an entry").path();
            let rebuilt = out.path().join(module.strip_prefix(&prebuilt).expect("below"));
            if package.ends_with("greet") && !has_the_c_compiler() {
                eprintln!("SKIPPED: {} was made by {C_COMPILER}", module.display());
                continue;
            }
            let same = std::fs::read(&module).expect("read") == std::fs::read(&rebuilt).expect("rebuilt");
            assert!(same, "{} is not what its source builds to: run workloads/build.sh", module.display());
            compared += 1;
        }
    }
    assert_eq!(compared, if has_the_c_compiler() { 19 } else { 18 });
}

/// What made the modules that are C.
const C_COMPILER: &str = "Debian clang version 14.0.6";

fn has_the_c_compiler() -> bool {
    let version = Command::new("clang").arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().next() == Some(C_COMPILER))
}

/// Whether this cargo has the toolchain that made the checked-in files: other versions of the compiler
/// make other bytes.
fn can_build(cargo: &str) -> bool {
    let recorded = std::fs::read_to_string(repository().join("workloads/prebuilt.toolchain")).unwrap_or_default();
    let mut words = cargo.split_whitespace();
    let Some(program) = words.next() else { return false };
    let version = Command::new(program).args(words).arg("--version").output();
    version.is_ok_and(|output| {
        output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == recorded.trim()
    })
}

/// The toolchain is not one that every machine can have, so that its absence is said but never fails.
fn missing_toolchain() {
    if std::env::var_os("CARGO_WASM").is_some() {
        missing("the toolchain that workloads/prebuilt.toolchain names");
    } else {
        eprintln!("SKIPPED: the toolchain that workloads/prebuilt.toolchain names is not here (CARGO_WASM)");
    }
}
