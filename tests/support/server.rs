//! The built binary, started in a folder of its own on a free port.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::database::Database;
use super::http::{self, Client, Response};

/// The seed's configuration file, word for word.
pub const SEED_CONFIG: &str = "#app
port: ':8000'

#service
step: 100

#db
mysql:
  user: 'root'
  password: ''
  host: 'tcp(localhost:3306)'
  database: 'sequence'
";

/// Anything that a test waits for comes within this, or the test fails. It is no bound on how fast anything is: the machine
/// may be busy with other tests, or with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration: what a node is started from, again and again.
pub struct Setup {
    /// Its servers keep it too: one whose files are gone leases nothing.
    folder: Arc<TempDir>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// What the binary is started by: `prlimit`, say, and its arguments.
    starter: Vec<String>,
    program: PathBuf,
    /// Where it is started.
    workdir: PathBuf,
    /// Further arguments of a server.
    serve: Vec<String>,
}

impl Setup {
    /// A folder with `config` as its config.yml; with none where it is empty.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        if !config.is_empty() {
            std::fs::write(folder.path().join("config.yml"), config).expect("the configuration is written");
        }
        let setup = Self {
            workdir: folder.path().to_owned(),
            folder: Arc::new(folder),
            environment: Vec::new(),
            arguments: Vec::new(),
            starter: Vec::new(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_seqsvr")),
            serve: Vec::new(),
        };
        setup.env("SEQSVR_PORT", "127.0.0.1:0")
    }

    /// The embedded store, as `--embedded` starts it.
    pub fn embedded() -> Self {
        Self::new("").arg("--embedded")
    }

    /// On `database`, with `more` besides, such as `sequences: {orders: {}}`.
    pub fn on(database: &Database, more: &str) -> Self {
        Self::new(&format!("{SEED_CONFIG}\n{more}\n")).env("SEQSVR_MYSQL__HOST", &host(database))
    }

    /// The seed's file as it is, on `database`.
    pub fn seed(database: &Database) -> Self {
        Self::on(database, "")
    }

    /// Lets requests wait for long: the tests measure no time, and a machine that is slow for a second is no error.
    pub fn patient(self) -> Self {
        self.env("SEQSVR_LIMITS__WAIT", "10s")
    }

    /// Has it listen at `port` each time, in place of any that is free.
    pub fn at(self, port: u16) -> Self {
        self.env("SEQSVR_PORT", &format!("127.0.0.1:{port}"))
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Allows it so many open files and connections, all in all.
    pub fn open_files(self, most: u32) -> Self {
        self.by(&["prlimit", &format!("--nofile={most}:{most}")])
    }

    /// Starts it by another program, which must become the binary, so that it has the process id.
    pub fn by(mut self, starter: &[&str]) -> Self {
        self.starter = starter.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts it with `hosts` in place of `/etc/hosts`, in a mount namespace of its own, for which a test must be root. What is
    /// written to the file `hosts` of its folder later counts from then on.
    pub fn with_hosts(self, hosts: &str) -> Self {
        let file = self.folder().join("hosts");
        std::fs::write(&file, hosts).expect("the hosts are written");
        let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        self.by(&["unshare", "--mount", "sh", "-c", mount, file.to_str().expect("a plain path")])
    }

    /// As an image says it: the program and where it is started, and what a server has for arguments beside those that each
    /// command has.
    pub fn program(self, program: PathBuf, workdir: PathBuf, serve: Vec<String>) -> Self {
        Self { program, workdir, serve, ..self }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program in its folder; nothing of this process's environment that would configure it.
    pub fn command(&self) -> Command {
        let mut line = self.starter.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = Command::new(line.next().expect("there is the program"));
        command.args(line);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SEQSVR_")) {
            command.env_remove(name);
        }
        command
            .current_dir(&self.workdir)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it listens.
    pub fn start(&self) -> Server {
        let mut server = self.spawn();
        server.port = server.wait_for_port();
        server
    }

    /// Asks the server at `port`, as a container does; by `flags` whether it is ready.
    pub fn run_healthcheck(&self, port: u16, flags: &[&str]) -> (i32, String) {
        let mut command = self.command();
        let output = command
            .env("SEQSVR_PORT", format!("127.0.0.1:{port}"))
            .arg("healthcheck")
            .args(flags)
            .output()
            .expect("the binary starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Starts it and does not wait.
    pub fn spawn(&self) -> Server {
        let mut child = self.command().args(&self.serve).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, written) = (BufReader::new(child.stderr.take().expect("it is piped")), log.clone());
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Server { child, log, reader: Some(reader), port: 0, _folder: self.folder.clone() }
    }

    /// Runs it to its end: the exit code, and what it wrote to both outputs. Panics if it does not end.
    pub fn run(&self, arguments: &[&str]) -> (i32, String) {
        let mut server = {
            let mut command = self.command();
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the binary starts")
        };
        let ended = wait(&mut server).is_some();
        if !ended {
            let _ = server.kill();
        }
        let output = server.wait_with_output().expect("its output");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(ended, "it did not end: {text}");
        (output.status.code().unwrap_or(-1), text)
    }
}

fn host(database: &Database) -> String {
    format!("tcp(127.0.0.1:{})", database.port())
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends with the log.
    reader: Option<JoinHandle<()>>,
    port: u16,
    _folder: Arc<TempDir>,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The blocks that it has leased, half-open, each with its sequence. It tells them at the log's level debug only, before the
    /// first id of each.
    pub fn leased(&self) -> Vec<(String, u64, u64)> {
        self.log().lines().filter_map(leased_in).collect()
    }

    pub fn get(&self, path: &str) -> Response {
        http::get(self.port, path)
    }

    /// The next ID. That a lease takes longer than a request may wait is no error: the machine may be slow.
    pub fn next(&self) -> u64 {
        eventually("an ID", || {
            let answer = self.get("/new");
            (!answer.body.contains("faster than they can be leased")).then(|| answer.id())
        })
    }

    fn wait_for_port(&mut self) -> u16 {
        eventually("it listens", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                std::thread::sleep(Duration::from_millis(50)); // for the rest of its log
                panic!("it ended with {status}: {}", self.log());
            }
            port_in(&self.log())
        })
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_until_ready(&self) {
        eventually("it is ready", || (self.get("/readyz").status == 200).then_some(()));
    }

    /// Waits until `/readyz` or the log says `wanted`: why it issues nothing is said there, and not to clients.
    pub fn says_why(&self, wanted: &str) {
        let why = || self.get("/readyz").body + &self.log();
        eventually(&format!("it says '{wanted}'"), || why().contains(wanted).then_some(()));
    }

    pub fn wait_for_log(&self, wanted: &str) {
        eventually(&format!("it logs '{wanted}'"), || self.log().contains(wanted).then_some(()));
    }

    /// The value of a series, by its beginning, such as `seqsvr_leases_total{outcome="ok"`.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(series));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no series {series} in\n{text}"))
    }

    /// The processor time that it has used since its start.
    pub fn cpu(&self) -> Duration {
        static HERTZ: OnceLock<f64> = OnceLock::new();
        let hertz = HERTZ.get_or_init(|| {
            let output = Command::new("getconf").arg("CLK_TCK").output().expect("getconf runs");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of ticks a second")
        });
        let stat = std::fs::read_to_string(self.proc("stat")).expect("the server runs");
        // The name, in brackets, may have blanks in it; utime and stime are the 12th and 13th field behind it.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks: f64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum();
        Duration::from_secs_f64(ticks / hertz)
    }

    /// Its memory that is resident, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the server runs");
        let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a size");
        kilobytes << 10
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).expect("the server runs").count()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid())
    }

    /// kill -9, and wait; its log is complete then.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// How it ended by itself, with its log complete; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Some(status)
    }

    /// Whether it listens and is ready; also of a server that was not waited for, or that has ended.
    pub fn is_ready(&mut self) -> bool {
        let Some(port) = port_in(&self.log()) else { return false };
        self.port = port;
        let ask = |mut client: Client| client.try_request("GET", "/readyz", "");
        Client::try_connect(port).and_then(ask).is_ok_and(|answer| answer.status == 200)
    }

    /// What `/readyz` says when it says no; also of a server that was not waited for.
    pub fn refusal(&mut self) -> Option<String> {
        if self.port == 0 {
            self.port = port_in(&self.log())?;
        }
        let ready = self.get("/readyz");
        (ready.status == 503).then_some(ready.body)
    }

    /// Waits for its end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("it did not end: {}", self.log()))
    }

    /// SIGTERM, and wait.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port that a log says the server listens at.
