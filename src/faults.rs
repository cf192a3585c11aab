//! What fault tests need inside: guards that can be switched off, to see that what they guard against then happens, and
//! points at which the process can be ended or held up.
//!
//! Both are there in test builds alone (feature `faults`). Without it [`is_off`] is the constant `false` and [`point`] does
//! nothing, so that what they stand in is compiled as if they were not there.

/// A guard against repeats that a test can switch off, by its name in the variable `FAULTS_OFF` (names with commas between).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// `mark`: a lease must lie past what this node leased before, and past what is recorded.
    Mark,
    /// `fence`: a counter is leased from on the server alone that it was last fenced for.
    Fence,
    /// `epoch`: a counter is leased from only in the epoch in which it was last fenced.
    Epoch,
    /// `evidence`: a server or cluster counts as the same one only if it proves that; the same name is not enough.
    Evidence,
    /// `row_format`: nothing is leased from a server that logs statements as text.
    RowFormat,
    /// `engine`: the tables are transactional.
    Engine,
    /// `file`: the embedded store's file is the one that was leased from, not a copy.
    File,
    /// `write_ahead`: what a node remembers is never behind what it leased.
    WriteAhead,
    /// `one_writer`: of several hosts only one takes writes.
    OneWriter,
    /// `step`: the step of a ticket is the recorded one.
    Step,
    /// `state`: what is recorded is read again after a ticket was allocated.
    State,
    /// `own_ok`: a block is read from the OK packet of the statement that set it aside.
    OwnOk,
    /// `unknown_outcome`: a lease whose reply is lost is a gap.
    UnknownOutcome,
    /// `configured_server`: a connection stays with the server that is configured.
    ConfiguredServer,
    /// `commit`: a block is committed before it is handed out.
    Commit,
    /// `cursor`: the cursor moves by one indivisible addition.
    Cursor,
    /// `no_store`: no cache keeps an answer with ids.
    NoStore,
    /// `give_back`: a tail goes back only if nobody leased behind it.
    GiveBack,
    /// `store`: another store than before is refused.
    Store,
    /// `tombstone`: a sequence that is created again goes on from where it was.
    Tombstone,
}

/// Whether a test has switched `guard` off.
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn is_off(_guard: Guard) -> bool {
    false
}

/// A named place. Tests can end the process there as `kill -9` does, or hold it up (`FAILPOINTS`, crate `fail`).
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn point(_name: &str) {}

/// Whether a test makes this named place fail.
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn fails(_name: &str) -> bool {
    false
}

#[cfg(feature = "faults")]
pub use built_in::{fails, is_off, point, tell};

#[cfg(feature = "faults")]
mod built_in {
    use std::sync::OnceLock;

    use super::Guard;

    const NAMES: [(&str, Guard); 20] = [
        ("mark", Guard::Mark),
        ("fence", Guard::Fence),
        ("epoch", Guard::Epoch),
        ("evidence", Guard::Evidence),
        ("row_format", Guard::RowFormat),
        ("engine", Guard::Engine),
        ("file", Guard::File),
        ("write_ahead", Guard::WriteAhead),
        ("one_writer", Guard::OneWriter),
        ("step", Guard::Step),
        ("state", Guard::State),
        ("own_ok", Guard::OwnOk),
        ("unknown_outcome", Guard::UnknownOutcome),
        ("configured_server", Guard::ConfiguredServer),
        ("commit", Guard::Commit),
        ("cursor", Guard::Cursor),
        ("no_store", Guard::NoStore),
        ("give_back", Guard::GiveBack),
        ("store", Guard::Store),
        ("tombstone", Guard::Tombstone),
    ];

    fn off() -> &'static [Guard] {
        static OFF: OnceLock<Vec<Guard>> = OnceLock::new();
        OFF.get_or_init(|| {
            let names = std::env::var("FAULTS_OFF").unwrap_or_default();
            let guard = |name| NAMES.iter().find(|(known, _)| *known == name).map(|(_, guard)| *guard);
            names
                .split(',')
                .filter(|name| !name.is_empty())
                .map(|name| guard(name).unwrap_or_else(|| panic!("FAULTS_OFF: there is no guard '{name}'")))
                .collect()
        })
    }

    /// Whether a test has switched `guard` off.
    #[inline]
    pub fn is_off(guard: Guard) -> bool {
        off().contains(&guard)
    }

    /// A named place. Tests can end the process there as `kill -9` does, or hold it up (`FAILPOINTS`, crate `fail`).
    pub fn point(name: &str) {
        fail::eval(name, |_| {
            // No destructor runs, and nothing is flushed.
            let _ = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            std::process::abort();
        });
    }

    /// Whether a test makes this named place fail: `FAILPOINTS=name=3*return->off` for three times.
    pub fn fails(name: &str) -> bool {
        fail::eval(name, |_| ()).is_some()
    }

    /// Reads `FAILPOINTS`, and says on stderr what this build is.
    pub fn tell() {
        // The points are set as long as the process lives.
        std::mem::forget(fail::FailScenario::setup());
        eprintln!("seqsvr: built for fault tests, never to be relied on; guards that are off: {:?}", off());
    }
}
