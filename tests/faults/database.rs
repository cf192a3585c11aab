//! Databases that are there and say no: what is in memory goes out, the node tries again without haste, and goes on by itself.

use std::thread;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};

use crate::rig::{LAYOUTS, Layout, Outcome, Run, fill, start};
use crate::support::checker::{Checker, ids_in};
use crate::support::database::{Database, Flavor};
use crate::support::http::{get, load};
use crate::support::server::{Server, eventually};
use crate::support::sql;

/// Less than this share of a core, while nobody asks for ids and leasing fails.
const MOST_CPU: f64 = 0.05;

/// The account of the node: no more than it needs, for root may do what others may not.
pub const ACCOUNT: &str = "CREATE USER 'ids'@'%'; GRANT ALL ON sequence.* TO 'ids'@'%'";

/// Connections that a test holds, with what is locked on them.
pub struct Holder {
    runtime: tokio::runtime::Runtime,
    connections: Vec<Conn>,
}

impl Holder {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, connections: Vec::new() }
    }

    /// One more, on which `statements` were run.
    pub fn hold(&mut self, database: &Database, statements: &str) -> mysql_async::Result<()> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(database.port())
            .prefer_socket(false)
            .user(Some("ids"))
            .db_name(Some("sequence"));
        let connection = self.runtime.block_on(async {
            let mut connection = Conn::new(options).await?;
            connection.query_drop(statements).await?;
            Ok::<_, mysql_async::Error>(connection)
        })?;
        self.connections.push(connection);
        Ok(())
    }

    /// Ends the node's connections, and no other.
    fn end_the_others(&mut self) {
        let own: Vec<u32> = self.connections.iter().map(Conn::id).collect();
        // Asked on one that is there, for root may get none either. It sees those of its own account.
        let connection = self.connections.first_mut().expect("one is held");
        let all = connection.query::<u32, _>("SELECT id FROM information_schema.processlist");
        for id in self.runtime.block_on(all).expect("the connections") {
            if !own.contains(&id) {
                // It may have ended by itself.
                let _ = self.runtime.block_on(connection.query_drop(format!("KILL {id}")));
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        for connection in self.connections.drain(..) {
            // Best effort: the server ends what was closed.
            let _ = self.runtime.block_on(connection.disconnect());
        }
    }
}

/// Each make and layout in full; in a short run each once.
fn places(run: &Run) -> Vec<(Flavor, Layout)> {
    let flavors = [Flavor::MariaDb, Flavor::MySql9];
    if run.is_full {
        flavors.into_iter().flat_map(|flavor| LAYOUTS.map(|layout| (flavor, layout))).collect()
    } else {
        flavors.into_iter().zip(LAYOUTS).collect()
    }
}

/// A node whose runway the loads here can't use up.
fn node(run: &Run, database: &Database, layout: Layout) -> Server {
    sql(database, ACCOUNT);
    let setup = run
        .node_on(database, layout)
        .env("SEQSVR_MYSQL__USER", "ids")
        .env("SEQSVR_REFILL__MAX_BLOCK", "100000")
        .env("SEQSVR_REFILL__RUNWAY", "10m");
    start(&setup)
}

/// Waits for the runway, and takes so much of it that the next look leases.
fn use_up(server: &Server, all: &mut Checker) {
    all.merge(fill(server, 80_000.0));
    take(server, all);
}

fn take(server: &Server, all: &mut Checker) {
    let response = get(server.port(), "/new?count=40000&ranges");
    match ids_in(response.body.as_bytes(), true) {
        ids if response.status == 200 && ids.len() == 40_000 => all.add(ids),
        _ => all.error(format!("{response:?}")),
    }
}

/// Nobody asks for a while, and the node must not be busy.
fn rest(run: &Run, server: &Server, all: &mut Checker) {
    let (time, before) = (run.seconds(5, 2), server.cpu());
    thread::sleep(time);
    let share = server.cpu().saturating_sub(before).as_secs_f64() / time.as_secs_f64();
    if share > MOST_CPU {
        all.error(format!("{:.0} % of a core while nobody asks: {}", share * 100.0, server.log()));
    }
}

fn leases(server: &Server) -> f64 {
    server.metric("seqsvr_leases_total{outcome=\"ok\"")
}

/// Brings a fault about with `begin`, and ends it with `end`. That it was there is seen by a new line of the log with the
/// error's `code`.
fn through<T>(
    run: &Run,
    code: &str,
    begin: impl Fn(&Database, Flavor, Layout) -> T,
    end: impl Fn(&Database, Flavor, Layout, T),
) -> Outcome {
    let mut outcome = Outcome::default();
    for (flavor, layout) in places(run) {
        let database = Database::start(flavor);
        let server = node(run, &database, layout);
        let mut all = Checker::default();
        for _ in 0..run.rounds(2, 1) {
            outcome.rounds += 1;
            use_up(&server, &mut all);
            all.merge(fill(&server, 80_000.0));
            let told = || server.log().matches(code).count();
            let before = told();
            let fault = begin(&database, flavor, layout);
            take(&server, &mut all);
            eventually(&format!("{flavor:?}, {layout:?}: it says {code}"), || (told() > before).then_some(()));
            rest(run, &server, &mut all);
            all.merge(load(&[server.port()], 8, 2_000));
            let failed = leases(&server);
            end(&database, flavor, layout, fault);
            eventually(&format!("{flavor:?}, {layout:?}: it leases again"), || {
                (leases(&server) > failed).then_some(())
            });
            all.merge(load(&[server.port()], 8, 2_000));
        }
        outcome.take_in(all);
    }
    outcome
}

/// The database is set to read-only, as a demoted writer is.
pub fn a_database_that_may_not_write(run: &Run) -> Outcome {
    let set = |database: &Database, flavor, value| match flavor {
        Flavor::MariaDb => sql(database, &format!("SET GLOBAL read_only = {value}")),
        // It sets the other with it, but does not take it back.
        Flavor::MySql9 => {
            sql(database, &format!("SET GLOBAL super_read_only = {value}; SET GLOBAL read_only = {value}"))
        }
    };
    let begin = |database: &Database, flavor, _| drop(set(database, flavor, 1));
    through(run, "error 1290", begin, |database, flavor, _, ()| drop(set(database, flavor, 0)))
}

/// Others have all connections.
pub fn no_connection_left(run: &Run) -> Outcome {
    let begin = |database: &Database, _, _| {
        sql(database, "SET GLOBAL max_connections = 10");
        let mut holder = Holder::new();
        for _ in 0..2 {
            eventually("all are taken", || holder.hold(database, "DO 1").is_err().then_some(()));
            // Where the node's own was, another one's is next.
            holder.end_the_others();
        }
        eventually("all are taken", || holder.hold(database, "DO 1").is_err().then_some(()));
        holder
    };
    through(run, "error 1040", begin, |database, _, _, holder| {
        drop(holder);
        sql(database, "SET GLOBAL max_connections = 151");
    })
}

/// Somebody holds a lock on what is leased from.
pub fn a_lock_that_is_held(run: &Run) -> Outcome {
    let begin = |database: &Database, _, layout| {
        let mut holder = Holder::new();
        let lock = match layout {
            Layout::Ticket => "LOCK TABLES generator_table WRITE",
            Layout::Counter => "BEGIN; SELECT next_id FROM seqsvr_sequence FOR UPDATE",
        };
        holder.hold(database, lock).expect("a lock");
        holder
    };
    through(run, "error 1205", begin, |_, _, _, holder| drop(holder))
}

/// Each lease is the one that a deadlock costs. A trigger says so: leases alone don't deadlock.
pub fn deadlocks(run: &Run) -> Outcome {
    let begin = |database: &Database, _, layout| {
        let on = match layout {
            Layout::Ticket => "BEFORE INSERT ON generator_table",
            Layout::Counter => "BEFORE UPDATE ON seqsvr_sequence",
        };
        sql(
            database,
            &format!(
                "USE sequence; CREATE TRIGGER deadlock {on} FOR EACH ROW SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, \
                 MESSAGE_TEXT = 'Deadlock found'"
            ),
        );
    };
    through(run, "error 1213", begin, |database, _, _, ()| drop(sql(database, "DROP TRIGGER sequence.deadlock")))
}

/// The database closes connections that are idle for two seconds.
pub fn idle_connections_are_closed(run: &Run) -> Outcome {
    let (mut outcome, mut all_closed) = (Outcome::default(), 0);
    for (flavor, layout) in places(run) {
        let database = Database::start(flavor);
        sql(&database, "SET GLOBAL wait_timeout = 2");
        let server = node(run, &database, layout);
        let mut all = Checker::default();
        let closed = || -> u64 {
            let status = sql(&database, "SHOW GLOBAL STATUS LIKE 'Aborted_clients'");
            status[0][1].parse().expect("a number")
        };
        for _ in 0..run.rounds(2, 1) {
            outcome.rounds += 1;
            use_up(&server, &mut all);
            // Long enough, unless the node looks for news just then.
            thread::sleep(Duration::from_secs(3));
            rest(run, &server, &mut all);
            let leased = leases(&server);
            take(&server, &mut all);
            eventually(&format!("{flavor:?}, {layout:?}: it leases"), || (leases(&server) > leased).then_some(()));
        }
        all_closed += closed();
        outcome.take_in(all);
    }
    assert!(all_closed > 0, "idle connections are closed");
    outcome
}
