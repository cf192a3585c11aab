//! What a node is and remembers: its identity, the store it leased from, and its high-water marks.
//!
//! All of it is in `node.json` in the data directory, written whole to a new file and renamed. Losing it costs a guard,
//! never an id. One process holds the directory (a locked file); another goes on with an identity of its own and
//! remembers nothing.
//!
//! Each sequence has two marks there. `leased_to` is exact when it is written, and after a restart the guard uses it; a node
//! that was killed may have leased more. `high_water_marks` is written ahead of what is leased, so it is never behind, and
//! an operator can fence past it. A clean stop makes both exact.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::faults::{self, Guard};
use crate::name::SequenceName;

const FILE: &str = "node.json";
const LOCK: &str = "node.lock";

/// How many leases of the size of the last one a mark is written ahead.
const LEASES_AHEAD: u64 = 8;

type Marks = BTreeMap<SequenceName, u64>;

/// Why the data directory can't be used.
#[derive(Debug, Error)]
pub enum NodeError {
    /// It can't be made, read or written.
    #[error(
        "data_dir {}: {}: {why}{}. Make it writable for this user, or name another folder as data_dir",
        dir.display(), file.display(), owners(file, why)
    )]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// The file in it, or the folder itself.
        file: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// What the node remembers can't be understood.
    #[error("{}: {why}. If the file is broken, remove it: the node then forgets which store it leased from and its \
             high-water marks, which are guards and not ids", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// The parser's reason.
        why: serde_json::Error,
    },
}

/// Whose `file` is, and who wants it: after a command that root ran, this is what is wrong. The nearest folder above it counts if
/// it can't be looked at.
pub(crate) fn owners(file: &Path, why: &io::Error) -> String {
    if why.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let owner = file.ancestors().find_map(|file| Some((file, fs::metadata(file).ok()?)));
    let user = rustix::process::geteuid().as_raw();
    owner.map_or_else(String::new, |(file, metadata)| {
        format!(" ({} belongs to user {}, and this process is user {user})", file.display(), metadata.uid())
    })
}

/// Gives `file`, which root has made in `dir`, to the owner of `dir`: a command that root runs must not lock the service out.
pub(crate) fn give_to_owner(dir: &Path, file: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let (Ok(dir), Ok(made)) = (fs::metadata(dir), fs::metadata(file))
        && (dir.uid(), dir.gid()) != (made.uid(), made.gid())
    {
        // Where the file system can't, the service says so at its start.
        let _ = std::os::unix::fs::chown(file, Some(dir.uid()), Some(dir.gid()));
    }
}

/// The node leased from another store before.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "this node leased its ids from another store before (store_id {remembered}, this one {found}). Another store counts \
     on its own and may repeat ids. If the configuration is wrong (another host, database or data_dir), correct it; if \
     the change is meant and the new store's ids begin past the old ones, run `seqsvr adopt`"
)]
pub struct AnotherStore {
    remembered: String,
    found: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    node: Uuid,
    #[serde(default)]
    store_id: Option<String>,
    /// `seqsvr adopt` was run: the next store that is found is accepted.
    #[serde(default)]
    is_adopting: bool,
    /// Sequence name -> an upper bound of the block ends (exclusive) that were leased.
    #[serde(default)]
    high_water_marks: Marks,
    /// Sequence name -> the largest block end leased (exclusive). The file of an early build has only `high_water_marks`,
    /// which are exact there.
    #[serde(default)]
    leased_to: Option<Marks>,
}

/// This node.
#[derive(Debug)]
pub struct Node {
    state: Mutex<State>,
    /// The directory, where this process holds it.
    home: Option<Home>,
    /// The last write failed. Relaxed: it only keeps the log short.
    is_failing: AtomicBool,
}

#[derive(Debug)]
struct Home {
    dir: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    writing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    remembered: Remembered,
    is_saved: bool,
    /// The `high_water_marks` that are on the disk.
    written: Marks,
    /// Those on the disk when the node was opened: no earlier run leased past them.
    found: Marks,
}

