//! What `seqsvr doctor` finds in a store: rows for people and for programs. Pure: the stores ask, this judges what both
//! have in common.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::config::Step;
use crate::node::Node;

/// How bad it is; a later one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It can't be looked at without a privilege that nodes don't need.
    Info,
    /// It works, but someone should look at it; or it could not be looked at.
    Warn,
    /// Ids can't be leased, or could be repeated.
    Fail,
}

/// A row of what was found. The names of the fields are those of `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: the same words in every run.
    pub what: String,
    /// How it is.
    pub found: String,
    /// How bad that is.
    pub verdict: Verdict,
    /// What to do; none where nothing is to be done.
    pub advice: Option<String>,
}

impl Finding {
    pub(crate) fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), found: found.into(), verdict: Verdict::Ok, advice: None }
    }

    pub(crate) fn warn(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.to_owned(), found: found.into(), verdict: Verdict::Warn, advice: Some(advice.into()) }
    }

    pub(crate) fn fail(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(what, found, advice) }
    }

    pub(crate) fn info(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Info, ..Self::warn(what, found, advice) }
    }

    /// The store did not say: no reason to call it broken, nor to call it right.
    pub(crate) fn unreadable(what: &str, why: &str, advice: impl Into<String>) -> Self {
        Self::warn(what, format!("could not be read: {why}"), advice)
    }
}

/// What the store is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The configuration's step.
    pub step: Step,
    /// What this node remembers; `None` where there is no node yet.
    pub node: Option<&'a Node>,
    /// How long the counters are watched.
    pub sample: Duration,
}

/// What was, or would be, deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many rows.
    pub rows: u64,
    /// Of which nodes: the first 24 characters of their rows' uuids, and how many rows; the first nodes only.
    pub nodes: Vec<(String, u64)>,
    /// How many of the rows seqsvr did not write: a Go server's, or set by hand.
    pub foreign_rows: u64,
    /// The uuids of those; the first ones only.
    pub foreign: Vec<String>,
    /// The highest row, which is never deleted; `None` where there is no row or no table.
    pub kept: Option<u64>,
}

/// The row of the store's identity.
pub(super) fn store_id(found: &str, node: Option<&Node>) -> Finding {
    const WHAT: &str = "store_id";
    let Some(node) = node else {
        return Finding::ok(WHAT, format!("{found}; this node has no memory in data_dir yet"));
    };
    match (node.check_store(Some(found)), node.store_id()) {
        (Err(error), _) => Finding::fail(
            WHAT,
            format!("{found}, but this node remembers {}", node.store_id().unwrap_or_default()),
            error.to_string(),
        ),
        (Ok(()), Some(known)) if known == found => Finding::ok(WHAT, format!("{found}, as this node remembers")),
        (Ok(()), Some(known)) => Finding::ok(WHAT, format!("{found}, to be adopted in place of {known}")),
        (Ok(()), None) => Finding::ok(WHAT, format!("{found}; this node has leased from none yet")),
    }
}

/// The first few of `names`, and how many there are besides.
pub(crate) fn some_of(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if let Some(more @ 1..) = names.len().checked_sub(SHOWN) {
        let _ = write!(text, " and {more} more");
    }
    text
}
