#![no_main]

#[path = "../properties/node.rs"]
mod node;

libfuzzer_sys::fuzz_target!(|input: &[u8]| node::check(input));
