//! The integration tests: the built binary, real databases, real clients. One binary, so that it links once.

// Counters are whole numbers.
#![allow(clippy::float_cmp)]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod accounts;
mod alerts;
mod bad_input;
mod clients;
mod configuration;
mod crash;
mod dashboards;
mod day;
mod deploy;
mod doctor;
mod documents;
mod embedded;
mod fence;
mod fuzz;
mod hosts;
mod http;
mod layers;
mod life_cycle;
mod listen;
mod load;
mod logging;
mod mysql;
mod operations;
mod outage;
mod rolling;
mod seed;
mod sequences;
mod storage;
mod systemd;
mod tls;
mod triggers;
mod upgrade;
