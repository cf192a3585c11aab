#![no_main]

#[path = "../properties/fast_path.rs"]
mod fast_path;
#[path = "../../tests/support/filled.rs"]
mod filled;
#[allow(dead_code)] // its connection is for measuring
#[path = "../../tests/support/pipe.rs"]
mod pipe;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fast_path::check(input));
