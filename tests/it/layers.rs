//! The layers of ARCHITECTURE.md: a module uses only those below it.

use std::fs;
use std::path::Path;

/// From the bottom up; modules of one layer may use each other.
const LAYERS: [&[&str]; 10] = [
    &["faults"],
    &["sync"],
    &["segment", "buffer"],
    &["name"],
    &["config", "metrics", "node"],
    &["store"],
    &["sequences", "sequence", "refill"],
    &["http"],
    &["app", "doctor"],
    &["cli"],
];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| panic!("no layer has {module}"))
}

/// The modules that a source names by `crate::`.
fn used(source: &str) -> Vec<&str> {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.match_indices("crate::").map(move |(at, found)| &line[at + found.len()..]))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
        .collect()
}

fn violations(folder: &Path, module: Option<&str>, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = module.unwrap_or(&stem);
        if path.is_dir() {
            violations(&path, Some(module), found);
        } else if !["main", "lib"].contains(&module) {
            let source = fs::read_to_string(&path).unwrap();
            for other in used(&source).into_iter().filter(|other| layer(other) > layer(module)) {
                found.push(format!("{} uses {other}, which is above it", path.display()));
            }
        }
    }
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut found = Vec::new();
    violations(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_allocator_knows_no_runtime_no_log_and_no_metrics() {
    for file in ["segment.rs", "buffer.rs"] {
        let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap();
        for foreign in ["tokio", "tracing", "prometheus", "std::fs", "std::net", "actix"] {
            assert!(!source.contains(&format!("{foreign}::")), "{file} uses {foreign}");
        }
    }
}

#[test]
fn an_import_that_points_up_is_found() {
    assert_eq!(used("use crate::http::answer;\n// crate::app\nlet x = crate::store::select();"), ["http", "store"]);
    assert!(layer("http") > layer("store"));
}
