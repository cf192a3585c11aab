//! A primary and its replica, asynchronous: what the primary commits may be lost to the replica.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use super::database::{Database, Flavor};
use super::server::eventually;
use super::sql;

/// Both servers; the replica follows and is read-only until it is promoted.
pub struct Pair {
    pub primary: Database,
    pub replica: Database,
    flavor: Flavor,
}

impl Pair {
    /// Starts both; when it returns, the replica has all that the primary has. Both start with
    /// the same data, so it follows from the primary's present end of the log.
    pub fn start(flavor: Flavor) -> Self {
        Self::start_with(flavor, &[])
    }

    /// Like [`Pair::start`], with further arguments for both servers.
    pub fn start_with(flavor: Flavor, args: &[&str]) -> Self {
        let start = |id: &str| {
            // It wins over the --skip-log-bin that stands before it.
            let own = [id, "--log-bin=binlog", "--binlog-format=ROW"];
            Database::start_with(flavor, &[&own, args].concat())
        };
        let (primary, replica) = std::thread::scope(|scope| {
            let replica = scope.spawn(|| start("--server-id=2"));
            (start("--server-id=1"), replica.join().expect("the replica starts"))
        });
        let port = primary.port();
        let (file, position) = coordinates(&primary, flavor);
        match flavor {
            Flavor::MariaDb => sql(
                &replica,
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                     MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_CONNECT_RETRY=1; \
                     SET GLOBAL read_only = 1; START SLAVE"
                ),
            ),
            Flavor::MySql9 => sql(
                &replica,
                &format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                     SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={position}, GET_SOURCE_PUBLIC_KEY=1, \
                     SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400; \
                     SET GLOBAL super_read_only = 1; START REPLICA"
                ),
            ),
        };
        let pair = Self { primary, replica, flavor };
        pair.wait_until_caught_up();
        pair
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
