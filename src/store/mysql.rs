//! MySQL and MariaDB: which layout a sequence is in, and what is asked of it there.

use std::num::NonZeroU64;
use std::sync::Arc;

use async_trait::async_trait;

use super::finding::{Expected, Finding, Pruned};
use super::{BlockStore, Catalog, Definition, Edit, ErrorKind, Leased, Migration, Purpose, Script, StoreError, Terms};
use crate::config::{self, NewSequence, Step};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod addresses;
mod counter;
mod database;
mod engines;
mod examine;
mod identity;
mod make;
mod members;
mod migrate;
mod server;
mod session;
mod ticket;

use counter::Counters;
use database::{Database, Layout, Opened};
use identity::Identity;
use server::{Connection, Server};
use session::{Done, Failed, Session};
use ticket::Tickets;

/// The MySQL store: `default` in the layout that the database says, all others in the counter layout.
pub struct MySql {
    purpose: Purpose,
    server: Arc<Server>,
    database: Database,
    tickets: Tickets,
    counters: Counters,
}

impl MySql {
    /// The store that `config` names; nothing is opened yet. `step` is the tickets'; `default_is_counter`: on a new database
    /// `default` begins in the counter layout.
    pub fn new(
        config: &config::MySql,
        step: Step,
        default: NewSequence,
        default_is_counter: bool,
        purpose: Purpose,
        node: Arc<Node>,
    ) -> Self {
        let server = Arc::new(Server::new(config));
        Self {
            purpose,
            database: Database::new(server.clone(), step, default, default_is_counter, purpose, node.clone()),
            tickets: Tickets::new(server.clone(), step, config.failover_skip.get(), node.clone()),
            counters: Counters::new(server.clone(), config.failover_skip.get(), node),
            server,
        }
    }

    /// Whether `sequence` is in the ticket layout, by what is known of the database; unknown counts as yes for `default`.
    fn is_ticket(&self, sequence: &SequenceName) -> bool {
        sequence.is_default() && self.database.layout().is_none_or(|layout| layout == Layout::Tickets)
    }

    /// A connection. Where none is to be had, all is looked at anew: there may be another server behind the name then.
    async fn connect(&self) -> Result<Session<'_>, StoreError> {
        self.server.connect().await.inspect_err(|_| self.database.forget())
    }

    /// A connection to a host that serves, and what was found there: a stray is left for the next host, each once. To fence, a part
    /// of a cluster counts too if no host sees more.
    async fn open(&self) -> Result<(Session<'_>, Arc<Opened>), StoreError> {
        let mut outcome = self.open_one().await;
        for takes_parts in [false, true] {
            if takes_parts && self.purpose == Purpose::Fence {
                self.database.take_parts();
            }
            for _ in 0..self.server.hosts() {
                match outcome {
                    Err(error) if error.kind == ErrorKind::Stray => outcome = self.open_one().await,
                    outcome => return outcome,
                }
            }
        }
        outcome
    }

    async fn open_one(&self) -> Result<(Session<'_>, Arc<Opened>), StoreError> {
        let mut session = self.connect().await?;
        let opened = self.database.opened(&mut session).await;
        if opened.as_ref().is_err_and(|error| error.kind == ErrorKind::Stray) {
            self.server.leave(session.origin);
        }
        Ok((session, opened?))
    }

    /// To be called with what came of the work on `session`. What fails may have changed: it is looked at anew.
    async fn finish<T>(&self, session: Session<'_>, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &outcome {
            if !matches!(error.kind, ErrorKind::Conflict | ErrorKind::Exhausted | ErrorKind::Refused) {
                self.database.forget();
            }
            // Connections that were made before a failover may lead to the server of before.
            if matches!(
                error.kind,
                ErrorKind::NotFenced
                    | ErrorKind::Moved
                    | ErrorKind::Fenced
                    | ErrorKind::Regressed
                    | ErrorKind::OtherStore
            ) {
                self.server.renew(session.origin);
            }
            if error.kind == ErrorKind::Stray {
                self.server.leave(session.origin);
            }
        }
        session.close_if_useless().await;
        outcome
    }
}

