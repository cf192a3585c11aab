//! What the tests stand on: private servers, a proxy before them, an HTTP client, and the checker of ids.

pub mod balancer;
pub mod checker;
pub mod database;
pub mod figures;
pub mod fuse;
pub mod galera;
pub mod group;
pub mod http;
pub mod liar;
mod process;
pub mod prometheus;
pub mod proxy;
pub mod replica;
pub mod scripted;
pub mod seeds;
pub mod server;
pub mod splitter;

use database::Database;

/// Runs SQL as root; the rows as texts.
pub fn sql(database: &Database, sql: &str) -> Vec<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(database.query(sql))
}

/// Like [`sql`], of a server that may not answer.
pub fn try_sql(database: &Database, sql: &str) -> Option<Vec<Vec<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(database.try_query(sql)).ok()
}

/// The first column of the first row.
pub fn sql_value(database: &Database, query: &str) -> String {
    sql(database, query)[0][0].clone()
}
