//! The programs that tests run beside the one under test: where they are, what they say, and that they end.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

/// Ends the test, as there is no server for it.
pub(super) fn missing(what: &str) -> ! {
    panic!("a server for the tests is missing ({what}): run `make test-deps`")
}

/// The path of a program of the system. A normal user's PATH lacks the folders of servers.
pub(super) fn system_program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| missing(name))
}

/// The folder into which `scripts/test-deps.sh` unpacks what is `of` one make, by that script's rule.
pub(super) fn unpacked(of: &str) -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("SEQSVR_TEST_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("seqsvr")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/seqsvr")))
        .unwrap_or_else(|| missing("HOME is not set"));
    let root = cache.join(of).join("root");
    // Absolute, as servers change their working directory.
    root.canonicalize().unwrap_or_else(|error| missing(&format!("{}: {error}", root.display())))
}

pub(super) fn path_arg(option: &str, path: &Path) -> OsString {
    let mut arg = OsString::from(option);
    arg.push(path);
    arg
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("no free port").port()
}

/// Sends all that `command` prints to a new file.
pub(super) fn log_to(command: &mut Command, log: &Path) {
    let file = File::create(log).expect("can't make the server's log");
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("can't share the server's log")).stderr(file);
}

/// The last lines of a log.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A command for `program` that the kernel kills when the thread that starts it ends:
/// what [`spawn`] starts lives no longer than this process, be that ended by a signal
/// that leaves no time for [`Drop`].
pub(super) fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a [`guarded`] command from a thread that stays as long as this process. A
/// test's own thread may end while another goes on with the server.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();

    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Who ordered waits for the reply, so it can't get lost.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    spawner
        .lock()
        .expect("the spawner's lock is held for a send only")
        .send((command, reply))
        .expect("the spawner stays");
    answer.recv().expect("the spawner answers every order")
}
