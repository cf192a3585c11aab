//! The counter layout's rules, the same on every database: what a row of `seqsvr_sequence` allows to lease, and how a
//! person's change alters it. Pure functions; the stores read and write the rows.

use std::num::NonZeroU64;

use super::guard::{self, Breach, Facts, REGRESSED, State};
use super::{Definition, Edit, ErrorKind, Fence, StoreError, Terms};
use crate::config::Step;
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::segment::{Block, MAX_END};

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The first id that no lease covers.
    pub(super) next_id: u64,
    pub(super) step: Step,
    /// Inclusive.
    pub(super) max_id: u64,
    /// The server that `next_id` was last fenced for, a space, and the store's identity; or [`REGRESSED`].
    pub(super) server: String,
    /// The epoch in which `next_id` was last fenced.
    pub(super) epoch: u32,
    pub(super) incarnation: u32,
    pub(super) is_deleted: bool,
    pub(super) description: String,
}

/// The database's present server and epoch, which a counter must carry to be leased from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'a> {
    /// What a fence records as `server`.
    pub(super) server: &'a str,
    /// Increments when the database moves to another server.
    pub(super) epoch: u32,
}

impl Present<'_> {
    /// Whether `server`, of a row, is of this store. If not, the row was copied from another database.
    pub(super) fn is_of_this_store(self, server: &str) -> bool {
        store_of(server) == store_of(self.server)
    }
}

/// The store's identity in a row's `server`.
fn store_of(server: &str) -> &str {
    server.rsplit(' ').next().unwrap_or_default()
}

/// What a row allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// These ids: as many as were asked for, or the last ones.
    Lease(Block),
    /// A guard says no.
    Refused(Breach),
    /// No id is left.
    Exhausted,
}

impl Row {
    /// What the guard judges. The node holds `terms` and has leased up to `mark` before.
    fn facts<'a>(&'a self, terms: Terms, present: Present<'a>, mark: u64) -> Facts<'a> {
        let state = match &*self.server {
            _ if self.is_deleted => State::Gone,
            REGRESSED => State::Regressed,
            _ => State::Ok,
        };
        Facts {
            // A counter's `server` has the store in it.
            store: ("", ""),
            step: (0, 0),
            server: (&self.server, present.server),
            // No epoch is 0.
            epoch: (if self.server == present.server { self.epoch() } else { 0 }, present.epoch),
            state,
            next: self.next_id,
            mark,
            incarnation: (self.incarnation, terms.incarnation),
        }
    }

    /// Whether the counter is safe to lease from in the present epoch.
    fn is_fenced(&self, present: Present<'_>) -> bool {
        self.epoch() == present.epoch && self.server == present.server
    }

    /// A row without an epoch, of an earlier build, counts as fenced in the first one.
    fn epoch(&self) -> u32 {
        self.epoch.max(1)
    }

    /// What a lease of `want` ids gets, by a node that holds `terms` and has leased up to `mark` before.
    pub(super) fn verdict(&self, terms: Terms, present: Present<'_>, mark: u64, want: NonZeroU64) -> Verdict {
        if let Err(breach) = guard::judge(&self.facts(terms, present, mark)) {
            return Verdict::Refused(breach);
        }
        let end = self.next_id.saturating_add(want.get()).min(self.max_id.saturating_add(1)).min(MAX_END);
        Block::new(self.next_id, end).map_or(Verdict::Exhausted, Verdict::Lease)
    }

    /// How much of the ids that the sequence can ever have is leased, 0 to 1.
    pub(super) fn capacity_used(next_id: u64, max_id: u64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let used = next_id.saturating_sub(1) as f64 / max_id.max(1) as f64;
        used.min(1.0)
    }

    /// As the callers of a store know it.
    pub(super) fn definition(self, name: SequenceName) -> Definition {
        Definition {
            name,
            terms: Terms { step: self.step, max_id: self.max_id, incarnation: self.incarnation },
            next_id: Some(self.next_id),
            is_deleted: self.is_deleted,
            description: self.description,
        }
    }

    /// The error for a row that breaks a rule. `at` is the store; `moved` says why IDs could be repeated if it is not fenced.
    pub(super) fn refusal(
        &self,
        breach: Breach,
        name: &SequenceName,
        (at, moved): (&str, &str),
        present: Present<'_>,
        mark: u64,
    ) -> StoreError {
        let facts = self.facts(Terms::unknown(self.step), present, mark);
        let past = mark.max(self.next_id).saturating_sub(1);
        let how = &format!("its next id is {}", self.next_id);
        guard::refusal(breach, &facts, &guard::Refusal { at, name, past, how, moved })
    }

