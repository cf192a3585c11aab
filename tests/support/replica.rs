//! A primary and its replica, asynchronous: what the primary commits may be lost to the replica.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use super::database::{Database, Flavor};
use super::server::eventually;
use super::sql;

const READ_ONLY: &str = "--read-only";

/// How a server logs what it commits, for its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The statement, which the replica runs again.
    Statement,
    /// The statement, or the rows where the statement may not have the same effect twice.
    Mixed,
    /// The rows that changed.
    Row,
}

impl Format {
    /// The value of `binlog_format`.
    fn value(self) -> &'static str {
        match self {
            Self::Statement => "STATEMENT",
            Self::Mixed => "MIXED",
            Self::Row => "ROW",
        }
    }
}

/// Both servers; the replica follows and is read-only until it is promoted.
pub struct Pair {
    pub primary: Database,
    pub replica: Database,
    flavor: Flavor,
}

impl Pair {
    /// Starts both, which log rows; when it returns, the replica has all that the primary has.
    pub fn start(flavor: Flavor) -> Self {
        Self::start_all(flavor, Format::Row, &[])
    }

    /// As [`Pair::start`], with another format of the log.
    pub fn start_with(flavor: Flavor, format: Format) -> Self {
        Self::start_all(flavor, format, &[])
    }

    /// As [`Pair::start`], with further arguments for both servers.
    pub fn start_with_args(flavor: Flavor, args: &[&str]) -> Self {
        Self::start_all(flavor, Format::Row, args)
    }

    fn start_all(flavor: Flavor, format: Format, args: &[&str]) -> Self {
        let format = format!("--binlog-format={}", format.value());
        let start = |id: &str| {
            // It wins over the --skip-log-bin that stands before it.
            let own = [id, "--log-bin=binlog", &format];
            Database::start_with(flavor, &[&own, args].concat())
        };
        let (primary, replica) = std::thread::scope(|scope| {
            let replica = scope.spawn(|| start("--server-id=2"));
            (start("--server-id=1"), replica.join().expect("the replica starts"))
        });
        let pair = Self { primary, replica, flavor };
        pair.follow();
        pair
    }

    /// Makes the replica, which has the data of the primary, a read-only one that follows it from now on. When it returns,
    /// it has caught up.
    fn follow(&self) {
        let port = self.primary.port();
        let (file, position) = coordinates(&self.primary, self.flavor);
        match self.flavor {
            Flavor::MariaDb => sql(
                &self.replica,
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                     MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_CONNECT_RETRY=1; \
                     SET GLOBAL read_only = 1; START SLAVE"
                ),
            ),
            Flavor::MySql9 => sql(
                &self.replica,
                &format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                     SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={position}, GET_SOURCE_PUBLIC_KEY=1, \
                     SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400; \
                     SET GLOBAL super_read_only = 1; START REPLICA"
                ),
            ),
        };
        self.wait_until_caught_up();
    }

    /// Waits until the replica has applied all that the primary has committed by now.
    pub fn wait_until_caught_up(&self) {
        // -1 is its time-out, and NULL that replication does not run (yet).
        eventually("the replica has caught up", || (!["-1", "NULL"].contains(&&*self.catch_up())).then_some(()));
    }

    /// Waits for a second; the server's answer.
    fn catch_up(&self) -> String {
        let (file, position) = coordinates(&self.primary, self.flavor);
        let wait = match self.flavor {
            Flavor::MariaDb => "MASTER_POS_WAIT",
            Flavor::MySql9 => "SOURCE_POS_WAIT",
        };
        super::sql_value(&self.replica, &format!("SELECT {wait}('{file}', {position}, 1)"))
    }

    /// The replica neither receives nor applies any more: what the primary commits from now on is lost to it.
    pub fn stop_replication(&self) {
        sql(&self.replica, &format!("STOP {}", self.replica_word()));
    }

    /// Makes the replica a server of its own that takes writes. The primary is as it was: kill it, or there are two.
    pub fn promote(&self) {
        let word = self.replica_word();
        // On MySQL this ends super_read_only too.
        sql(&self.replica, &format!("STOP {word}; RESET {word} ALL; SET GLOBAL read_only = 0"));
    }

    /// Changes the format of both servers' logs, for the connections that are made from now on.
    pub fn set_format(&self, format: Format) {
        let word = self.replica_word();
        let set = format!("SET GLOBAL binlog_format = '{}'", format.value());
        sql(&self.primary, &set);
        // The connections of replication are made again.
        sql(&self.replica, &format!("STOP {word}; {set}; START {word}"));
    }

    /// After a failover: rebuilds the old primary from a cold copy of the promoted replica. It keeps its own identity, and
    /// follows. From then on the promoted one is this pair's primary, and the old primary its replica.
    pub fn rebuild_old_primary(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.replica.copy_data_of(&mut self.primary);
        self.primary.restart();
        // At no time do both take writes.
        self.replica.add_arg(READ_ONLY);
        self.replica.restart();
        self.replica.forget_arg(READ_ONLY);
        self.follow();
    }

    /// A planned switch: the primary takes no more writes, and the replica has all of it before it is promoted.
    pub fn switch_over(&self) {
        let read_only = match self.flavor {
            Flavor::MariaDb => "read_only",
            Flavor::MySql9 => "super_read_only",
        };
        sql(&self.primary, &format!("SET GLOBAL {read_only} = 1"));
        self.wait_until_caught_up();
        self.promote();
    }

    fn replica_word(&self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => "SLAVE",
            Flavor::MySql9 => "REPLICA",
        }
    }
}

