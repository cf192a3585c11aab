//! seqsvr hands out unique, rising 64-bit ids over HTTP. It leases blocks of them durably from a store and hands them
//! out of memory.
//!
//! The map, from the top down; a module uses only those below it (ARCHITECTURE.md, held by `tests/it/layers.rs`):
//!
//! - [`cli`]: the commands; `main` is a call of it.
//! - [`doctor`]: shows what is found wrong with a store.
//! - [`app`]: builds the server, runs it, drains it.
//! - [`http`]: routes, answers, probes.
//! - [`sequences`]: name to sequence. [`sequence`]: an id, a batch, the bounded wait. [`refill`]: leases ahead.
//! - [`store`]: where blocks come from, behind a guard.
//! - [`config`], [`metrics`], [`node`]: what the others are told, say and remember.
//! - [`segment`], [`buffer`]: the allocator, lock-free and without input or output.
//! - `faults`: what fault tests need inside; nothing in other builds.
//!
//! Under loom (see `sync`) only the allocator is compiled: the rest does not know its stand-ins.

#[cfg(not(seqsvr_loom))]
pub mod app;
pub mod buffer;
#[cfg(not(seqsvr_loom))]
pub mod cli;
#[cfg(not(seqsvr_loom))]
pub mod config;
#[cfg(not(seqsvr_loom))]
pub mod doctor;
mod faults;
#[cfg(not(seqsvr_loom))]
pub mod http;
#[cfg(not(seqsvr_loom))]
pub mod metrics;
#[cfg(not(seqsvr_loom))]
pub mod name;
#[cfg(not(seqsvr_loom))]
pub mod node;
#[cfg(not(seqsvr_loom))]
pub mod refill;
pub mod segment;
#[cfg(not(seqsvr_loom))]
pub mod sequence;
#[cfg(not(seqsvr_loom))]
pub mod sequences;
#[cfg(not(seqsvr_loom))]
pub mod store;
mod sync;
