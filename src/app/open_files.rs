//! The limit of open files, and how many connections fit into it.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Limits;
use crate::http::connections::Connections;

/// The files that a node has open beside its connections: listeners, wake-ups, sessions of the database, `data_dir`; and some more.
const OWN_FILES: u64 = 48;

/// Raises the soft limit of open files to the hard one. How many connections can be served, at most `wanted`.
pub(super) fn make_room(wanted: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!("the soft limit of open files can't be raised to the hard one: {error}"),
        }
    }
    // None is no limit.
    let Some(files) = limit.current else { return wanted };
    let fitting = fitting(files, wanted);
    // The default means as many as fit.
    if fitting < wanted && wanted != Limits::default().connections.get() {
        tracing::warn!(
            "limits.connections is {wanted}, but with a limit of {files} open files this node serves at most {fitting} connections: \
             raise the hard limit to {} (LimitNOFILE= of systemd, --ulimit nofile= of Docker, ulimit -n)",
            needed(wanted)
        );
    }
    fitting
}

/// The files that a node needs to serve `connections`.
fn needed(connections: u64) -> u64 {
    connections + Connections::surplus(connections) + OWN_FILES
}

/// How many connections fit into `files`, at most `wanted`; one at least.
fn fitting(files: u64, wanted: u64) -> u64 {
    if needed(wanted) <= files {
        return wanted;
    }
    let (mut fits, mut too_many) = (1, wanted);
    while fits + 1 < too_many {
        let middle = u64::midpoint(fits, too_many);
        if needed(middle) <= files { fits = middle } else { too_many = middle }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_connections_as_fit() {
        for (files, wanted, expected) in [
            (1_048_576, 25_000, 25_000),
            (26_072, 25_000, 25_000),
            (26_071, 25_000, 24_999),
            (1_024, 25_000, 868),
            (1_024, 100, 100),
            (200, 25_000, 135),
            (70, 25_000, 6),
            (20, 25_000, 1),
            (20, 1, 1),
        ] {
            let fitting = fitting(files, wanted);
            assert_eq!(fitting, expected, "{files} files");
            assert!(fitting == 1 || needed(fitting) <= files);
            assert!(fitting == wanted || needed(fitting + 1) > files);
        }
    }
}