    /// What is told where no id is left.
    pub(super) fn exhausted(&self, name: &SequenceName, at: &str) -> StoreError {
        StoreError::new(
            ErrorKind::Exhausted,
            format!(
                "{at}: sequence {name} is used up: its largest id {} is leased. Raise it: seqsvr sequence alter {name} \
                 --max-id N, or go over to a new sequence",
                self.max_id
            ),
        )
    }

    /// The row, fenced in the present epoch.
    fn fenced(&self, name: &SequenceName, fence: Fence, present: Present<'_>) -> Result<Self, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        let next_id = match fence {
            // Past the largest id too: it is used up then, until somebody raises that.
            Fence::Skip(ids) => return Ok(self.fenced_at(self.next_id.saturating_add(ids).min(MAX_END), present)),
            Fence::Past(id) if id.saturating_add(1) < self.next_id && !self.is_fenced(present) => {
                return refused(format!(
                    "the counter of sequence {name} is not safe, and one of the nodes has leased up to {}: --past can't be below \
                     that",
                    self.next_id - 1
                ));
            }
            Fence::Past(id) => self.next_id.max(id.saturating_add(1)),
        };
        // One past the largest: it is used up then, and safe.
        if next_id > self.max_id.saturating_add(1) && next_id != self.next_id {
            return refused(format!(
                "the largest id of sequence {name} is {}: its next one can't be {next_id}. Raise it first: seqsvr sequence alter \
                 {name} --max-id N",
                self.max_id
            ));
        }
        Ok(self.fenced_at(next_id, present))
    }

    fn fenced_at(&self, next_id: u64, present: Present<'_>) -> Self {
        // What is held may be held twice where a node found the counter below what it had leased.
        let incarnation = self.incarnation + u32::from(self.server == REGRESSED);
        let Present { server, epoch } = present;
        Self { next_id: next_id.max(self.next_id), incarnation, server: server.to_owned(), epoch, ..self.clone() }
    }

    /// The statement that writes the row, for people to read.
    pub(super) fn shown(&self, name: &SequenceName, is_there: bool) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let deleted_at = if self.is_deleted { "CURRENT_TIMESTAMP" } else { "NULL" };
        let (server, description) = (quoted(&self.server), quoted(&self.description));
        let Self { next_id, step, max_id, incarnation, epoch, .. } = self;
        if is_there {
            format!(
                "UPDATE seqsvr_sequence SET next_id = {next_id}, step = {}, max_id = {max_id}, incarnation = {incarnation}, \
                 deleted_at = {deleted_at}, server = {server}, epoch = {epoch}, description = {description} WHERE name = '{name}'",
                step.get()
            )
        } else {
            format!(
                "INSERT INTO seqsvr_sequence (name, next_id, step, max_id, incarnation, server, epoch, description) VALUES \
                 ('{name}', {next_id}, {}, {max_id}, {incarnation}, {server}, {epoch}, {description})",
                step.get()
            )
        }
    }
}

/// The error for terms that are not the store's any more.
pub(super) fn stale(name: &SequenceName, at: &str) -> StoreError {
    StoreError::new(ErrorKind::Stale, format!("{at}: sequence {name} was changed, or deleted"))
}

