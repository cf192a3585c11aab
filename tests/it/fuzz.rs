//! The inputs that fuzzing begins with, and those that it once broke something with (fuzz/seeds), against what `make fuzz`
//! holds for every input.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/properties/config.rs"]
mod config;
#[path = "../../fuzz/properties/node.rs"]
mod node;
#[path = "../../fuzz/properties/query.rs"]
mod query;

fn each_seed(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() > 3, "there are none: {seeds:?}");
    for seed in seeds {
        println!("{}", seed.display());
        check(&fs::read(&seed).unwrap());
    }
}

#[test]
fn configurations() {
    each_seed("config", config::check);
}

#[test]
fn marks() {
    each_seed("node", node::check);
}

#[test]
fn queries() {
    each_seed("query", query::check);
}
