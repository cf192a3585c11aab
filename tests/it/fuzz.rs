//! The inputs that fuzzing begins with, and those that it once broke something with (fuzz/seeds), against what `make fuzz`
//! holds for every input.

use crate::support::{database, liar, seeds};

#[path = "../../fuzz/properties/config.rs"]
mod config;
#[path = "../../fuzz/properties/node.rs"]
mod node;
#[path = "../../fuzz/properties/query.rs"]
mod query;
#[path = "../../fuzz/properties/server.rs"]
mod server;

#[test]
fn configurations() {
    seeds::each("config", config::check);
}

#[test]
fn marks() {
    seeds::each("node", node::check);
}

#[test]
fn queries() {
    seeds::each("query", query::check);
}

#[test]
fn lies_of_a_server() {
    seeds::each("server", server::check);
}
