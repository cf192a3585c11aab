//! Tells the crate which commit it is of, and sets the private cfg `seqsvr_loom` for `make test-loom`.
//!
//! An environment variable rather than RUSTFLAGS, so that only this crate is compiled anew and not all
//! of its dependencies.

use std::process::Command;

/// Where there is no git, as in an image's build: set by whoever builds it.
const COMMIT: &str = "BUILD_COMMIT";
const DATE: &str = "BUILD_DATE";

fn main() {
    println!("cargo::rerun-if-env-changed=SEQSVR_LOOM");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("SEQSVR_LOOM").is_some() {
        println!("cargo::rustc-cfg=seqsvr_loom");
    }
    for (variable, format) in [(COMMIT, "%h"), (DATE, "%cs")] {
        println!("cargo::rerun-if-env-changed={variable}");
        let given = std::env::var(variable).ok().filter(|value| !value.is_empty());
        let found = given.or_else(|| git(&["log", "-1", &format!("--format={format}")]));
        println!("cargo::rustc-env={variable}={}", found.as_deref().unwrap_or("unknown"));
    }
    // It changes with each commit. A file that is not there would make each build a new one.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| std::path::Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// What git says, if this is the top of a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let run = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // A package that was unpacked inside of another project's checkout is not of its commit.
    run(&["rev-parse", "--show-prefix"]).is_none().then(|| run(arguments)).flatten()
}
