#![no_main]

#[path = "../../tests/support"]
mod support {
    pub mod database;
    pub mod liar;
    mod process;
}

#[path = "../properties/server.rs"]
mod server;
use support::{database, liar};

libfuzzer_sys::fuzz_target!(|input: &[u8]| server::check(input));