fn port_in(log: &str) -> Option<u16> {
    let (_, address) = log.split_once("listening on http://")?;
    let (address, _) = address.split_once(": try")?;
    address.rsplit_once(':')?.1.parse().ok()
}

/// The block that a line of the log tells of.
fn leased_in(line: &str) -> Option<(String, u64, u64)> {
    let (_, block) = line.split_once("leased sequence=")?;
    let mut words = block.split_whitespace();
    let sequence = words.next()?.to_owned();
    let start = words.next()?.strip_prefix("start=")?.parse().ok()?;
    let end = words.next()?.strip_prefix("end=")?.parse().ok()?;
    Some((sequence, start, end))
}

#[test]
fn leased_blocks_are_found_in_the_log() {
    let line = "2026-01-31T12:00:00.000001Z DEBUG seqsvr::refill: leased sequence=orders:eu.1 start=101 end=201 held=0";
    assert_eq!(leased_in(line), Some(("orders:eu.1".to_owned(), 101, 201)));
    let largest = format!("leased sequence=default start=1 end={}", u64::MAX);
    assert_eq!(leased_in(&largest), Some(("default".to_owned(), 1, u64::MAX)));
    assert_eq!(leased_in("INFO leased sequence=default start=101"), None);
    assert_eq!(leased_in("INFO no more ids are leased"), None);
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Asks again and again, up to [`PATIENCE`]; panics with `what` if it never comes.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask)
}

/// Like [`eventually`], for what may take longer.
pub fn eventually_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ports that stay free while a node is down: they are below those that the kernel hands out by itself, and none is given to
/// two tests of this process.
pub fn steady_ports<const N: usize>() -> [u16; N] {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 15_000).expect("small");
    std::array::from_fn(|_| {
        loop {
            let tried = TRIED.fetch_add(1, Ordering::Relaxed);
            assert!(tried < 5_000, "no free port");
            if TcpListener::bind(("127.0.0.1", first + tried)).is_ok() {
                break first + tried;
            }
        }
    })
}
