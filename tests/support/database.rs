//! Private database servers for the tests: real `MariaDB` and `MySQL` 9, started in
//! fractions of a second to a few seconds, as many as a test wants.
//!
//! What always holds:
//!
//! - No two [`Database`]s share anything: each has its own data directory, socket and
//!   port on 127.0.0.1, and nothing but this computer reaches it.
//! - A server runs with the durable defaults of its make: what it acknowledged as
//!   committed is there after [`Database::kill`] and [`Database::restart`].
//! - A server never outlives its [`Database`], nor the test process, however that ends.
//! - A missing server is a failure, never a skipped test: `make test-deps` gets them.
//!
//! `MariaDB` is the system's; `MySQL` 9 runs from the cache folder into which
//! `scripts/test-deps.sh` unpacked it.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use tempfile::TempDir;

use super::process::{free_port, log_to, path_arg, spawn, tail, unpacked};

mod installation;
use installation::{Installation, copy_folder};

/// How long a server may take until it answers its first query.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks at whether a server is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many free ports are tried: between being found free and being bound by the
/// server, a port can go to another process.
const PORT_TRIES: u32 = 10;

/// Where a clone listens: it has the port of the server that it was copied from.
const CLONE_ADDRESS: &str = "127.0.0.2";

/// The makes of server that the tests run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// The system's `MariaDB`.
    MariaDb,
    /// `MySQL` 9 from the cache folder.
    MySql9,
}

/// A private database server of one test: own data directory in a temporary folder, own
/// free port on 127.0.0.1, own socket. Ends (SIGKILL and wait) and is deleted when dropped.
pub struct Database {
    installation: &'static Installation,
    args: Vec<String>,
    /// Where the server looks for programs, instead of where this process does.
    path: Option<OsString>,
    port: u16,
    socket: PathBuf,
    // The server, while it runs.
    child: Option<Child>,
    // Last, so that the folder goes after everything else. Drop has ended the server by then.
    folder: TempDir,
}

impl Database {
    /// Starts a fresh server. `root` may log in with an empty password, over TCP from
    /// 127.0.0.1 and over the socket, and there is one empty database, `sequence`.
    ///
    /// # Panics
    ///
    /// When the server is not installed or does not start; the message then has the end
    /// of its log.
    pub fn start(flavor: Flavor) -> Self {
        Self::start_with(flavor, &[])
    }

    /// Like [`Database::start`], with further arguments for the server, for example
    /// `--auto-increment-increment=3`. They hold for its restarts too, and win over the
    /// ones this module gives.
    ///
    /// # Panics
    ///
    /// Like [`Database::start`].
    pub fn start_with(flavor: Flavor, args: &[&str]) -> Self {
        Self::start_in(flavor, args, None)
    }

    /// Like [`Database::start_with`], with `path` as the server's PATH.
    pub(super) fn start_in(flavor: Flavor, args: &[&str], path: Option<OsString>) -> Self {
        let mut database = Self::prepare(flavor, args, path);
        for _ in 0..PORT_TRIES {
            database.port = free_port();
            match database.try_run() {
                Ok(()) => return database,
                Err(failure) if failure.port_taken => {}
                Err(failure) => panic!("{failure}"),
            }
        }
        panic!("{PORT_TRIES} free ports in turn were taken before {flavor:?} could bind them");
    }

    /// Like [`Database::start_with`], on a port that the caller has chosen.
    pub(super) fn start_at(port: u16, flavor: Flavor, args: &[&str]) -> Self {
        let mut database = Self::prepare(flavor, args, None);
        database.port = port;
        database.restart();
        database
    }

    /// A server that has its data directory and does not run yet.
    fn prepare(flavor: Flavor, args: &[&str], path: Option<OsString>) -> Self {
        let installation = Installation::of(flavor);
        let args = args.iter().map(ToString::to_string).collect();
        Self::stopped(installation, args, path, &installation.template)
    }

