//! Sets the private cfg `seqsvr_loom` for `make test-loom`.
//!
//! An environment variable rather than RUSTFLAGS, so that only this crate is compiled anew and not all
//! of its dependencies.

fn main() {
    println!("cargo::rerun-if-env-changed=SEQSVR_LOOM");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("SEQSVR_LOOM").is_some() {
        println!("cargo::rustc-cfg=seqsvr_loom");
    }
}