impl Node {
    /// Opens `dir`, which is made where it is missing. Where another process holds it, the node gets an identity of
    /// its own and [`is_remembered`](Self::is_remembered) says `false`.
    pub fn open(dir: &Path) -> Result<Self, NodeError> {
        let unusable = |file: &Path, why| NodeError::Unusable { dir: dir.to_owned(), file: file.to_owned(), why };
        fs::create_dir_all(dir).map_err(|why| unusable(dir, why))?;
        let file = dir.join(LOCK);
        let unusable = |why| unusable(&file, why);
        let lock = File::options().create(true).truncate(false).write(true).open(&file).map_err(unusable)?;
        give_to_owner(dir, &file);
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Self::forgetful()),
            Err(TryLockError::Error(why)) => return Err(unusable(why)),
        }
        let remembered = load(dir)?.unwrap_or_else(Remembered::new);
        let home = Home { dir: dir.to_owned(), _lock: lock, writing: Mutex::new(()) };
        let node = Self { home: Some(home), ..Self::homeless(remembered) };
        let file = dir.join(FILE);
        node.save().map_err(|why| NodeError::Unusable { dir: dir.to_owned(), file, why })?;
        Ok(node)
    }

    /// Finds out whether `dir` could be opened, and leaves nothing behind: no folder and no file.
    pub fn try_dir(dir: &Path) -> Result<(), NodeError> {
        load(dir)?;
        let here = Path::new(".");
        let existing = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(here);
        let probe = existing.join(format!(".seqsvr-check-{}", std::process::id()));
        let unusable = |file: &Path, why| NodeError::Unusable { dir: dir.to_owned(), file: file.to_owned(), why };
        File::create_new(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|why| unusable(existing, why))?;
        let lock = dir.join(LOCK);
        if lock.exists() {
            File::options().write(true).open(&lock).map_err(|why| unusable(&lock, why))?;
        }
        Ok(())
    }

    /// What the node of `dir` remembers, for who only looks: a server may hold it. `None` where there is no node yet.
    /// Nothing is made or locked, and what is changed of it is never written.
    pub fn read(dir: &Path) -> Result<Option<Self>, NodeError> {
        Ok(load(dir)?.map(Self::homeless))
    }

    /// A node without a directory.
    pub fn forgetful() -> Self {
        Self::homeless(Remembered::new())
    }

    /// A node without a directory that remembers what `node.json` of another one says.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        Remembered::from_json(json).map(Self::homeless)
    }

    /// What it remembers, as `node.json` has it.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        self.state().remembered.to_json()
    }

    fn homeless(remembered: Remembered) -> Self {
        let found = remembered.high_water_marks.clone();
        let state = State { remembered, is_saved: false, written: Marks::new(), found };
        Self { state: Mutex::new(state), home: None, is_failing: AtomicBool::new(false) }
    }

    /// Whether the identity and the marks outlive this process.
    pub fn is_remembered(&self) -> bool {
        self.home.is_some()
    }

    /// The node's own random identity.
    pub fn id(&self) -> Uuid {
        self.state().remembered.node
    }

    /// The store that it leased from.
    pub fn store_id(&self) -> Option<String> {
        self.state().remembered.store_id.clone()
    }

    /// Checks the store's identity, `None` for a store that is still to be made, against the remembered one.
    pub fn check_store(&self, found: Option<&str>) -> Result<(), AnotherStore> {
        let remembered = &self.state().remembered;
        match &remembered.store_id {
            Some(known) if found != Some(known) && !remembered.is_adopting && !faults::is_off(Guard::Store) => {
                Err(AnotherStore {
                    remembered: known.clone(),
                    found: found.unwrap_or("is new and has none yet").to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Remembers the store that is leased from. The marks are of the ids of one store: another one's are forgotten.
    pub fn remember_store(&self, store_id: &str) {
        let mut state = self.state();
        let remembered = &mut state.remembered;
        let is_known = remembered.store_id.as_deref() == Some(store_id);
        if is_known && !remembered.is_adopting {
            return;
        }
        if !is_known {
            remembered.high_water_marks.clear();
            remembered.leased_to().clear();
        }
        remembered.store_id = Some(store_id.to_owned());
        remembered.is_adopting = false;
        state.is_saved = false;
        if !is_known {
            state.found.clear();
            // Another store's marks say nothing about this one's.
            state.written.clear();
        }
    }

    /// Accepts whatever store is found next: what `seqsvr adopt` does. The store that is remembered until then.
    pub fn adopt(&self) -> Option<String> {
        let mut state = self.state();
        state.remembered.is_adopting = true;
        state.is_saved = false;
        state.remembered.store_id.clone()
    }

    /// The largest block end (exclusive) leased of `sequence`; 0 before the first lease.
    pub fn high_water_mark(&self, sequence: &str) -> u64 {
        self.state().remembered.leased_to().get(sequence).copied().unwrap_or(0)
    }

    /// Raises the mark of `sequence` to `end` (exclusive); never lowers it.
    pub fn raise_high_water_mark(&self, sequence: &SequenceName, end: u64) {
        self.state().raise(sequence, end, end);
    }

    /// Raises the mark of `sequence` for a lease of `size` IDs up to `end` (exclusive), none of them above `max_id`. Returns
    /// whether [`save`](Self::save) must write that before one of them is issued: otherwise the disk would be behind.
    pub fn raise_ahead(&self, sequence: &SequenceName, end: u64, size: u64, max_id: u64) -> bool {
        let must_be_written = self.reserve(sequence, end, size, max_id);
        self.raise_high_water_mark(sequence, end);
        must_be_written
    }

    /// As [`raise_ahead`](Self::raise_ahead), for IDs that are not issued: raises only the mark that an operator fences past.
    pub fn reserve(&self, sequence: &SequenceName, end: u64, size: u64, max_id: u64) -> bool {
        let mut state = self.state();
        let written = state.written.get(sequence).copied().unwrap_or(0);
        if self.home.is_none() || end <= written || faults::is_off(Guard::WriteAhead) {
            return false;
        }
        let ahead = end.saturating_add(size.saturating_mul(LEASES_AHEAD)).min(max_id.saturating_add(1)).max(end);
        state.raise(sequence, 0, ahead);
        true
    }

    /// Lowers the mark of `sequence` from `end` to `handed_to`, the end (exclusive) of what was handed out, before the rest is
    /// given back. Not if it is elsewhere: then somebody else raised it.
    pub fn lower_high_water_mark(&self, sequence: &str, end: u64, handed_to: u64) -> bool {
        let mut state = self.state();
        match state.remembered.leased_to().get_mut(sequence) {
            Some(mark) if *mark == end && handed_to < end => *mark = handed_to,
            _ => return false,
        }
        state.is_saved = false;
        true
    }

    /// Lowers the marks to what was leased, at a clean stop: from now on nothing may be leased. A sequence whose mark was
    /// already ahead when the node was opened keeps it, unless more was leased since.
    pub fn make_marks_exact(&self) {
        let mut state = self.state();
        let State { remembered, found, is_saved, .. } = &mut *state;
        let mut exact = remembered.leased_to().clone();
        for (sequence, &mark) in &*found {
            let exact = exact.entry(sequence.clone()).or_default();
            *exact = mark.max(*exact);
        }
        *is_saved &= remembered.high_water_marks == exact;
        remembered.high_water_marks = exact;
    }

    /// Writes what changed since the last call, durably. Blocks on the disk: not for the lease path.
    pub fn save(&self) -> io::Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        // One writer at a time: they share the new file's name, and who comes second must not return before it is there.
        let _writing = home.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = {
            let mut state = self.state();
            if std::mem::replace(&mut state.is_saved, true) {
                return Ok(());
            }
            state.remembered.clone()
        };
        let written = write(&home.dir, &remembered);
        let mut state = self.state();
        match &written {
            // If the store changed meanwhile, its marks were forgotten.
            Ok(()) if state.remembered.store_id == remembered.store_id => state.written = remembered.high_water_marks,
            Ok(()) => {}
            Err(_) => state.is_saved = false,
        }
        written
    }

    /// As [`save`](Self::save). Returns whether that worked. Logs the first failure, and the first success after it.
    pub fn save_or_warn(&self) -> bool {
        let saved = self.save();
        match (&saved, self.is_failing.swap(saved.is_err(), Ordering::Relaxed)) {
            (Ok(()), true) => tracing::info!("what this node remembers is written to data_dir again"),
            (Err(error), false) => tracing::warn!(
                "what this node remembers can't be written to data_dir, and is tried again; until then the marks in node.json may be \
                 behind what is leased: {error}"
            ),
            _ => {}
        }
        saved.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each method leaves the state whole at every step, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn raise(&mut self, sequence: &SequenceName, end: u64, ahead: u64) {
        let Remembered { high_water_marks, leased_to, .. } = &mut self.remembered;
        for (marks, to) in [(leased_to.get_or_insert_default(), end), (high_water_marks, ahead)] {
            let mark = marks.entry(sequence.clone()).or_default();
            if *mark < to {
                *mark = to;
                self.is_saved = false;
            }
        }
    }
}

impl Remembered {
    fn new() -> Self {
        Self { node: Uuid::new_v4(), ..Self::default() }
    }

    fn leased_to(&mut self) -> &mut Marks {
        self.leased_to.get_or_insert_default()
    }

    fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let mut remembered: Self = serde_json::from_slice(json)?;
        let Self { high_water_marks, leased_to, .. } = &mut remembered;
        for (sequence, &end) in &*leased_to.get_or_insert_with(|| high_water_marks.clone()) {
            let mark = high_water_marks.entry(sequence.clone()).or_default();
            *mark = end.max(*mark);
        }
        Ok(remembered)
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
    }
}

/// `None` where nothing was ever written.
fn load(dir: &Path) -> Result<Option<Remembered>, NodeError> {
    let file = dir.join(FILE);
    match fs::read(&file) {
        Ok(text) => Remembered::from_json(&text).map(Some).map_err(|why| NodeError::Broken { file, why }),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(NodeError::Unusable { dir: dir.to_owned(), file, why }),
    }
}

fn write(dir: &Path, remembered: &Remembered) -> io::Result<()> {
    let new = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&remembered.to_json()?)?;
    file.sync_all()?;
    give_to_owner(dir, &new);
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::open(dir.path()).unwrap();
        let id = node.id();
        node.remember_store("a");
        node.raise_high_water_mark(&SequenceName::default(), 201);
        node.raise_high_water_mark(&SequenceName::default(), 101);
        assert!(!node.lower_high_water_mark("default", 151, 101), "not where the mark is elsewhere");
        node.raise_high_water_mark(&SequenceName::default(), 301);
        assert!(node.lower_high_water_mark("default", 301, 201), "a tail that goes back");
        node.save().unwrap();
        drop(node);

        let node = Node::open(dir.path()).unwrap();
        assert_eq!((node.id(), node.high_water_mark("default")), (id, 201));
        assert_eq!(node.check_store(Some("a")), Ok(()));
        assert!(node.check_store(Some("b")).unwrap_err().to_string().contains("seqsvr adopt"));
        assert!(node.check_store(None).is_err(), "a new store is another one");

        assert_eq!(node.adopt().as_deref(), Some("a"));
        assert_eq!(node.check_store(Some("b")), Ok(()));
        node.remember_store("a");
        assert_eq!(node.high_water_mark("default"), 201, "it is the same store after all: its marks stay");
        assert!(node.check_store(Some("b")).is_err(), "adopting is for one store, and over");
        node.adopt();
        node.remember_store("b");
        assert_eq!((node.check_store(Some("b")), node.high_water_mark("default")), (Ok(()), 0));
    }

    /// The keys `high_water_marks` and `leased_to` of `default` on the disk.
    fn on_disk(dir: &Path) -> (u64, u64) {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(FILE)).unwrap()).unwrap();
        let mark = |key: &str| json[key]["default"].as_u64().unwrap_or(0);
        (mark("high_water_marks"), mark("leased_to"))
    }

    #[test]
    fn marks_are_written_ahead_once_in_eight_leases() {
        let dir = tempfile::tempdir().unwrap();
        let (node, name) = (Node::open(dir.path()).unwrap(), SequenceName::default());
        let mut writes = 0;
        for end in (100..=8_100).step_by(100) {
            if node.raise_ahead(&name, end, 100, u64::MAX) {
                node.save().unwrap();
                writes += 1;
            }
            assert!(on_disk(dir.path()).0 >= end, "behind at {end}");
            assert_eq!(node.high_water_mark("default"), end, "the guard's is exact");
        }
        assert_eq!(writes, 9);
        assert!(node.raise_ahead(&name, 1 << 20, 100, u64::MAX), "far past it");
        assert!(node.raise_ahead(&name, 1 << 20, 100, u64::MAX), "it is not written yet");
        drop(node);

        // As after kill -9: the guard knows what was written last, and the mark stays ahead.
        let node = Node::open(dir.path()).unwrap();
        assert_eq!((node.high_water_mark("default"), on_disk(dir.path())), (7_300, (8_100, 7_300)));
        node.make_marks_exact();
        node.save().unwrap();
        assert_eq!(on_disk(dir.path()), (8_100, 7_300), "more may have been leased before");
        assert!(node.raise_ahead(&name, 9_000, 100, u64::MAX));
        node.save().unwrap();
        assert!(node.lower_high_water_mark("default", 9_000, 8_950));
        node.make_marks_exact();
        node.save().unwrap();
        assert_eq!(on_disk(dir.path()), (8_950, 8_950));
    }

    #[test]
    fn a_mark_is_not_written_past_the_largest_id() {
        let dir = tempfile::tempdir().unwrap();
        let (node, name) = (Node::open(dir.path()).unwrap(), SequenceName::default());
        assert!(node.raise_ahead(&name, 901, 100, 1_000));
        node.save().unwrap();
        assert_eq!(on_disk(dir.path()), (1_001, 901));
        assert!(!node.raise_ahead(&name, 1_001, 100, 1_000));
        assert!(!Node::forgetful().raise_ahead(&name, 901, 100, 1_000), "it writes nothing");
    }

    #[test]
    fn the_marks_of_an_early_build_are_exact() {
        let dir = tempfile::tempdir().unwrap();
        let early =
            r#"{"node":"67e55044-10b1-426f-9247-bb680e5fe0c8","store_id":"a","high_water_marks":{"default":901}}"#;
        fs::write(dir.path().join(FILE), early).unwrap();
        let node = Node::open(dir.path()).unwrap();
        assert_eq!((node.high_water_mark("default"), on_disk(dir.path())), (901, (901, 901)));
        assert!(node.raise_ahead(&SequenceName::default(), 902, 1, u64::MAX));
        node.remember_store("b");
        assert_eq!(node.high_water_mark("default"), 0);
        assert!(node.raise_ahead(&SequenceName::default(), 11, 10, u64::MAX), "nothing is written of this store");
        node.save().unwrap();
        assert_eq!(on_disk(dir.path()), (91, 11));
    }

    #[test]
    fn who_only_looks_makes_nothing_and_needs_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Node::read(&dir.path().join("none")).unwrap().is_none());
        assert!(!dir.path().join("none").exists());
        let node = Node::open(dir.path()).unwrap();
        node.remember_store("a");
        node.raise_high_water_mark(&SequenceName::default(), 201);
        node.save().unwrap();
        let seen = Node::read(dir.path()).unwrap().unwrap();
        assert_eq!((seen.id(), seen.store_id().as_deref()), (node.id(), Some("a")));
        assert_eq!((seen.high_water_mark("default"), seen.is_remembered()), (201, false));
        seen.remember_store("b");
        seen.save().unwrap();
        assert_eq!(Node::read(dir.path()).unwrap().unwrap().store_id().as_deref(), Some("a"));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Node::read(dir.path()).is_err());
    }

    #[test]
    fn a_second_process_gets_an_identity_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Node::open(dir.path()).unwrap(), Node::open(dir.path()).unwrap());
        assert!(first.is_remembered() && !second.is_remembered());
        assert_ne!(first.id(), second.id());
    }

    #[test]
    fn a_broken_or_unusable_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Node::open(dir.path()).unwrap_err().to_string().contains("node.json"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Node::open(&file).unwrap_err().to_string().contains("data_dir"));
    }
}