    /// A server that does not run yet and has no port, on a copy of `data`.
    fn stopped(installation: &'static Installation, args: Vec<String>, path: Option<OsString>, data: &Path) -> Self {
        // In /tmp even where TMPDIR says otherwise: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("seqsvr-db-")
            .tempdir_in("/tmp")
            .expect("no temporary folder for the database");
        copy_folder(data, &folder.path().join("data"));
        // A server that starts deletes the temporary tables that it finds, and they could be another one's.
        fs::create_dir(folder.path().join("tmp")).expect("no folder for temporary tables");
        Self { installation, args, path, port: 0, socket: folder.path().join("sock"), child: None, folder }
    }

    /// A second server with this one's identity, as a copied machine is: the same data with `MySQL`'s `auto.cnf`, and the
    /// same port, on 127.0.0.2. Both run; this one was restarted.
    ///
    /// # Panics
    ///
    /// Like [`Database::start`].
    pub fn start_clone(&mut self) -> Self {
        self.kill();
        let mut args = self.args.clone();
        args.push(format!("--bind-address={CLONE_ADDRESS}"));
        let mut clone = Self::stopped(self.installation, args, self.path.clone(), &self.data_dir());
        clone.port = self.port;
        self.restart();
        clone.restart();
        clone
    }

    /// Replaces this server's data by a cold copy of those of `other`. It stays the server that it was: its arguments, its
    /// port and `MySQL`'s `auto.cnf` are kept. Neither runs afterwards.
    pub(super) fn copy_data_of(&mut self, other: &mut Self) {
        self.kill();
        other.kill();
        let (data, id) = (self.data_dir(), self.data_dir().join("auto.cnf"));
        // `MariaDB` has none.
        let own_id = fs::read(&id);
        fs::remove_dir_all(&data).expect("can't remove the old data");
        copy_folder(&other.data_dir(), &data);
        if let Ok(own_id) = own_id {
            fs::write(&id, own_id).expect("can't write the server's id");
        }
    }

