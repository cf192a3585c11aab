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

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use tempfile::TempDir;

/// How long a server may take until it answers its first query.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks at whether a server is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many free ports are tried: between being found free and being bound by the
/// server, a port can go to another process.
const PORT_TRIES: u32 = 10;

/// Counts the ways templates were made, so that a template which an older version of
/// this file left behind is not taken for one of today's.
const TEMPLATE_RECIPE: u32 = 1;

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
        let installation = Installation::of(flavor);
        // In /tmp even where TMPDIR says otherwise: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("seqsvr-db-")
            .tempdir_in("/tmp")
            .expect("no temporary folder for the database");
        installation.copy_template(&folder.path().join("data"));
        let mut database = Self {
            installation,
            args: args.iter().map(ToString::to_string).collect(),
            path,
            port: 0,
            socket: folder.path().join("sock"),
            child: None,
            folder,
        };
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
        run_query(&self.socket, sql).await.unwrap_or_else(|error| panic!("query `{sql}`: {error}"))
    }

    /// Starts the server and waits until it answers a query.
    fn try_run(&mut self) -> Result<(), StartFailure> {
        // What a killed server leaves behind. The lock file names its process id, which
        // by now may be another process's: the server would refuse to start.
        for stale in [self.socket.clone(), self.folder.path().join("sock.lock")] {
            let _ = fs::remove_file(stale);
        }
        let log = self.folder.path().join("log");
        let mut command = self.installation.server();
        command
            .arg(path_arg("--datadir=", &self.folder.path().join("data")))
            .arg(path_arg("--socket=", &self.socket))
            .arg(path_arg("--pid-file=", &self.folder.path().join("pid")))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(self.installation.run_args())
            .args(&self.args);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
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

/// An installed server, and the template of its data directory.
struct Installation {
    flavor: Flavor,
    /// The server's program, with what has to stand before it.
    program: Vec<OsString>,
    /// `MySQL`'s folder in the cache; empty for `MariaDB`.
    root: PathBuf,
    version: String,
    /// Initialising takes seconds, so it's done once for all tests, which copy this.
    template: PathBuf,
}

impl Installation {
    /// The installation of `flavor`, its template made if it is not there.
    fn of(flavor: Flavor) -> &'static Self {
        static MARIADB: OnceLock<Installation> = OnceLock::new();
        static MYSQL9: OnceLock<Installation> = OnceLock::new();
        let cell = match flavor {
            Flavor::MariaDb => &MARIADB,
            Flavor::MySql9 => &MYSQL9,
        };
        cell.get_or_init(|| {
            let mut installation = Self::find(flavor);
            installation.version = installation.ask_version();
            installation.template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(installation.template_name());
            installation.make_template();
            installation
        })
    }

    /// The programs alone, the version and the template not known yet.
    fn find(flavor: Flavor) -> Self {
        let (program, root) = match flavor {
            Flavor::MariaDb => (vec![system_program("mariadbd").into()], PathBuf::new()),
            Flavor::MySql9 => {
                let root = unpacked("mysql");
                let loader = loader_of(&root);
                let libraries = loader.parent().expect("a file has a folder").to_owned();
                // Its own loader and libraries, for it is built for a newer libc than the
                // system's may be.
                let program =
                    vec![loader.into(), "--library-path".into(), libraries.into(), root.join("usr/sbin/mysqld").into()];
                (program, root)
            }
        };
        Self { flavor, program, root, version: String::new(), template: PathBuf::new() }
    }

    fn ask_version(&self) -> String {
        let output = self
            .server()
            .arg("--version")
            .output()
            .unwrap_or_else(|error| missing(&format!("{:?}: {error}", self.program)));
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace().skip_while(|word| *word != "Ver");
        match words.nth(1) {
            Some(version) => version.to_owned(),
            None => missing(&format!("{:?} does not run", self.program)),
        }
    }

    /// The server's command with the arguments that hold for all it is run for.
    fn server(&self) -> Command {
        let mut command = guarded(&self.program[0]);
        command.args(&self.program[1..]).arg("--no-defaults");
        if is_root() {
            // Servers refuse to run as root unless told so.
            command.arg("--user=root");
        }
        match self.flavor {
            Flavor::MariaDb => command.args(MARIADB_SIZES),
            Flavor::MySql9 => command
                .args(MYSQL_SIZES)
                .arg(path_arg("--basedir=", &self.root.join("usr")))
                .arg(path_arg("--plugin-dir=", &self.root.join("usr/lib/mysql/plugin")))
                .arg(path_arg("--lc-messages-dir=", &self.root.join("usr/share/mysql")))
                .arg(path_arg("--character-sets-dir=", &self.root.join("usr/share/mysql/charsets")))
                // Its default is a folder that packages make.
                .arg("--secure-file-priv=NULL"),
        };
        command
    }

    /// Further arguments for serving.
    fn run_args(&self) -> &'static [&'static str] {
        match self.flavor {
            Flavor::MariaDb => &["--performance-schema=OFF"],
            // The X protocol would bind a port and a socket that all servers share.
            Flavor::MySql9 => &["--performance-schema=OFF", "--skip-log-bin", "--mysqlx=OFF"],
        }
    }

    fn template_name(&self) -> String {
        let version: String =
            self.version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        format!("template-{:?}-{version}-{TEMPLATE_RECIPE}", self.flavor)
    }

    /// Makes the template, unless this or another process has made it.
    fn make_template(&self) {
        let parent = self.template.parent().expect("it is in a folder");
        fs::create_dir_all(parent).expect("can't make the target folder for temporary files");
        let lock = File::create(parent.join(format!("{}.lock", self.template_name())))
            .expect("can't make the lock file of the template");
        // Let go of when the file is closed, so a process that dies here blocks nobody.
        lock.lock().expect("can't lock the template");
        if self.template.is_dir() {
            return;
        }

        // Made in a folder of its own and renamed when complete.
        let scratch =
            tempfile::Builder::new().prefix("template-").tempdir_in(parent).expect("no folder to make the template in");
        let data = scratch.path().join("data");
        let sql = scratch.path().join("init.sql");
        let log = scratch.path().join("log");
        let mut command = match self.flavor {
            Flavor::MariaDb => {
                fs::write(&sql, "CREATE DATABASE sequence;\n").expect("can't write the first statements");
                let mut command = guarded(system_program("mariadb-install-db"));
                command
                    .args(["--no-defaults", "--auth-root-authentication-method=normal"])
                    .args(["--skip-test-db", "--skip-name-resolve"])
                    .args(MARIADB_SIZES)
                    .arg(path_arg("--extra-file=", &sql));
                if is_root() {
                    command.arg("--user=root");
                }
                command
            }
            Flavor::MySql9 => {
                // root@localhost is the socket's only, as no server resolves names.
                fs::write(
                    &sql,
                    "CREATE USER root@'127.0.0.1' IDENTIFIED BY '';\n\
                     GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n\
                     CREATE DATABASE sequence;\n",
                )
                .expect("can't write the first statements");
                let mut command = self.server();
                command.arg("--initialize-insecure").arg(path_arg("--init-file=", &sql));
                command
            }
        };
        command.arg(path_arg("--datadir=", &data));
        log_to(&mut command, &log);
        let status =
            spawn(command).and_then(|mut child| child.wait()).unwrap_or_else(|error| missing(&error.to_string()));
        assert!(
            status.success(),
            "{:?} can't make a data directory ({status}); the end of the log:\n{}",
            self.flavor,
            tail(&fs::read_to_string(&log).unwrap_or_default()),
        );
        // The id of one server, which makes a new one for itself when it has none.
        let _ = fs::remove_file(data.join("auto.cnf"));
        fs::rename(&data, &self.template).expect("can't put the template in its place");
    }

    fn copy_template(&self, to: &Path) {
        // Most of a fresh data directory is zeros, which cp leaves out.
        let output = Command::new("cp")
            .args(["--recursive", "--sparse=always", "--no-target-directory"])
            .arg(&self.template)
            .arg(to)
            .output()
            .expect("can't run cp");
        assert!(output.status.success(), "can't copy the template: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Small files and little memory, as many servers run at a time. What concerns the files
/// must be the same for making the template and for running on a copy of it. The kernel
/// has a limit on native asynchronous requests, which is for all processes together.
const MARIADB_SIZES: [&str; 3] =
    ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=OFF"];

/// See [`MARIADB_SIZES`].
const MYSQL_SIZES: [&str; 3] =
    ["--innodb-redo-log-capacity=8M", "--innodb-buffer-pool-size=64M", "--innodb-use-native-aio=OFF"];

/// Ends the test, as there is no server for it.
fn missing(what: &str) -> ! {
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

/// The dynamic loader among the libraries under `root`. Its name and that of the
/// libraries' folder depend on the machine's kind.
fn loader_of(root: &Path) -> PathBuf {
    let entries = |folder: &Path| {
        fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect::<Vec<_>>()
    };
    entries(&root.join("usr/lib"))
        .iter()
        .flat_map(|folder| entries(folder))
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .unwrap_or_else(|| missing(&format!("no loader in {}", root.display())))
}

fn is_root() -> bool {
    // Without unsafe there's no asking for the user's id; its own entry in /proc has it.
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
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
