//! What a user would pick instead, as far as it is installed: `scripts/bench-peers.sh` gets it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use tempfile::TempDir;

use super::{Answer, Contestant, Guarded, POLL_INTERVAL, START_LIMIT, constant, free_port, program};
use crate::load;
use crate::protocol::Protocol;
use crate::support::database::{Database, Flavor};
use crate::support::sql;

/// How many ids of a sequence a database keeps in memory.
const CACHE: u32 = 1000;

/// The names of the peers, as the results have them.
pub const NGINX: &str = "nginx";
pub const REDIS: &str = "Redis INCR";
pub const NEXTVAL: &str = "MariaDB NEXTVAL";
pub const UPDATE: &str = "MariaDB UPDATE";
pub const POSTGRES: &str = "Postgres nextval";

/// The programs of the peers and what they say of their version; `None` for those that are not installed.
pub fn versions() -> [(&'static str, Option<String>); 5] {
    [
        ("nginx", "-v"),
        ("redis-server", "--version"),
        ("mariadbd", "--version"),
        ("postgres", "--version"),
        ("wrk", "-v"),
    ]
    .map(|(name, argument)| (name, version(name, argument)))
}

/// The first word that has a number with a dot in it.
fn version(name: &str, argument: &str) -> Option<String> {
    let output = Command::new(program(name)?).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let is_version = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = text.split_whitespace().find(is_version)?;
    let number = word.find(|c: char| c.is_ascii_digit())?;
    Some(word[number..].to_owned())
}

/// nginx, which returns the same bytes, with as many workers as there are processors.
pub fn nginx(answer: &Answer) -> Option<Contestant> {
    let (program, folder, port) = (program("nginx")?, open_folder(), free_port());
    let path = folder.path().to_str().expect("a temporary folder's path is plain");
    let body = &answer.body;
    // The same body and headers as seqsvr's; nginx adds a `Server` and a `Connection` of its own.
    let config = format!(
        "daemon off; pid {path}/pid; worker_processes auto; error_log stderr;
         events {{ worker_connections 16384; }}
         http {{
             access_log off; keepalive_requests 1000000000; server_tokens off;
             default_type application/json;
             client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
             uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
             server {{
                 listen 127.0.0.1:{port};
                 location / {{ add_header Cache-Control no-store; return 200 '{body}'; }}
             }}
         }}"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config).expect("the configuration is written");
    let mut command = guarded(&program, "TERM", None);
    command.args(["-e", "stderr", "-p", path, "-c"]).arg(file);
    started(NGINX, command, "TERM", folder, port, constant())
}

/// Redis, which keeps nothing on disk here: where it crashes it gives the same ids again, which seqsvr does not.
pub fn redis() -> Option<Contestant> {
    let (program, folder, port) = (program("redis-server")?, open_folder(), free_port());
    let mut command = guarded(&program, "TERM", None);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(folder.path());
    started(REDIS, command, "TERM", folder, port, Protocol::Redis)
}

/// MariaDB; both contestants are one server, which is never asked by both at a time.
pub fn mariadb() -> Option<[Contestant; 2]> {
    program("mariadbd")?;
    program("mariadb-install-db")?;
    let database = Rc::new(Database::start(Flavor::MariaDb));
    sql(
        &database,
        &format!(
            "CREATE SEQUENCE sequence.ids CACHE {CACHE}; \
             CREATE TABLE sequence.counter (id BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB; \
             INSERT INTO sequence.counter VALUES (0)"
        ),
    );
    let pid = fs::read_to_string(database.socket().with_file_name("pid")).ok()?.trim().parse().ok()?;
    let of =
        |name, statement| Contestant::new(name, database.port(), pid, Protocol::Mysql(statement), database.clone());
    Some([of(NEXTVAL, "SELECT NEXTVAL(ids)"), of(UPDATE, "UPDATE counter SET id = LAST_INSERT_ID(id + 1)")])
}

pub fn postgres() -> Option<Contestant> {
    let (initdb, program) = (program("initdb")?, program("postgres")?);
    let (folder, port) = (open_folder(), free_port());
    let user = unprivileged_user();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    fs::create_dir(&data).expect("the folder can be written");
    if let Some(user) = user {
        let owned = Command::new("chown").arg(user).args([folder.path(), &data]).status();
        assert!(owned.is_ok_and(|status| status.success()), "chown to {user}");
    }
    let run = |program: &Path| {
        let mut command = guarded(program, "QUIT", user);
        let log = File::options().create(true).append(true).open(&log).expect("a log");
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        command
    };
    let is_done = |command: &mut Command| {
        let status = command.status();
        let text = || fs::read_to_string(&log).unwrap_or_default();
        assert!(status.is_ok_and(|status| status.success()), "{command:?}: {}", text());
    };
    is_done(run(&initdb).args(["--username=postgres", "--auth=trust", "--no-sync", "-D"]).arg(&data));
    let statement = folder.path().join("statement");
    fs::write(&statement, format!("CREATE SEQUENCE ids CACHE {CACHE}\n")).expect("the folder can be written");
    let statement = File::open(&statement).expect("it was written");
    is_done(run(&program).args(["--single", "-D"]).arg(&data).arg("postgres").stdin(statement));

    let mut command = run(&program);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]);
    command.arg(folder.path());
    started(POSTGRES, command, "QUIT", folder, port, Protocol::Postgres("SELECT nextval('ids')"))
}

/// Starts a server and waits until it takes a login.
fn started(
    name: &str,
    mut command: Command,
    signal: &'static str,
    folder: TempDir,
    port: u16,
    protocol: Protocol,
) -> Option<Contestant> {
    let log = folder.path().join("log");
    let file = File::options().create(true).append(true).open(&log).expect("a log");
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
    let mut server = Guarded::start(command, signal, Some(folder));
    let until = Instant::now() + START_LIMIT;
    loop {
        let begun = load::connect(port).and_then(|mut stream| protocol.begin(&mut stream, &mut Vec::new()));
        let Err(error) = begun else { break };
        let has_ended = server.child.try_wait().is_ok_and(|status| status.is_some());
        if has_ended || Instant::now() > until {
            println!("{name} did not start ({error}): {}", fs::read_to_string(&log).unwrap_or_default());
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Some(Contestant::new(name, port, server.pid(), protocol, server))
}

/// A temporary folder that other users may enter: servers that are started by root give up its rights.
fn open_folder() -> TempDir {
    // In /tmp even where TMPDIR says otherwise: a socket's path has at most 107 bytes.
    let folder = tempfile::Builder::new().prefix("seqsvr-bench-").tempdir_in("/tmp").expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its own folder");
    folder
}

/// Whom to run Postgres as, if this is root, which it refuses: its package's user, or nobody.
fn unprivileged_user() -> Option<&'static str> {
    if fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() != 0) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Some(if users.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" })
}

/// `program`, as `user` if there is one; the kernel sends it `signal` when this process ends, however it does.
fn guarded(program: &Path, signal: &str, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command.args(["--reuid", user, "--clear-groups"]);
    }
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}
