#![no_main]

#[path = "../properties/query.rs"]
mod query;

libfuzzer_sys::fuzz_target!(|input: &[u8]| query::check(input));