#[async_trait]
impl BlockStore for MySql {
    async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        let mut session = self.connect().await?;
        let leased = async {
            let opened = self.database.opened(&mut session).await?;
            if sequence.is_default() && opened.layout == Layout::Tickets {
                self.database.check_layout()?;
                self.tickets.lease(&mut session, &opened, want).await
            } else {
                self.counters.lease(&mut session, &opened, sequence, terms, want).await
            }
        };
        let leased = leased.await;
        // Stale too: `default` may have moved to the other layout.
        self.finish(session, leased).await
    }

    async fn tidy(&self, sequence: &SequenceName) {
        if self.is_ticket(sequence) {
            self.tickets.tidy().await;
        }
    }

    /// A ticket is spent.
    fn takes_back(&self, sequence: &SequenceName) -> bool {
        !self.is_ticket(sequence)
    }

    async fn give_back(&self, sequence: &SequenceName, terms: Terms, tail: Block) -> Result<bool, StoreError> {
        let mut session = self.connect().await?;
        let given_back = async {
            let opened = self.database.opened(&mut session).await?;
            self.counters.give_back(&mut session, &opened, sequence, terms, tail).await
        };
        let given_back = given_back.await;
        self.finish(session, given_back).await
    }

    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        let mut session = self.connect().await?;
        let found = async {
            let opened = self.database.opened(&mut session).await?;
            let mut found = self.counters.find(&mut session, names).await?;
            if opened.layout == Layout::Tickets && names.iter().any(SequenceName::is_default) {
                found.retain(|definition| !definition.name.is_default());
                found.push(self.tickets.definition());
            }
            Ok(found)
        };
        let found = found.await;
        self.finish(session, found).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let mut session = self.connect().await?;
        let revision = async {
            let opened = self.database.opened(&mut session).await?;
            self.database.revision(&mut session, &opened).await
        };
        let revision = revision.await;
        self.finish(session, revision).await
    }

    fn most_held(&self, sequence: &SequenceName, _terms: Terms) -> u64 {
        if self.is_ticket(sequence) { self.tickets.most_held() } else { u64::MAX }
    }

    fn describe(&self) -> String {
        self.server.described()
    }

    async fn close(&self) {
        self.server.close().await;
    }
}

#[async_trait]
impl Catalog for MySql {
    async fn list(&self, after: Option<&SequenceName>, most: u32) -> Result<Vec<Definition>, StoreError> {
        let (mut session, opened) = self.open().await?;
        let mut found = self.counters.list(&mut session, after, most).await?;
        if opened.layout == Layout::Tickets {
            let default = SequenceName::default();
            // A row of its name may be left of a move that was given up.
            found.retain(|definition| !definition.name.is_default());
            if after.is_none_or(|after| *after < default) {
                let at = found.partition_point(|definition| definition.name < default);
                // On a page that ends before it, it is not due yet.
                if at < found.len() || u32::try_from(found.len()).is_ok_and(|found| found < most) {
                    found.insert(at, self.tickets.definition());
                }
            }
        }
        Ok(found)
    }

    async fn edit(&self, name: &SequenceName, edit: &Edit, script: &mut Script) -> Result<bool, StoreError> {
        let (_, opened) = self.open().await?;
        match edit {
            Edit::Fence(fence) if name.is_default() && opened.layout == Layout::Tickets => {
                self.tickets.fence(&opened, *fence, script).await
            }
            _ if name.is_default() && opened.layout == Layout::Tickets => Err(StoreError::new(
                ErrorKind::Refused,
                "default is in the ticket layout (generator_table), where this can't be done. To move it to the counter \
                 layout: seqsvr migrate --counter",
            )),
            _ => self.counters.edit(&opened, name, edit, script).await,
        }
    }

    async fn foreign_rows(&self) -> Result<Vec<String>, StoreError> {
        let (mut session, opened) = self.open().await?;
        if opened.layout == Layout::Tickets { ticket::foreign_rows(&mut session).await } else { Ok(Vec::new()) }
    }

    async fn migrate(&self, migration: Migration, script: &mut Script) -> Result<String, StoreError> {
        let (mut session, opened) = self.open().await?;
        let migrated = match migration {
            Migration::Counter => self.move_default_on(&mut session, &opened, script).await,
            Migration::Step(step) => self.change_step(&mut session, &opened, step, script).await,
            Migration::Widen => self.tickets.widen(&mut session, &opened, script).await,
        };
        self.database.forget();
        migrated
    }

    async fn examine(&self, expected: Expected<'_>) -> Vec<Finding> {
        examine::examine(&self.server, expected).await
    }

    async fn prune(&self, dry_run: bool) -> Result<Pruned, StoreError> {
        examine::prune(&self.server, dry_run).await
    }
}
