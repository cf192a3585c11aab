//! A connection in use: statements, each with a time-out and its own answer.

use std::num::NonZeroU64;
use std::time::Duration;

use mysql_async::prelude::FromRow;
use mysql_async::{Conn, Params, Transaction};
use tokio::sync::SemaphorePermit;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::server::{CONNECT_TIMEOUT, Connection, InUse, Origin, READ_ONLY, Server, is_without_answer};
use super::{ErrorKind, StoreError};
use crate::faults;

pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// So many characters of a statement are told where it fails: that of a lease has up to a thousand rows.
const STATEMENT_TOLD: usize = 80;

/// A connection in use. Dropped in mid-statement, it is closed and not used again.
pub(super) struct Session<'a, C = Conn> {
    pub(super) conn: C,
    /// By which the server knows the connection.
    pub(super) id: u32,
    pub(super) server: &'a Server,
    pub(super) origin: Origin,
    /// The server refused something that a new connection may be allowed: a privilege that was granted counts for new ones
    /// only.
    pub(super) is_useless: bool,
    /// Its turn, while the database is away.
    pub(super) _turn: Option<SemaphorePermit<'a>>,
    pub(super) _in_use: InUse<'a>,
}

/// What a statement's own OK packet says.
pub(super) struct Done {
    pub(super) affected_rows: u64,
    pub(super) last_insert_id: Option<NonZeroU64>,
}

/// A statement that failed: with the server's code, where it was the server that refused it.
pub(super) struct Failed {
    pub(super) server: Option<mysql_async::ServerError>,
    pub(super) error: StoreError,
}

impl Failed {
    /// Whether the server refused it with one of `codes`.
    pub(super) fn is(&self, codes: &[u16]) -> bool {
        self.server.as_ref().is_some_and(|server| codes.contains(&server.code))
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { server: None, error }
    }
}

impl<C> Session<'_, C> {
    /// The host that it leads to, for people.
    pub(super) fn at(&self) -> String {
        self.server.at_host(self.origin.host)
    }
}

impl Session<'_> {
    /// Closes the connection where it is of no use any more; to be called after what may have failed.
    pub(super) async fn close_if_useless(self) {
        if self.is_useless {
            // Best effort: the pool notices a broken one.
            let _ = timeout(CONNECT_TIMEOUT, self.conn.disconnect()).await;
        }
    }
}

impl Session<'_, Transaction<'static>> {
    /// Ends the transaction; what it did is durable.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.commit()).await;
        if outcome.is_err() {
            self.server.hangs(self.origin, self.id);
        }
        Ok(finished(self.server, self.origin, "COMMIT", outcome)?)
    }
}

impl<C: Connection> Session<'_, C> {
    /// Runs a statement with values in the place of its `?`s.
    pub(super) async fn execute_with(&mut self, sql: &str, values: Params) -> Result<(), Failed> {
        faults::point("statement-begins");
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.exec_drop(sql, values)).await;
        self.finished(sql, outcome)
    }

    /// Runs a statement without a result.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<Done, Failed> {
        faults::point("statement-begins");
        let run = async {
            let result = self.conn.query_iter(sql).await?;
            let done = Done {
                affected_rows: result.affected_rows(),
                last_insert_id: result.last_insert_id().and_then(NonZeroU64::new),
            };
            result.drop_result().await?;
            Ok(done)
        };
        let outcome = timeout(STATEMENT_TIMEOUT, run).await;
        self.finished(sql, outcome)
    }

    /// Runs a query; its rows. They come from the server that takes the writes.
    pub(super) async fn rows<R: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<R>, Failed> {
        if self.server.is_split() {
            return self.rows_in_transaction(sql).await;
        }
        faults::point("statement-begins");
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.read(sql)).await;
        self.finished(sql, outcome)
    }

    /// As [`rows`](Self::rows), in a transaction.
    pub(super) async fn rows_in_transaction<R: FromRow + Send + 'static>(
        &mut self,
        sql: &str,
    ) -> Result<Vec<R>, Failed> {
        faults::point("statement-begins");
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.query_in_transaction(sql)).await;
        self.finished(sql, outcome)
    }

    fn finished<T>(&mut self, sql: &str, outcome: Result<mysql_async::Result<T>, Elapsed>) -> Result<T, Failed> {
        faults::point("statement-ended");
        if outcome.is_err() {
            self.server.hangs(self.origin, self.id);
        }
        let finished = finished(self.server, self.origin, sql, outcome);
        if let Err(Failed { server: Some(server), error }) = &finished {
            self.is_useless |= error.kind == ErrorKind::Misconfigured;
            // Behind its name there may be another server now, or another host may be the writer.
            if READ_ONLY.contains(&server.code) {
                self.server.leave(self.origin);
            }
        }
        finished
    }
}

fn finished<T>(
    server: &Server,
    origin: Origin,
    sql: &str,
    outcome: Result<mysql_async::Result<T>, Elapsed>,
) -> Result<T, Failed> {
    // The first words are enough to know the statement by.
    let words: Vec<&str> = sql.split_whitespace().take(6).collect();
    let doing: String = words.join(" ").chars().take(STATEMENT_TOLD).collect();
    match outcome {
        Ok(Ok(value)) => {
            server.heard(origin, true);
            Ok(value)
        }
        Ok(Err(error)) => {
            server.heard(origin, !is_without_answer(&error));
            let failed = server.failed(origin, &doing, &error);
            let refusal = if let mysql_async::Error::Server(refusal) = error { Some(refusal) } else { None };
            Err(Failed { server: refusal, error: failed })
        }
        Err(_) => {
            server.heard(origin, false);
            Err(Failed { server: None, error: server.timed_out(origin, &doing, STATEMENT_TIMEOUT) })
        }
    }
}
