//! What asks the store for sequences: those that a request names for the first time, and those that changed.
//!
//! Names are looked up many at a time, by one query after another, however many requests wait: a flood of names costs the
//! store one query at a time. That sequences were created, altered, advanced or deleted shows in one number, which is read
//! every two seconds; only when it changed are the definitions read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::Sequences;
use crate::config::NewSequence;
use crate::metrics::Metrics;
use crate::name::SequenceName;
use crate::node::Node;
use crate::refill::policy::Policy;
use crate::sequence::{Sequence, Shared};
use crate::store::{Catalog, Definition, Edit, ErrorKind, MOST_NAMES, Script, StoreError};

/// How often it is looked for changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Every so many looks all definitions are read, whatever the revision says: rows can be edited by hand.
const LOOKS_PER_FULL_ONE: u32 = 30;

/// The pause after a query that found none of its names: who asks for such names can wait a little.
const PAUSE_AFTER_NOTHING: Duration = Duration::from_millis(50);

/// A query that failed is tried once more: connections that were idle while the store restarted are found broken.
const TRIES: u32 = 2;

/// A name that was asked for.
#[derive(Debug)]
pub struct Asked {
    pub(super) name: SequenceName,
    /// Whether there is a sequence of that name; it is among the known ones then. Or why that can't be told.
    pub(super) reply: oneshot::Sender<Result<bool, String>>,
}

/// What came of a name: its definition, or why it can't be made.
type Found = Result<Definition, StoreError>;

/// The two tasks that ask.
pub struct Finder {
    /// Where what is found is put.
    pub sequences: Arc<Sequences>,
    /// Who is asked.
    pub store: Arc<dyn Catalog>,
    /// The configuration's, which are made where they are missing.
    pub declared: Vec<NewSequence>,
    /// How much of a new sequence is held.
    pub policy: Policy,
    /// What new sequences share.
    pub shared: Arc<Shared>,
    /// Where the marks are.
    pub node: Arc<Node>,
    /// Where look-ups are counted.
    pub metrics: Arc<Metrics>,
}

impl Finder {
    /// Looks up the names that come through `asked`, for ever.
    pub async fn look_up(self: Arc<Self>, mut asked: mpsc::Receiver<Asked>) {
        let mut batch = Vec::with_capacity(MOST_NAMES);
        let mut is_failing = false;
        while asked.recv_many(&mut batch, MOST_NAMES).await > 0 {
            // Found while these waited: who comes with a crowd must not wait for a second query.
            for Asked { reply, .. } in batch.extract_if(.., |asked| self.sequences.known(asked.name.as_str()).is_some())
            {
                let _ = reply.send(Ok(true));
            }
            let names: HashSet<SequenceName> = batch.iter().map(|asked| asked.name.clone()).collect();
            let names: Vec<SequenceName> = names.into_iter().collect();
            if names.is_empty() {
                continue;
            }
            let found = self.find_or_make(&names).await;
            let is_nothing = found.as_ref().is_ok_and(HashMap::is_empty);
            match (&found, is_failing) {
                (Err(error), false) => {
                    tracing::warn!(
                        "sequences can't be looked up; those that this node does not know yet get 503: {error}"
                    );
                }
                (Ok(_), true) => tracing::info!("sequences can be looked up again"),
                _ => {}
            }
            is_failing = found.is_err();
            if let Ok(found) = &found {
                for name in &names {
                    match found.get(name) {
                        Some(Ok(definition)) => self.take_in(definition),
                        Some(Err(_)) => {}
                        None => self.sequences.remember_unknown(name.clone()),
                    }
                }
            }
            for Asked { name, reply } in batch.drain(..) {
                let answer = match &found {
                    Ok(found) => match found.get(&name) {
                        Some(Err(error)) => Err(error.what.clone()),
                        other => Ok(other.is_some()),
                    },
                    Err(error) => Err(error.what.clone()),
                };
                self.metrics.looked_up(match &answer {
                    Ok(true) => "found",
                    Ok(false) => "unknown",
                    Err(_) => "failed",
                });
                // Who asked may have given up.
                let _ = reply.send(answer);
            }
            if is_nothing {
                sleep(PAUSE_AFTER_NOTHING).await;
            }
        }
    }

