//! The counts of HTTP responses, which each worker keeps by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// Which handler answered; the label `route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Route {
    New,
    NewSequence,
    Metrics,
    Livez,
    Readyz,
    /// All that has no handler.
    Other,
}

impl Route {
    pub(super) const ALL: [(Self, &str); 6] = [
        (Self::New, "/new"),
        (Self::NewSequence, "/new/{sequence}"),
        (Self::Metrics, "/metrics"),
        (Self::Livez, "/livez"),
        (Self::Readyz, "/readyz"),
        (Self::Other, "other"),
    ];
}

/// The statuses that are answered; the label `status`. Whatever else there may be is counted under the last.
pub(super) const STATUSES: [(u16, &str); 10] = [
    (200, "200"),
    (204, "204"),
    (400, "400"),
    (404, "404"),
    (405, "405"),
    (413, "413"),
    (431, "431"),
    (503, "503"),
    (507, "507"),
    (0, "other"),
];

/// One worker's responses by route and status: nobody else writes it, so that counting costs the hot path no more
/// than an add to a cache line that it owns.
#[derive(Debug, Default)]
pub struct ResponseCounts(pub(super) CachePadded<[[AtomicU64; STATUSES.len()]; Route::ALL.len()]>);

impl ResponseCounts {
    /// Counts one response.
    #[inline]
    pub fn count(&self, route: Route, status: u16) {
        let column = STATUSES.iter().position(|&(known, _)| known == status).unwrap_or(STATUSES.len() - 1);
        // Relaxed: a plain counter; a scrape may miss what is being counted just now.
        self.0[route as usize][column].fetch_add(1, Ordering::Relaxed);
    }
}