impl Edit {
    /// The row after the change; `before` is the current one. Equal rows mean that there is nothing to do.
    pub(super) fn apply(
        &self,
        name: &SequenceName,
        before: Option<&Row>,
        present: Present<'_>,
    ) -> Result<Row, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        if let (&Self::Fence(fence), Some(row)) = (self, before) {
            // A tombstone too: one that is created again goes on from it.
            return row.fenced(name, fence, present);
        }
        let live = before.filter(|row| !row.is_deleted);
        match (self, live) {
            (Self::Create(_) | Self::Declare(_), Some(_)) => refused(format!("there is a sequence {name} already")),
            (Self::Create(new) | Self::Declare(new), None) => Ok(Row {
                // A tombstone's counter: what nodes hold of the deleted one stays unique.
                next_id: match before
                    .filter(|_| !faults::is_off(Switch::Tombstone))
                    .map_or(0, |row| row.next_id)
                    .max(new.first_id)
                {
                    next_id if next_id <= new.max_id => next_id,
                    next_id => {
                        return refused(format!(
                            "sequence {name} was there before, and goes on from id {next_id}: --max-id can't be below that"
                        ));
                    }
                },
                step: new.step,
                max_id: new.max_id,
                // A counter that is to be fenced still is.
                server: before.map_or(present.server, |row| &row.server).to_owned(),
                epoch: before.map_or(present.epoch, |row| row.epoch),
                incarnation: before.map_or(0, |row| row.incarnation) + 1,
                is_deleted: false,
                description: new.description.clone(),
            }),
            (Self::Fence(_), _) | (_, None) => {
                refused(format!("there is no sequence {name}. To see which there are: seqsvr sequence list"))
            }
            (Self::Alter(change), Some(row)) => {
                let max_id = change.max_id.unwrap_or(row.max_id);
                if max_id < row.next_id.saturating_sub(1) && max_id != row.max_id {
                    return refused(format!(
                        "the ids of sequence {name} are leased up to {} already: --max-id can't be below that",
                        row.next_id - 1
                    ));
                }
                Ok(Row {
                    step: change.step.unwrap_or(row.step),
                    max_id,
                    description: change.description.clone().unwrap_or_else(|| row.description.clone()),
                    ..row.clone()
                })
            }
            (&Self::Advance(to), Some(row)) => {
                if to > row.max_id {
                    return refused(format!(
                        "the largest id of sequence {name} is {}: its next one can't be {to}. Raise it first: seqsvr \
                         sequence alter {name} --max-id N",
                        row.max_id
                    ));
                }
                if !row.is_fenced(present) && to < row.next_id {
                    return refused(format!(
                        "the counter of sequence {name} is not safe, and below {} it can't be made so: --to must be past what \
                         any node has leased, and one of them has leased up to there",
                        row.next_id
                    ));
                }
                // What is held from before is dropped too where the counter was not safe: it may be held twice.
                let drops = to > row.next_id || !row.is_fenced(present);
                Ok(Row {
                    next_id: row.next_id.max(to),
                    incarnation: row.incarnation + u32::from(drops),
                    server: present.server.to_owned(),
                    epoch: present.epoch,
                    ..row.clone()
                })
            }
            (Self::Delete, Some(_)) if name.is_default() => {
                refused("default can't be deleted: /new would have no sequence".to_owned())
            }
            (Self::Delete, Some(row)) => Ok(Row { is_deleted: true, ..row.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Change;
    use super::*;
    use crate::config::NewSequence;

    const PRESENT: Present<'static> = Present { server: "here s", epoch: 2 };
    const TERMS: Terms = Terms { step: Step::of(100), max_id: 1_000, incarnation: 1 };

    fn row() -> Row {
        Row {
            next_id: 501,
            step: TERMS.step,
            max_id: TERMS.max_id,
            server: "here s".into(),
            epoch: 2,
            incarnation: 1,
            is_deleted: false,
            description: String::new(),
        }
    }

    fn verdict(row: &Row, mark: u64, want: u64) -> Verdict {
        row.verdict(TERMS, PRESENT, mark, NonZeroU64::new(want).unwrap())
    }

    #[test]
    fn a_row_says_what_may_be_leased() {
        let block = |start, end| Verdict::Lease(Block::new(start, end).unwrap());
        for (why, row, mark, want, expected) in [
            ("as asked for", row(), 501, 100, block(501, 601)),
            ("the last ones", row(), 0, 10_000, block(501, 1_001)),
            ("no end of numbers", Row { max_id: u64::MAX, ..row() }, 0, u64::MAX, block(501, MAX_END)),
            ("used up", Row { next_id: 1_001, ..row() }, 0, 1, Verdict::Exhausted),
            ("past its end", Row { next_id: u64::MAX, ..row() }, 0, 1, Verdict::Exhausted),
            ("one below the mark", row(), 502, 100, Verdict::Refused(Breach::Regressed)),
            ("deleted", Row { is_deleted: true, ..row() }, 0, 1, Verdict::Refused(Breach::Stale)),
            ("another incarnation", Row { incarnation: 2, ..row() }, 0, 1, Verdict::Refused(Breach::Stale)),
            (
                "restored, of an earlier incarnation",
                Row { incarnation: 0, ..row() },
                502,
                1,
                Verdict::Refused(Breach::Regressed),
            ),
            ("idle in an epoch", Row { epoch: 1, ..row() }, 0, 1, Verdict::Refused(Breach::NotFenced)),
            ("another store", Row { server: "here t".into(), ..row() }, 0, 1, Verdict::Refused(Breach::NotFenced)),
            (
                "another server in this epoch",
                Row { server: "there s".into(), ..row() },
                0,
                1,
                Verdict::Refused(Breach::NotFenced),
            ),
            ("went back", Row { server: REGRESSED.into(), ..row() }, 0, 1, Verdict::Refused(Breach::Regressed)),
        ] {
            assert_eq!(verdict(&row, mark, want), expected, "{why}");
        }
    }

    #[allow(clippy::needless_pass_by_value)] // reads better in the tables below
    fn apply(edit: Edit, before: Option<&Row>) -> Result<Row, String> {
        edit.apply(&"orders".parse().unwrap(), before, PRESENT).map_err(|error| error.what)
    }

    fn new(first_id: u64) -> NewSequence {
        NewSequence { first_id, ..NewSequence::new("orders".parse().unwrap(), Step::of(7)) }
    }

    #[test]
    fn a_sequence_created_again_goes_on_from_its_tombstone() {
        let deleted = apply(Edit::Delete, Some(&row())).unwrap();
        assert!(deleted.is_deleted && deleted.next_id == 501);
        let again = apply(Edit::Create(new(1)), Some(&deleted)).unwrap();
        assert_eq!((again.next_id, again.incarnation, again.is_deleted), (501, 2, false));
        assert_eq!(apply(Edit::Create(new(9_000)), Some(&deleted)).unwrap().next_id, 9_000);
        let unsafe_one = Row { server: REGRESSED.into(), ..deleted.clone() };
        assert_eq!(apply(Edit::Create(new(1)), Some(&unsafe_one)).unwrap().server, REGRESSED);
        let idle = Row { epoch: 1, ..deleted };
        assert_eq!(apply(Edit::Create(new(1)), Some(&idle)).unwrap().epoch, 1, "still to be fenced");
        assert_eq!(apply(Edit::Create(new(1)), None).unwrap().epoch, 2);
    }

    #[test]
    fn what_can_not_be_done_is_told() {
        let (row, tombstone) = (row(), Row { is_deleted: true, ..row() });
        let small = NewSequence { max_id: 500, ..new(1) };
        let alter = |max_id| Change { max_id: Some(max_id), ..Change::default() };
        for (edit, before, wanted) in [
            (Edit::Create(new(1)), Some(&row), "there is a sequence orders already"),
            (Edit::Create(small), Some(&tombstone), "goes on from id 501"),
            (Edit::Delete, None, "there is no sequence orders"),
            (Edit::Delete, Some(&tombstone), "there is no sequence orders"),
            (Edit::Advance(600), Some(&tombstone), "there is no sequence orders"),
            (Edit::Alter(alter(499)), Some(&row), "leased up to 500 already"),
            (Edit::Advance(1_001), Some(&row), "its next one can't be 1001"),
        ] {
            let told = apply(edit, before).unwrap_err();
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
        let default = Edit::Delete.apply(&SequenceName::default(), Some(&row), PRESENT);
        assert!(default.unwrap_err().what.contains("can't be deleted"));
        assert_eq!(apply(Edit::Alter(alter(500)), Some(&row)).unwrap().max_id, 500);
    }

    #[test]
    fn advancing_moves_forward_only_and_fences() {
        let elsewhere = Row { server: "there s".into(), epoch: 1, ..row() };
        let stays = apply(Edit::Advance(501), Some(&elsewhere)).unwrap();
        assert_eq!(stays, Row { incarnation: 2, ..row() });
        assert!(apply(Edit::Advance(500), Some(&elsewhere)).unwrap_err().contains("past what any node has leased"));
        assert_eq!(apply(Edit::Advance(3), Some(&row())), Ok(row()), "nothing to do");
        let forward = apply(Edit::Advance(502), Some(&elsewhere)).unwrap();
        assert_eq!((forward.next_id, forward.incarnation), (502, 2));
    }

    #[test]
    fn fencing_moves_forward_only_and_keeps_what_is_held() {
        let elsewhere = Row { server: "there s".into(), epoch: 1, ..row() };
        let fence = |fence, row: &Row| apply(Edit::Fence(fence), Some(row));
        let here = row();
        assert_eq!(fence(Fence::Skip(100), &elsewhere), Ok(Row { next_id: 601, ..here.clone() }));
        assert_eq!(fence(Fence::Past(700), &elsewhere), Ok(Row { next_id: 701, ..here.clone() }));
        assert_eq!(fence(Fence::Past(500), &elsewhere), Ok(here.clone()), "that is where it is");
        assert!(fence(Fence::Past(499), &elsewhere).unwrap_err().contains("leased up to 500"));
        assert_eq!(fence(Fence::Past(3), &here), Ok(here.clone()), "nothing to do");
        assert_eq!(fence(Fence::Skip(500), &elsewhere).unwrap().next_id, 1_001, "used up, and safe");
        assert_eq!(fence(Fence::Skip(900), &elsewhere).unwrap().next_id, 1_401, "its largest id may be raised later");
        assert_eq!(fence(Fence::Skip(u64::MAX), &elsewhere).unwrap().next_id, MAX_END);
        assert_eq!(fence(Fence::Past(1_000), &elsewhere).unwrap().next_id, 1_001, "used up, and safe");
        assert!(fence(Fence::Past(1_001), &elsewhere).unwrap_err().contains("--max-id"));
        let behind = Row { server: REGRESSED.into(), ..row() };
        assert_eq!(
            fence(Fence::Skip(9), &behind),
            Ok(Row { next_id: 510, incarnation: 2, ..here }),
            "it may be held twice"
        );
        let tombstone = Row { is_deleted: true, ..elsewhere };
        assert_eq!(fence(Fence::Skip(9), &tombstone).unwrap(), Row { is_deleted: true, next_id: 510, ..row() });
        assert!(apply(Edit::Fence(Fence::Skip(1)), None).unwrap_err().contains("there is no sequence"));
    }

    #[test]
    fn capacity_is_the_share_that_is_leased() {
        for (next_id, max_id, share) in [(0, 100, 0.0), (1, 100, 0.0), (51, 100, 0.5), (101, 100, 1.0), (900, 100, 1.0)]
        {
            let used = Row::capacity_used(next_id, max_id);
            assert!((used - share).abs() < 1e-9, "{next_id} of {max_id}: {used}");
        }
    }

    #[test]
    fn a_row_is_shown_as_the_statement_that_writes_it() {
        let shown = Row { description: "it's".into(), ..row() }.shown(&"orders".parse().unwrap(), true);
        assert!(shown.contains("next_id = 501") && shown.contains("'it''s' WHERE name = 'orders'"), "{shown}");
        assert!(row().shown(&"orders".parse().unwrap(), false).starts_with("INSERT INTO seqsvr_sequence (name,"));
    }

    #[test]
    fn advancing_a_counter_that_is_safe_drops_what_is_held_only_if_it_moves() {
        assert_eq!(apply(Edit::Advance(501), Some(&row())), Ok(row()), "it is there");
        let moved = Row { next_id: 1_000, incarnation: 2, ..row() };
        assert_eq!(apply(Edit::Advance(1_000), Some(&row())), Ok(moved), "to the largest id");
    }

    #[test]
    fn altering_changes_what_is_named_and_nothing_else() {
        let nothing = Change::default();
        assert_eq!(apply(Edit::Alter(nothing.clone()), Some(&row())), Ok(row()));
        let step = Change { step: Some(Step::of(7)), ..nothing.clone() };
        assert_eq!(apply(Edit::Alter(step.clone()), Some(&row())), Ok(Row { step: Step::of(7), ..row() }));
        let description = Change { description: Some("d".into()), ..nothing };
        assert_eq!(apply(Edit::Alter(description), Some(&row())), Ok(Row { description: "d".into(), ..row() }));
        // Its largest id was lowered by hand.
        let past_its_end = Row { next_id: 1_101, ..row() };
        assert_eq!(
            apply(Edit::Alter(step), Some(&past_its_end)),
            Ok(Row { step: Step::of(7), ..past_its_end }),
            "max_id stays as it is"
        );
    }

    proptest! {
        /// Whatever people do, in whatever order, no counter goes back.
        #[test]
        fn no_edit_lowers_the_counter(edits in prop::collection::vec((0..6, 1..1_000_u64), 1..40)) {
            let mut row: Option<Row> = None;
            for (kind, number) in edits {
                let new = new(number);
                let change = Change { max_id: Some(number), ..Change::default() };
                let edit = match kind {
                    0 => Edit::Create(new),
                    1 => Edit::Alter(change),
                    2 => Edit::Advance(number),
                    3 => Edit::Fence(Fence::Skip(number)),
                    4 => Edit::Fence(Fence::Past(number)),
                    _ => Edit::Delete,
                };
                if let Ok(after) = apply(edit, row.as_ref()) {
                    if let Some(before) = &row {
                        prop_assert!(after.next_id >= before.next_id);
                        prop_assert!(after.incarnation >= before.incarnation);
                    }
                    row = Some(after);
                }
            }
        }
    }
}