    /// The folder of `MariaDB`'s plugin `auth_ed25519`, which the server alone does not have.
    pub fn ed25519_plugin() -> PathBuf {
        unpacked("galera").join("plugin")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where the server listens, for `mysql.host`.
    pub fn address(&self) -> String {
        let is_clone = self.args.iter().any(|arg| arg.ends_with(CLONE_ADDRESS));
        format!("{}:{}", if is_clone { CLONE_ADDRESS } else { "127.0.0.1" }, self.port)
    }

    /// The TCP port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket's path; the same after a restart.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server's version as its program says it, for example `9.7.4-2`.
    pub fn version(&self) -> &str {
        &self.installation.version
    }

    /// Ends the server as a crash would: SIGKILL, and wait until it is gone. Does nothing
    /// when it has ended already.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails for a process that has ended, which is all that is wanted.
            let _ = child.kill();
            child.wait().expect("can't wait for the database's end");
        }
    }

    /// The process ID of the server, which must run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal to the server, which must run.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Adds an argument from the next restart on.
    pub(super) fn add_arg(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }

    /// Leaves an argument out from the next restart on.
    pub(super) fn forget_arg(&mut self, arg: &str) {
        self.args.retain(|known| known != arg);
    }

    /// Starts the server again on the same data, port and socket, after a
    /// [`Database::kill`] if it still runs. Returns when it answers queries.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.try_run() {
                Ok(()) => return,
                // Someone's passing connection may hold the port: it has to be this one.
                Err(failure) if failure.port_taken && Instant::now() < deadline => {
                    thread::sleep(POLL_INTERVAL);
                }
                Err(failure) => panic!("{failure}"),
            }
        }
    }

    /// Runs one or several SQL statements as root, over the socket and outside of any
    /// database, on a connection of their own. Returns all rows of all of them, every
    /// value as the server's text for it and a null as `NULL`.
    ///
    /// # Panics
    ///
    /// With the server's message when a statement fails, or when there is no connection.
    pub async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("query `{sql}`: {error}"))
    }

    /// Like [`Database::query`], of a server that may not answer.
    pub async fn try_query(&self, sql: &str) -> mysql_async::Result<Vec<Vec<String>>> {
        run_query(&self.socket, sql).await
    }

    /// Runs the server, which must not run, with one more argument that makes it end by itself. Returns its log.
    pub(super) fn run_once(&self, arg: &str) -> String {
        let log = self.folder.path().join("log");
        let mut command = self.command();
        log_to(command.arg(arg), &log);
        let status = spawn(command).and_then(|mut child| child.wait()).expect("can't run the database");
        let text = String::from_utf8_lossy(&fs::read(&log).expect("its log")).into_owned();
        assert!(status.success(), "{arg}: {status}; the end of the log:\n{}", tail(&text));
        text
    }

    /// The server's command with all its arguments.
    fn command(&self) -> Command {
        let mut command = self.installation.server();
        command
            .arg(path_arg("--datadir=", &self.data_dir()))
            .arg(path_arg("--socket=", &self.socket))
            .arg(path_arg("--tmpdir=", &self.folder.path().join("tmp")))
            .arg(path_arg("--pid-file=", &self.folder.path().join("pid")))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(self.installation.run_args())
            .args(&self.args);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// Starts the server and waits until it answers a query.
    fn try_run(&mut self) -> Result<(), StartFailure> {
        // What a killed server leaves behind. The lock file names its process id, which
        // by now may be another process's: the server would refuse to start.
        for stale in [self.socket.clone(), self.folder.path().join("sock.lock")] {
            let _ = fs::remove_file(stale);
        }
        let log = self.folder.path().join("log");
        let mut command = self.command();
        log_to(&mut command, &log);
        self.child = Some(spawn(command).expect("can't start the database"));

        let deadline = Instant::now() + START_LIMIT;
        loop {
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("can't ask for the database's end") {
                self.child = None;
                return Err(StartFailure::new(&format!("ended early ({status})"), &log));
            }
            if answers(&self.socket) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.kill();
                return Err(StartFailure::new("did not get ready in time", &log));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why a server could not be started, with the end of its log.
struct StartFailure {
    message: String,
    /// Whether all that was wrong is that something else has the port.
    port_taken: bool,
}

impl StartFailure {
    fn new(what: &str, log: &Path) -> Self {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Self {
            message: format!("the database {what}; the end of its log:\n{}", tail(&text)),
            // Both makes say it so.
            port_taken: text.contains("Bind on TCP/IP port"),
        }
    }
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// Whether the server answers a query, from whichever thread, with a runtime or without.
fn answers(socket: &Path) -> bool {
    // A connection can hang on a server that hasn't got round to it.
    const PATIENCE: Duration = Duration::from_secs(5);
    if !socket.exists() {
        return false;
    }
    // The caller's thread may run a runtime already, which then allows no second one.
    thread::scope(|scope| {
        let probe = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("no runtime to ask the database with")
                .block_on(async { tokio::time::timeout(PATIENCE, run_query(socket, "SELECT 1")).await })
        });
        let answer = probe.join().expect("asking fails without a panic");
        matches!(answer, Ok(Ok(_)))
    })
}

async fn run_query(socket: &Path, sql: &str) -> mysql_async::Result<Vec<Vec<String>>> {
    let socket = socket.to_str().expect("the socket's path is plain ASCII");
    let options: Opts = OptsBuilder::default().user(Some("root")).socket(Some(socket)).into();
    let mut connection = Conn::new(options).await?;
    let mut result = connection.query_iter(sql).await?;
    let mut rows = Vec::new();
    // Each statement has a set, and that of one without results is empty.
    while !result.is_empty() {
        let set: Vec<Row> = result.collect().await?;
        rows.extend(set.into_iter().map(|row| row.unwrap().iter().map(text).collect()));
    }
    result.drop_result().await?;
    connection.disconnect().await?;
    Ok(rows)
}

fn text(value: &Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        // The text protocol has no others.
        other => other.as_sql(true),
    }
}
