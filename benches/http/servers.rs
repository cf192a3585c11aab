//! The contestants: each a server that was started here, on a port of its own, and ends when it is dropped.

use std::any::Any;
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ids::Seen;
use crate::protocol::Protocol;
use crate::protocol::http::{Http, Ids};
use crate::reference;
use crate::support::http::Client;
use crate::support::server::Setup;

pub mod peers;

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks at whether a server is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(10);

/// An id as long as those that are measured.
const LONG_ID: &str = "1000000";

/// A running server and how it is asked for an id.
pub struct Contestant {
    pub name: String,
    pub port: u16,
    /// Of the process that counts, with its children.
    pub pid: u32,
    pub protocol: Protocol,
    /// The ids of all answers since its start; of those that answer a constant none.
    pub seen: RefCell<Seen>,
    /// What ends the server when it is dropped.
    _keeper: Box<dyn Any>,
}

impl Contestant {
    fn new(name: &str, port: u16, pid: u32, protocol: Protocol, keeper: impl Any) -> Self {
        let seen = RefCell::default();
        Self { name: name.to_owned(), port, pid, protocol, seen, _keeper: Box::new(keeper) }
    }

    /// The same server asked for another path, with ids of their own. Ends nothing when it is dropped.
    pub fn at(&self, name: &str, path: &str) -> Self {
        Self::new(name, self.port, self.pid, Protocol::Http(Http::get(path, Ids::One)), ())
    }
}

/// What a server is started by: the kernel ends it when this process ends, however that does.
pub const GUARD: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// seqsvr on the embedded store, as it is by default.
pub fn embedded() -> Setup {
    Setup::embedded().by(&GUARD)
}

/// seqsvr as `setup` configures it.
pub fn seqsvr(name: &str, setup: Setup) -> Contestant {
    let server = setup.start();
    server.wait_until_ready();
    let protocol = Protocol::Http(Http::get("/new", Ids::One));
    Contestant::new(name, server.port(), server.pid(), protocol, (server, setup))
}

/// Another build of seqsvr, if `SEQSVR_BASE` names one.
pub fn base() -> Option<Contestant> {
    let path = std::env::var("SEQSVR_BASE").ok().filter(|path| !path.is_empty())?;
    let path = Path::new(&path).canonicalize().unwrap_or_else(|error| panic!("SEQSVR_BASE={path}: {error}"));
    let path = path.to_str().expect("SEQSVR_BASE is UTF-8").replace('\'', r"'\''");
    // The shell drops the name of our own binary, which the setup puts there, and becomes the other.
    let shell = format!("exec '{path}' \"$@\"");
    let starter = [&GUARD[..], &["sh", "-c", &shell]].concat();
    Some(seqsvr("seqsvr (base)", Setup::embedded().by(&starter)))
}

/// An answer of seqsvr's: what all that answer a constant have to answer.
pub struct Answer {
    whole: String,
    body: String,
}

impl Answer {
    /// What `contestant` answers, with an id as long as those that are measured.
    pub fn of(contestant: &Contestant) -> Self {
        let response = Client::connect(contestant.port).get("/new");
        let id = response.id();
        contestant.seen.borrow_mut().add(std::iter::once(id..id + 1).collect());
        let body = response.body.replace(&id.to_string(), LONG_ID);
        let length = body.len().to_string();
        let header = |(name, value): &(String, String)| {
            let value = if name == "content-length" { &length } else { value };
            format!("{name}: {value}\r\n")
        };
        let headers: Vec<String> = response.headers.iter().map(header).collect();
        Self { whole: format!("HTTP/1.1 200 OK\r\n{}\r\n{body}", headers.concat()), body }
    }
}

fn constant() -> Protocol {
    Protocol::Http(Http::get("/new", Ids::Constant))
}

/// The reference server that answers fixed bytes without parsing.
pub fn raw(answer: &Answer) -> Contestant {
    let request_bytes = Http::get("/new", Ids::Constant).request().len().to_string();
    reference_server("raw", &["raw", &request_bytes, &answer.whole])
}

/// The reference server on plain actix-web.
pub fn actix(answer: &Answer) -> Contestant {
    reference_server("actix", &["actix", &answer.body])
}

fn reference_server(name: &str, arguments: &[&str]) -> Contestant {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.arg(reference::ARGUMENT).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Guarded::start(command, "KILL", None);
    let mut port = String::new();
    let output = child.child.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut port).expect("it prints its port");
    let port = port.trim().parse().unwrap_or_else(|_| panic!("{name} did not start"));
    Contestant::new(name, port, child.pid(), constant(), child)
}

/// A child process, ended by a signal when dropped, and its folder after it.
struct Guarded {
    child: Child,
    signal: &'static str,
    _folder: Option<TempDir>,
}

impl Guarded {
    fn start(mut command: Command, signal: &'static str, folder: Option<TempDir>) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, signal, _folder: folder }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = Command::new("kill").args([&format!("-{}", self.signal), &self.pid().to_string()]).status();
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has at the moment, for servers that can't choose one themselves.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Where a program is, if it is installed. A normal user's PATH lacks the folders of servers.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    // Debian has a folder for each version of Postgres.
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}