/// How far the server's binary log goes.
fn coordinates(server: &Database, flavor: Flavor) -> (String, String) {
    let status = match flavor {
        Flavor::MariaDb => "SHOW MASTER STATUS",
        Flavor::MySql9 => "SHOW BINARY LOG STATUS",
    };
    let row = sql(server, status).swap_remove(0);
    (row[0].clone(), row[1].clone())
}

#[test]
fn a_replica_follows_until_it_is_stopped_and_takes_writes_once_promoted() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let pair = Pair::start(flavor);
        let ids = |server: &Database| sql(server, "SELECT id FROM sequence.t ORDER BY id").concat();
        sql(&pair.primary, "CREATE TABLE sequence.t (id INT PRIMARY KEY); INSERT INTO sequence.t VALUES (1)");
        pair.wait_until_caught_up();
        assert_eq!(ids(&pair.replica), ["1"], "{flavor:?}");
        let is_read_only = || super::sql_value(&pair.replica, "SELECT @@read_only");
        assert_eq!(is_read_only(), "1", "{flavor:?}");

        pair.stop_replication();
        sql(&pair.primary, "INSERT INTO sequence.t VALUES (2)");
        assert_eq!(pair.catch_up(), "NULL", "{flavor:?}: it does not follow");
        pair.promote();
        assert_eq!(is_read_only(), "0", "{flavor:?}");
        sql(&pair.replica, "INSERT INTO sequence.t VALUES (3)");
        assert_eq!(ids(&pair.replica), ["1", "3"], "{flavor:?}: what was lost stays lost");
        assert_eq!(ids(&pair.primary), ["1", "2"], "{flavor:?}");
    }
}

#[test]
fn a_rebuilt_primary_keeps_its_identity_and_takes_over_again() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut pair = Pair::start_with(flavor, Format::Mixed);
        sql(&pair.primary, "CREATE TABLE sequence.t (id INT PRIMARY KEY); INSERT INTO sequence.t VALUES (1)");
        pair.wait_until_caught_up();
        pair.stop_replication();
        sql(&pair.primary, "INSERT INTO sequence.t VALUES (2)");
        let identity = match flavor {
            Flavor::MariaDb => "SELECT CONCAT(@@port, ':', @@server_id)",
            Flavor::MySql9 => "SELECT @@server_uuid",
        };
        let identities = |pair: &Pair| [&pair.primary, &pair.replica].map(|server| super::sql_value(server, identity));
        let [first, second] = identities(&pair);
        pair.primary.kill();
        pair.promote();
        pair.rebuild_old_primary();
        assert_eq!(identities(&pair), [second, first], "{flavor:?}");
        let ids = |server: &Database| sql(server, "SELECT id FROM sequence.t ORDER BY id").concat();
        let is_read_only = |server: &Database| super::sql_value(server, "SELECT @@read_only");
        assert_eq!((ids(&pair.replica), is_read_only(&pair.replica)), (vec!["1".to_owned()], "1".to_owned()));

        sql(&pair.primary, "INSERT INTO sequence.t VALUES (3)");
        pair.set_format(Format::Row);
        sql(&pair.primary, "INSERT INTO sequence.t VALUES (4)");
        pair.switch_over();
        assert_eq!(ids(&pair.replica), ["1", "3", "4"], "{flavor:?}: it has all");
        assert_eq!([&pair.primary, &pair.replica].map(is_read_only), ["1", "0"], "{flavor:?}");
    }
}
