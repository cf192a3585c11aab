//! The faults of docs/guarantees.md, each done for real to the built binary, short. `make torture` does the same in full, and
//! with the guards off too.

#[allow(dead_code)] // it is shared with tests/it, which uses the rest
#[path = "../support/mod.rs"]
mod support;

mod all;
mod clock;
mod clusters;
mod counters;
mod database;
mod failback;
mod kills;
mod memory;
mod network;
mod nodes;
mod replication;
#[allow(dead_code)] // make torture reads the rest
mod rig;
mod stores;
mod strays;
mod tables;

use rig::Run;

fn short(name: &str) {
    let fault = all::ALL.iter().find(|fault| fault.name == name).expect("it is in the list");
    let outcome = (fault.run)(&Run { is_full: false, off: "" });
    let verdict = outcome.checker.verdict();
    println!("{name} (guards {:?}): {} rounds, {verdict}, {:?} lost", fault.guards, outcome.rounds, outcome.lost);
    assert!(verdict.ids > 0 && verdict.repeats == 0 && verdict.outside == 0, "{verdict:?}");
    assert_eq!(verdict.errors, 0, "{verdict:?}");
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test] fn $name() { short(stringify!($name)) })*

        #[test]
        fn every_fault_has_a_test() {
            let names: Vec<&str> = all::ALL.iter().map(|fault| fault.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

tests! {
    rewind_under_load
    rewind_across_a_restart
    a_regression_that_is_recorded_late
    failover
    failover_fenced_by_hand
    failback
    fenced_by_a_dead_nodes_memory
    statement_based_replication
    a_primary_that_comes_back
    clones
    another_step
    migrations_under_load
    migrations_on_a_cluster
    interrupted_commands
    first_starts_at_once
    cluster_partition
    group_failover
    outside_of_its_group
    a_member_that_lags
    a_part_of_a_galera_cluster
    a_half_of_a_galera_cluster
    galera_without_a_provider
    a_row_that_does_not_match
    deleted_and_created_again
    given_back_behind_others
    stopped_and_continued
    many_at_once
    a_cache_in_front
    tables_that_are_not_transactional
    another_store
    the_socket_of_another_server
    copied_embedded_store
    killed_on_the_embedded_store
    kill_of_the_server
    kill_of_the_database
    black_hole
    cut_at_every_byte_of_a_ticket
    cut_at_every_byte_of_a_counter
    cut_of_a_give_back
    a_database_that_may_not_write
    no_connection_left
    a_lock_that_is_held
    deadlocks
    idle_connections_are_closed
    the_clock_is_set
}
