//! What the scenarios stand on: databases, configurations, and many sequences.

use std::ops::Add;
use std::time::Duration;

use crate::support::database::{Database, Flavor};
pub use crate::support::figures::Random;
use crate::support::server::{SEED_CONFIG, Server, Setup};
use crate::support::{sql, sql_value};

/// The declared step of all sequences here.
pub const STEP: u64 = 100;

/// Where `default` is counted.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// In `seqsvr_sequence`.
    Counter,
    /// In `generator_table`.
    Ticket,
}

/// Whether the long phases are to be short.
pub fn is_quick() -> bool {
    std::env::var_os("SEQSVR_ENDURANCE_QUICK").is_some_and(|value| !value.is_empty())
}

/// So many seconds, or in a quick run so many.
pub fn seconds(full: u64, quick: u64) -> Duration {
    Duration::from_secs(if is_quick() { quick } else { full })
}

/// So many, or in a quick run so many.
pub fn times(full: usize, quick: usize) -> usize {
    if is_quick() { quick } else { full }
}

pub fn mariadb() -> Database {
    Database::start(Flavor::MariaDb)
}

/// A node on the database at `port`, be that its own or a proxy's.
pub fn node(port: u16, layout: Layout) -> Setup {
    let sequences = match layout {
        Layout::Counter => format!("sequences: {{default: {{step: {STEP}}}}}\n"),
        Layout::Ticket => String::new(),
    };
    Setup::new(&format!("{SEED_CONFIG}{sequences}")).env("SEQSVR_MYSQL__HOST", &format!("tcp(127.0.0.1:{port})"))
}

/// Starts it and waits until it has ids.
pub fn start(setup: &Setup) -> Server {
    let server = setup.start();
    server.wait_until_ready();
    server
}

/// `seqsvr sequence create NAME --step 100`
///
/// # Panics
/// If it fails.
pub fn create(setup: &Setup, name: &str) {
    let (code, output) = setup.run(&["sequence", "create", name, "--step", &STEP.to_string()]);
    assert_eq!(code, 0, "sequence create {name}: {output}");
}

/// Names of sequences, and the paths that ask for them.
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

pub fn path(name: impl std::fmt::Display) -> String {
    format!("/new/{name}")
}

/// Makes the sequences `names(prefix, count)` on `MariaDB`: the first by the command, the others as copies of its row.
pub fn create_many(database: &Database, setup: &Setup, prefix: &str, count: usize) {
    create(setup, &format!("{prefix}0"));
    let columns = sql(
        database,
        "SELECT column_name FROM information_schema.columns \
         WHERE table_schema = 'sequence' AND table_name = 'seqsvr_sequence'",
    );
    let columns: Vec<&str> = columns.iter().map(|row| row[0].as_str()).collect();
    let name = format!("CONCAT('{prefix}', seq)");
    sql(
        database,
        &format!(
            "INSERT INTO sequence.seqsvr_sequence ({}) SELECT {} \
             FROM sequence.seqsvr_sequence, sequence.seq_1_to_{} WHERE name = '{prefix}0'",
            columns.join(", "),
            values(&columns, &name),
            count - 1,
        ),
    );
    let made = sql_value(
        database,
        &format!("SELECT COUNT(*) FROM sequence.seqsvr_sequence WHERE name REGEXP '^{prefix}[0-9]+$'"),
    );
    assert_eq!(made, count.to_string());
}

/// The same in the embedded store of a node that does not run.
pub fn create_many_embedded(setup: &Setup, prefix: &str, count: usize) {
    create(setup, &format!("{prefix}0"));
    let connection = rusqlite::Connection::open(setup.folder().join("data/seqsvr.db")).expect("the store is there");
    let mut columns =
        connection.prepare("SELECT name FROM pragma_table_info('seqsvr_sequence')").expect("it has a schema");
    let columns: Vec<String> =
        columns.query_map([], |row| row.get(0)).and_then(Iterator::collect).expect("columns have names");
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let statement = format!(
        "WITH RECURSIVE numbers(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < {}) \
         INSERT INTO seqsvr_sequence ({}) SELECT {} FROM seqsvr_sequence, numbers WHERE name = '{prefix}0'",
        count - 1,
        columns.join(", "),
        values(&columns, &format!("'{prefix}' || seq")),
    );
    let made = connection.execute(&statement, []).expect("the rows are copied");
    assert_eq!(made, count - 1);
}

/// What a copy of a row has in each column: all as it was but the name.
fn values(columns: &[&str], name: &str) -> String {
    columns.iter().map(|column| if *column == "name" { name } else { column }).collect::<Vec<_>>().join(", ")
}

/// How long what is held lasts, as the server says.
pub fn runway(server: &Server) -> f64 {
    server.metric("seqsvr_runway_seconds{sequence=\"default\"")
}

/// The sum over all series that begin so; 0 if there are none.
pub fn metric_sum(metrics: &str, beginning: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(beginning));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::add)
}

/// `draws` numbers below `count`, of which number k comes in proportion to 1 / (k + 1): Zipf's distribution, s = 1.
pub fn zipf(random: &mut Random, count: u32, draws: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (0..count)
        .map(|number| {
            sum += 1.0 / f64::from(number + 1);
            sum
        })
        .collect();
    let draw = |_| {
        let point = random.share() * sum;
        u32::try_from(sums.partition_point(|&sum| sum <= point)).expect("less than count").min(count - 1)
    };
    (0..draws).map(draw).collect()
}
