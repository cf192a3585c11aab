//! A Group Replication cluster of three `MySQL` 9 members, up in some ten seconds.

// Every test file that has this module compiles its own copy, and few use all of it.
#![allow(dead_code)]

use std::thread;
use std::time::Duration;

use super::database::{Database, Flavor};
use super::server::{eventually_within, steady_ports};
use super::{sql, sql_value};

const MEMBERS: usize = 3;

/// A member that was killed joins in some 15 seconds, and others may be slowed down by what runs beside them.
const PATIENCE: Duration = Duration::from_secs(120);

const GROUP_NAME: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

/// Three members. None joins by itself after a restart: `group_replication_start_on_boot` is off.
pub struct Group {
    members: Vec<Database>,
}

impl Group {
    /// Starts a group with one primary, which is member 0.
    pub fn start() -> Self {
        Self::start_with(&["--group-replication-single-primary-mode=ON"])
    }

    /// Starts a group whose members all take writes.
    pub fn start_multi_primary() -> Self {
        Self::start_with(&[
            "--group-replication-single-primary-mode=OFF",
            "--group-replication-enforce-update-everywhere-checks=ON",
        ])
    }

    fn start_with(mode: &[&str]) -> Self {
        // Members talk to each other on the port of their clients.
        let ports: [u16; MEMBERS] = steady_ports();
        let seeds: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let seeds = format!("--group-replication-group-seeds={}", seeds.join(","));
        let members = thread::scope(|scope| {
            let start = |(i, port)| start_member(i, port, &seeds, mode);
            let members: Vec<_> =
                ports.into_iter().enumerate().map(|member| scope.spawn(move || start(member))).collect();
            members.into_iter().map(|member| member.join().expect("the member starts")).collect()
        });
        let group = Self { members };
        group.bootstrap(0);
        for i in 1..MEMBERS {
            group.join(i);
        }
        group
    }

    /// Member `i`, from 0.
    pub fn member(&self, i: usize) -> &Database {
        &self.members[i]
    }

    /// All members, in order.
    pub fn all(&self) -> [&Database; MEMBERS] {
        std::array::from_fn(|i| &self.members[i])
    }

    /// Starts a group that has only member `i`. Another group of this name may be there.
    pub fn bootstrap(&self, i: usize) {
        let on = |is_on| format!("SET GLOBAL group_replication_bootstrap_group = {is_on}");
        sql(&self.members[i], &format!("{}; {}; {}", on("ON"), start_statements(), on("OFF")));
        self.wait_until_online(i);
    }

    /// Has member `i` join; when it returns, the member is online. It must have no transaction that the others lack.
    pub fn join(&self, i: usize) {
        sql(&self.members[i], start_statements());
        self.wait_until_online(i);
    }

    /// Takes member `i` out of the group and makes it writable.
    pub fn leave_and_take_writes(&self, i: usize) {
        sql(&self.members[i], "STOP GROUP_REPLICATION; SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0");
    }

    /// Ends member `i` as a crash would.
    pub fn kill(&mut self, i: usize) {
        self.members[i].kill();
    }

    /// Starts member `i` again, outside of the group. It takes writes.
    pub fn restart(&mut self, i: usize) {
        self.members[i].restart();
    }

    /// Makes member `i` the primary, as an operator does.
    pub fn switch_to(&self, i: usize) {
        sql(&self.members[i], "SELECT group_replication_set_as_primary(@@server_uuid)");
    }

    /// Waits until one of `members`, which must run, is the primary and takes writes.
    pub fn wait_for_primary(&self, members: &[usize]) -> usize {
        let is_primary = |i: &usize| self.own_row(*i, "MEMBER_ROLE") == "PRIMARY" && self.takes_writes(*i);
        eventually_within(PATIENCE, "there is a primary", || members.iter().copied().find(is_primary))
    }

    /// Waits until member `i` has applied all that the group has committed by now.
    pub fn wait_until_applied(&self, i: usize) {
        sql(&self.members[i], "SET SESSION group_replication_consistency = 'BEFORE'; SELECT 1");
    }

    fn takes_writes(&self, i: usize) -> bool {
        sql_value(&self.members[i], "SELECT @@super_read_only OR @@read_only") == "0"
    }

    fn wait_until_online(&self, i: usize) {
        let is_online = || (self.own_row(i, "MEMBER_STATE") == "ONLINE").then_some(());
        eventually_within(PATIENCE, "the member is online", is_online);
    }

    /// What member `i` says of itself.
    fn own_row(&self, i: usize, column: &str) -> String {
        let members = "performance_schema.replication_group_members";
        let rows = sql(&self.members[i], &format!("SELECT {column} FROM {members} WHERE MEMBER_ID = @@server_uuid"));
        // Before its first start it has no row.
        rows.concat().concat()
    }
}

/// Starts the plugin, with an account for what a member copies from the others.
fn start_statements() -> &'static str {
    "CHANGE REPLICATION SOURCE TO SOURCE_USER='root', SOURCE_PASSWORD='' FOR CHANNEL 'group_replication_recovery'; \
     START GROUP_REPLICATION"
}

fn start_member(i: usize, port: u16, seeds: &str, mode: &[&str]) -> Database {
    let (id, name) = (format!("--server-id={}", i + 1), format!("--group-replication-group-name={GROUP_NAME}"));
    let address = format!("--group-replication-local-address=127.0.0.1:{port}");
    let mut args = vec![
        "--log-bin=binlog",
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
        "--report-host=127.0.0.1",
        "--disabled-storage-engines=MyISAM,BLACKHOLE,FEDERATED,ARCHIVE,MEMORY",
        "--plugin-load-add=group_replication.so",
        "--group-replication-communication-stack=MYSQL",
        "--group-replication-start-on-boot=OFF",
        "--group-replication-recovery-get-public-key=ON",
        // A member that is killed is expelled in some 6 seconds instead of 20.
        "--group-replication-member-expel-timeout=0",
        &name,
        &address,
        seeds,
        &id,
    ];
    args.extend(mode);
    let member = Database::start_at(port, Flavor::MySql9, &args);
    // A member with a transaction of its own, such as those that made its data, can't join.
    sql(&member, "RESET BINARY LOGS AND GTIDS");
    member
}

#[test]
fn a_group_elects_a_primary_and_takes_back_a_member_that_was_killed() {
    let mut group = Group::start();
    let ids = |member: &Database| sql(member, "SELECT id FROM sequence.t ORDER BY id").concat();
    let insert = |member: &Database, id: u32| sql(member, &format!("INSERT INTO sequence.t VALUES ({id})"));
    assert_eq!(group.wait_for_primary(&[0, 1, 2]), 0);
    sql(group.member(0), "CREATE TABLE sequence.t (id INT PRIMARY KEY)");
    insert(group.member(0), 1);

    group.kill(0);
    let primary = group.wait_for_primary(&[1, 2]);
    insert(group.member(primary), 2);
    assert_eq!(ids(group.member(primary)), ["1", "2"]);

    group.restart(0);
    assert!(group.takes_writes(0), "it does not know that it was a member");
    assert_eq!(ids(group.member(0)), ["1"], "it is outside of the group");
    group.join(0);
    assert!(!group.takes_writes(0));
    assert_eq!(ids(group.member(0)), ["1", "2"]);

    group.leave_and_take_writes(0);
    insert(group.member(0), 3);
    assert_eq!(ids(group.member(primary)), ["1", "2"]);
    group.bootstrap(0);
    assert_eq!(group.wait_for_primary(&[0]), 0, "two groups of one name");
}
