//! The clock of the node's machine is set: libfaketime does it for the one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::rig::{Layout, Outcome, Run, start};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, load};
use crate::support::server::{Server, eventually};

const HOUR: i64 = 3_600;

/// How long a request waits for ids.
const WAIT: Duration = Duration::from_secs(2);

/// Where the package libfaketime has its library for programs with threads.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a folder").filter_map(Result::ok).map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime is there: make test-deps")
}

/// Sets the clock, in seconds from the right time. The file is read with each look at the clock, so it is never half there.
fn set(clock: &Path, offset: i64) {
    let new = clock.with_extension("new");
    fs::write(&new, format!("{offset:+}\n")).expect("the offset is written");
    fs::rename(new, clock).expect("the offset is there");
}

/// How far the node's clock is ahead, in seconds, as it tells clients.
fn ahead(server: &Server) -> i64 {
    let response = server.get("/livez");
    let date = response.header("date").expect("an answer has a date");
    let output = Command::new("date").args(["-d", date, "+%s"]).output().expect("date runs");
    let told: i64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    told - i64::try_from(now).expect("not that late")
}

fn wait_until_ahead(server: &Server, offset: i64) {
    eventually("the clock was set", || ((ahead(server) - offset).abs() < HOUR / 2).then_some(()));
}

/// The clock jumps an hour back and forward, under load and while a request waits.
pub fn the_clock_is_set(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let mut database = Database::start(Flavor::MariaDb);
    let setup = run.node_on(&database, Layout::Counter);
    let clock = setup.folder().join("clock");
    set(&clock, 0);
    let setup = setup
        .env("SEQSVR_LIMITS__WAIT", &humantime(WAIT))
        .env("LD_PRELOAD", &library().display().to_string())
        .env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        // A clock that is set leaves the monotonic one alone. (The name has changed.)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let server = start(&setup);
    let mut all = Checker::default();
    for _ in 0..run.rounds(4, 1) {
        outcome.rounds += 1;
        for offset in [-HOUR, HOUR] {
            under_load(&server, &clock, offset, &mut all);
        }
        database.kill();
        for offset in [-HOUR, HOUR] {
            while_one_waits(&server, &clock, offset, &mut all);
        }
        database.restart();
        eventually("it leases again", || {
            let mut client = Client::connect(server.port());
            let is_answered = client.get("/new").status == 200;
            all.add(client.last_ids());
            is_answered.then_some(())
        });
    }
    outcome.take_in(all);
    outcome
}

fn humantime(span: Duration) -> String {
    format!("{}s", span.as_secs())
}

/// Each connection's ids rise, and each request is answered.
fn under_load(server: &Server, clock: &Path, offset: i64, all: &mut Checker) {
    let load = || load(&[server.port()], 8, 4_000);
    let (ids, ()) = crate::rig::under_load(load, || {
        thread::sleep(Duration::from_millis(200));
        set(clock, offset);
        wait_until_ahead(server, offset);
        thread::sleep(Duration::from_millis(200));
    });
    all.merge(ids);
}

/// The database is away and nothing is left: a request gets its 503 when it has waited for as long as it may.
fn while_one_waits(server: &Server, clock: &Path, offset: i64, all: &mut Checker) {
    set(clock, 0);
    wait_until_ahead(server, 0);
    let mut client = Client::connect(server.port());
    while client.get("/new").status == 200 {
        all.add(client.last_ids());
    }
    let asked = Instant::now();
    client.send("GET", "/new", "").expect("a connection");
    thread::sleep(WAIT / 4);
    set(clock, offset);
    wait_until_ahead(server, offset);
    let answer = client.receive(true).expect("an answer");
    let waited = asked.elapsed();
    // An hour's jump is an answer at once, or none.
    if answer.status != 503 || waited < WAIT.mul_f64(0.9) || waited > WAIT * 5 {
        all.error(format!("after {waited:?}: {answer:?}"));
    }
}
