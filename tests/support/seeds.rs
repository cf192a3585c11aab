//! The inputs that fuzzing begins with, and those that it once broke something with: fuzz/seeds.

use std::fs;
use std::path::Path;

/// Checks each seed of the fuzz target `target`.
pub fn each(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() > 3, "there are none: {seeds:?}");
    for seed in seeds {
        println!("{}", seed.display());
        check(&fs::read(&seed).unwrap());
    }
}
