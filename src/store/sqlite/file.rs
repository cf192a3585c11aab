//! What the system says of the embedded store's file: which file it is, whether its `-wal` is there, and on which file system.
//!
//! A copy has the counters of the original and would issue its IDs again. It cannot keep the original's inode and birth time, so
//! the file records both.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use rustix::fs::statfs;

/// The header of a `-wal` that something was committed to.
const WAL_HEADER: u64 = 32;

/// The identity of a file: inode, birth time, and machine ID, each with its name before it.
///
/// A restart, `VACUUM`, a checkpoint, a renamed folder and a bind mount change none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity(String);

impl Identity {
    /// The identity of `file`; `None` if it can't be looked at.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        // Some file systems keep no birth time.
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Some(Self::new(metadata.ino(), born.map(|born| born.as_nanos()), machine()))
    }

    fn new(inode: u64, born: Option<u128>, machine: Option<&str>) -> Self {
        let born = born.map_or_else(String::new, |born| format!(" born {born}"));
        let machine = machine.map_or_else(String::new, |machine| format!("{MACHINE}{machine}"));
        Self(format!("inode {inode}{born}{machine}"))
    }

    /// Whether `recorded` is this file. The machine is compared only if both name one.
    pub(super) fn is(&self, recorded: &str) -> bool {
        let parts = |text| str::split_once(text, MACHINE).map_or((text, None), |(file, machine)| (file, Some(machine)));
        let ((file, machine), (recorded, recorded_machine)) = (parts(&self.0), parts(recorded));
        file == recorded && (machine.is_none() || recorded_machine.is_none() || machine == recorded_machine)
    }

    /// The text that is recorded.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

const MACHINE: &str = " machine ";

/// This machine's ID, by which a copy of a whole disk is told from its original. `None` in a container: its ID, if it has one,
/// changes with each new container or image, while the volume with the file stays the same.
fn machine() -> Option<&'static str> {
    static MACHINE_ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let is_container = ["/.dockerenv", "/run/.containerenv"].iter().any(|file| Path::new(file).exists())
            || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let id = fs::read_to_string("/etc/machine-id").ok().filter(|_| !is_container)?;
        let id = id.trim();
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id.to_owned())
    };
    MACHINE_ID.get_or_init(read).as_deref()
}

/// The write-ahead log beside `file`.
fn wal(file: &Path) -> PathBuf {
    let mut wal = file.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// The inode of the `-wal`; `None` if there is none.
pub(super) fn wal_inode(file: &Path) -> Option<u64> {
    fs::metadata(wal(file)).ok().map(|metadata| metadata.ino())
}

/// Whether something was committed to the present `-wal`. If there is none, SQLite creates an empty one, and the first commit
/// writes its header.
pub(super) fn is_wal_used(file: &Path) -> bool {
    fs::metadata(wal(file)).is_ok_and(|metadata| metadata.len() >= WAL_HEADER)
}

/// Whether a file system keeps what SQLite needs: locks and shared memory that all processes with the file see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// A local file system.
    Local,
    /// FUSE: it depends on the program behind it.
    Fuse,
    /// A network file system: hosts share its files, but not the locks and the memory.
    Network(&'static str),
}

/// `f_type` of statfs(2), from the kernel's `magic.h` and the file systems' own sources.
const NETWORK: [(u32, &str); 11] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "SMB (CIFS)"),
    (0xFE53_4D42, "SMB 2"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
];

const FUSE: u32 = 0x6573_5546;

impl FileSystem {
    /// The file system of `path`, or why it can't be asked.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        // The kernel's type of the field has 32 or 64 bits, signed or not; the magic numbers have 32.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self::by(statfs(path)?.f_type as u32))
    }

    fn by(magic: u32) -> Self {
        match NETWORK.iter().find(|(known, _)| *known == magic) {
            Some((_, name)) => Self::Network(name),
            None if magic == FUSE => Self::Fuse,
            None => Self::Local,
        }
    }
}

/// Why a network file system is refused, and what to do.
pub(super) const NO_NETWORK: &str = "SQLite's locks and shared memory do not work across hosts there, so IDs could be \
                                     repeated. Use a local file system for data_dir, or MySQL to serve from several hosts";

/// What to know about FUSE.
pub(super) const ON_FUSE: &str = "locks, shared memory and syncs are as good as the program behind it. Never let two hosts use \
                                  the file. After a new mount it may look like another file, which must be fenced";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_system_has_its_verdict() {
        for (magic, expected) in [
            (0x0000_6969, FileSystem::Network("NFS")),
            (0x0000_517B, FileSystem::Network("SMB")),
            (0xFF53_4D42, FileSystem::Network("SMB (CIFS)")),
            (0xFE53_4D42, FileSystem::Network("SMB 2")),
            (0x0102_1997, FileSystem::Network("9p")),
            (0x00C3_6400, FileSystem::Network("Ceph")),
            (0x0BD0_0BD0, FileSystem::Network("Lustre")),
            (0x5346_414F, FileSystem::Network("AFS")),
            (0x6B41_4653, FileSystem::Network("AFS")),
            (0x0116_1970, FileSystem::Network("GFS2")),
            (0x7461_636F, FileSystem::Network("OCFS2")),
            (0x6573_5546, FileSystem::Fuse),
            (0x0000_EF53, FileSystem::Local), // ext4
            (0x5846_5342, FileSystem::Local), // xfs
            (0x9123_683E, FileSystem::Local), // btrfs
            (0x2FC1_2FC1, FileSystem::Local), // zfs
            (0x794C_7630, FileSystem::Local), // overlayfs
            (0x0102_1994, FileSystem::Local), // tmpfs, one off 9p
        ] {
            assert_eq!(FileSystem::by(magic), expected, "{magic:#x}");
        }
    }

    #[test]
    fn a_file_stays_the_same_when_it_is_renamed_and_a_copy_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (old, file, copy) = (dir.path().join("old"), dir.path().join("file"), dir.path().join("copy"));
        fs::write(&old, "it").unwrap();
        let identity = Identity::of(&old).unwrap();
        fs::rename(&old, &file).unwrap();
        fs::write(&file, "other").unwrap();
        assert!(Identity::of(&file).unwrap().is(identity.as_str()));
        fs::copy(&file, &copy).unwrap();
        assert!(!Identity::of(&copy).unwrap().is(identity.as_str()));
        assert_eq!(Identity::of(&old), None);
    }

    #[test]
    fn all_that_is_known_of_both_must_be_equal() {
        let recorded = Identity::new(7, Some(1_000), Some("abc"));
        assert_eq!(recorded.as_str(), "inode 7 born 1000 machine abc");
        for (why, found, is_it) in [
            ("all equal", Identity::new(7, Some(1_000), Some("abc")), true),
            ("in a container", Identity::new(7, Some(1_000), None), true),
            ("a cloned disk", Identity::new(7, Some(1_000), Some("abd")), false),
            ("born later", Identity::new(7, Some(1_001), Some("abc")), false),
            ("another inode", Identity::new(8, Some(1_000), Some("abc")), false),
            ("the birth time is gone", Identity::new(7, None, Some("abc")), false),
        ] {
            assert_eq!(found.is(recorded.as_str()), is_it, "{why}");
        }
        assert!(recorded.is("inode 7 born 1000"), "recorded in a container");
        assert!(!recorded.is(""));
    }
}