    /// Those of `names` that there are and that are not deleted. Declared ones are made; the error of one that can't be is its
    /// own.
    async fn find_or_make(&self, names: &[SequenceName]) -> Result<HashMap<SequenceName, Found>, StoreError> {
        let mut found = self.find(names).await?;
        let is_missing = |new: &&NewSequence| names.contains(&new.name) && !found.iter().any(|d| d.name == new.name);
        let missing: Vec<&NewSequence> = self.declared.iter().filter(is_missing).collect();
        let mut errors = Vec::new();
        if !missing.is_empty() {
            for new in missing {
                if let Err(error) = self.make(new).await {
                    errors.push((new.name.clone(), Err(error)));
                }
            }
            found = self.find(names).await?;
        }
        let live = found.into_iter().filter(|definition| !definition.is_deleted);
        Ok(errors.into_iter().chain(live.map(|definition| (definition.name.clone(), Ok(definition)))).collect())
    }

    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        let mut tries = 1;
        loop {
            match self.store.find(names).await {
                Err(_) if tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn make(&self, new: &NewSequence) -> Result<(), StoreError> {
        let mark = self.node.high_water_mark(new.name.as_str());
        if mark > 0 {
            // Made anew, it would begin where it began then.
            return Err(StoreError::new(
                ErrorKind::Regressed,
                format!(
                    "{}: the sequence {} is gone, though this node leased from it up to {mark}: a restored backup? Put its row \
                     back, or make it anew past all ids: seqsvr sequence create {} --first-id ID",
                    self.store.describe(),
                    new.name,
                    new.name
                ),
            ));
        }
        match self.store.edit(&new.name, &Edit::Declare(new.clone()), &mut Script::default()).await {
            Ok(_) => {
                // It may begin past its first ID.
                let found = self.store.find(std::slice::from_ref(&new.name)).await.unwrap_or_default();
                let first_id = found.first().and_then(|definition| definition.next_id).unwrap_or(new.first_id);
                tracing::warn!("made the sequence {}, which the configuration declares, from id {first_id}", new.name);
                Ok(())
            }
            // Another node was faster.
            Err(error) if error.kind == ErrorKind::Refused => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes what was found known.
    fn take_in(&self, definition: &Definition) {
        let known = self.sequences.by_name.pin();
        if let Some(sequence) = known.get(&definition.name) {
            sequence.announce(Some(definition));
            return;
        }
        let (name, terms) = (definition.name.clone(), definition.terms);
        let most_held = self.policy.max_held(terms.step.get(), self.store.most_held(&name, terms));
        let mark = self.node.high_water_mark(name.as_str());
        let sequence = Sequence::new(name.clone(), terms, most_held, mark, self.shared.clone());
        known.insert(name, sequence);
    }

    /// Makes the declared sequences, and looks for changes, for ever.
    pub async fn look_for_changes(self: Arc<Self>) {
        let (mut is_declared, mut told, mut seen, mut looks) = (false, None, None, 0);
        let mut compared = HashSet::new();
        loop {
            let looked = async {
                let revision = self.store.revision().await?;
                if seen != Some(revision) || looks % LOOKS_PER_FULL_ONE == 0 {
                    self.refresh().await?;
                    seen = Some(revision);
                }
                looks += 1;
                Ok::<(), StoreError>(())
            };
            if let Err(error) = looked.await {
                // The refill says what is wrong with the store. Until it is away no more, nothing changes.
                tracing::debug!("the sequences' definitions can't be read: {error}");
            }
            if !is_declared {
                match self.declare(&mut compared).await {
                    Ok(()) => is_declared = true,
                    // Of a store that is away the refill tells.
                    Err(error) if error.kind == ErrorKind::Unavailable || told == Some(error.kind) => {}
                    Err(error) => {
                        told = Some(error.kind);
                        tracing::error!("the declared sequences can't all be made, which is tried again: {error}");
                    }
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Makes the declared sequences that are missing, and tells of those that are not as they are declared: once, however
    /// often this is tried; `compared` has their names. The first error, once all were tried.
    async fn declare(&self, compared: &mut HashSet<SequenceName>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for declared in self.declared.chunks(MOST_NAMES) {
            let names: Vec<SequenceName> = declared.iter().map(|new| new.name.clone()).collect();
            let found = self.store.find(&names).await?;
            for new in declared {
                let name = &new.name;
                match found.iter().find(|definition| definition.name == *name) {
                    None => outcome = outcome.and(self.make(new).await),
                    Some(_) if !compared.insert(name.clone()) => {}
                    Some(definition) if definition.is_deleted => tracing::warn!(
                        "the configuration declares the sequence {name}, but it was deleted: make it again with `seqsvr \
                         sequence create {name}`, or remove it from the configuration"
                    ),
                    Some(Definition { terms, .. }) if (terms.step, terms.max_id) != (new.step, new.max_id) => {
                        tracing::warn!(
                            "the configuration declares the sequence {name} with step {} and max_id {}, but it has {} and {}, \
                             which count: change them with `seqsvr sequence alter {name}`",
                            new.step.get(),
                            new.max_id,
                            terms.step.get(),
                            terms.max_id
                        );
                    }
                    Some(_) => {}
                }
            }
        }
        outcome
    }

    /// Reads the definitions of all that are known.
    async fn refresh(&self) -> Result<(), StoreError> {
        let known = self.sequences.all();
        for some in known.chunks(MOST_NAMES) {
            let names: Vec<SequenceName> = some.iter().map(|sequence| sequence.name().clone()).collect();
            let found: HashMap<SequenceName, Definition> =
                self.store.find(&names).await?.into_iter().map(|found| (found.name.clone(), found)).collect();
            for sequence in some {
                sequence.announce(found.get(sequence.name()));
            }
        }
        // Those among them that were created are found at once.
        self.sequences.unknown().clear();
        Ok(())
    }
}
