//! The faults, in the order of docs/guarantees.md.

use crate::rig::Fault;
use crate::{clock, clusters, counters, database, kills, network, nodes, stores};

pub const ALL: &[Fault] = &[
    Fault { name: "rewind_under_load", guards: "mark", run: counters::rewind_under_load },
    Fault { name: "rewind_across_a_restart", guards: "mark", run: counters::rewind_across_a_restart },
    Fault { name: "failover", guards: "fence", run: clusters::failover },
    Fault { name: "failover_fenced_by_hand", guards: "", run: clusters::failover_fenced_by_hand },
    Fault { name: "a_primary_that_comes_back", guards: "one_writer", run: clusters::a_primary_that_comes_back },
    Fault { name: "another_step", guards: "step", run: counters::another_step },
    Fault { name: "migrations_under_load", guards: "state", run: counters::migrations_under_load },
    Fault { name: "migrations_on_a_cluster", guards: "", run: clusters::migrations_on_a_cluster },
    Fault { name: "interrupted_commands", guards: "", run: counters::interrupted_commands },
    Fault { name: "first_starts_at_once", guards: "", run: counters::first_starts_at_once },
    Fault { name: "cluster_partition", guards: "", run: clusters::cluster_partition },
    Fault { name: "a_row_that_does_not_match", guards: "own_ok", run: counters::a_row_that_does_not_match },
    Fault { name: "deleted_and_created_again", guards: "tombstone,mark", run: counters::deleted_and_created_again },
    Fault { name: "given_back_behind_others", guards: "give_back,mark", run: nodes::given_back_behind_others },
    Fault { name: "stopped_and_continued", guards: "", run: nodes::stopped_and_continued },
    Fault { name: "many_at_once", guards: "cursor", run: nodes::many_at_once },
    Fault { name: "a_cache_in_front", guards: "no_store", run: nodes::a_cache_in_front },
    Fault { name: "another_store", guards: "store", run: stores::another_store },
    Fault {
        name: "the_socket_of_another_server",
        guards: "configured_server,store",
        run: stores::the_socket_of_another_server,
    },
    Fault { name: "killed_on_the_embedded_store", guards: "commit", run: stores::killed_on_the_embedded_store },
    Fault { name: "kill_of_the_server", guards: "", run: kills::kill_of_the_server },
    Fault { name: "kill_of_the_database", guards: "", run: kills::kill_of_the_database },
    Fault { name: "black_hole", guards: "", run: network::black_hole },
    Fault { name: "cut_at_every_byte_of_a_ticket", guards: "", run: network::cut_at_every_byte_of_a_ticket },
    Fault {
        name: "cut_at_every_byte_of_a_counter",
        guards: "unknown_outcome",
        run: network::cut_at_every_byte_of_a_counter,
    },
    Fault { name: "cut_of_a_give_back", guards: "", run: network::cut_of_a_give_back },
    Fault { name: "a_database_that_may_not_write", guards: "", run: database::a_database_that_may_not_write },
    Fault { name: "no_connection_left", guards: "", run: database::no_connection_left },
    Fault { name: "a_lock_that_is_held", guards: "", run: database::a_lock_that_is_held },
    Fault { name: "deadlocks", guards: "", run: database::deadlocks },
    Fault { name: "idle_connections_are_closed", guards: "", run: database::idle_connections_are_closed },
    Fault { name: "the_clock_is_set", guards: "", run: clock::the_clock_is_set },
];
