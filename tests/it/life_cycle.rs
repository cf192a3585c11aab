//! The start, the end, and what is said of both.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http::{Client, get};
use crate::support::server::{Setup, eventually};

#[test]
fn the_start_says_in_two_lines_what_it_serves() {
    let setup = Setup::embedded();
    drop(setup.start());
    let server = setup.start();
    let log = server.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    for word in ["sequence default", "embedded store data/seqsvr.db", "step 100"] {
        assert!(lines[0].contains(word), "{log}");
    }
    assert!(lines[1].contains(&format!("http://127.0.0.1:{}", server.port())), "{log}");
}

#[test]
fn logs_as_json_where_asked_for() {
    let server = Setup::embedded().env("SEQSVR_LOG__FORMAT", "json").start();
    let log = server.log();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
}

/// That many clients ask at once.
const CLIENTS: usize = 8;

#[test]
fn a_drain_is_seen_first_and_fails_no_request() {
    for signal in ["TERM", "INT"] {
        let setup = Setup::embedded().env("SEQSVR_SHUTDOWN__LEAD", "1500ms").patient();
        let mut server = setup.start();
        let port = server.port();
        let left = AtomicUsize::new(CLIENTS);
        let (answered, status) = std::thread::scope(|scope| {
            // Clients that respect readiness: they ask before each few requests, as a load balancer would for them.
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut answered = 0;
                        while get(port, "/readyz").status == 200 {
                            let mut client = Client::connect(port);
                            for _ in 0..20 {
                                let response = client.get("/new");
                                assert_eq!(response.status, 200);
                                answered += 1;
                                if response.header("connection") == Some("close") {
                                    client = Client::connect(port);
                                }
                            }
                        }
                        left.fetch_sub(1, Ordering::Relaxed);
                        answered
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(100));
            server.signal(signal);
            eventually("readiness says no", || (left.load(Ordering::Relaxed) == 0).then_some(()));
            assert_eq!(get(port, "/new").status, 200, "during the lead it still answers");
            let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
            (answered, server.wait())
        });
        assert!(answered > 20);
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(server.log().contains("draining") && server.log().contains("stopped"), "{}", server.log());
        assert!(Client::try_connect(port).is_err());
    }
}

#[test]
fn a_request_in_flight_is_finished() {
    // It waits for the database, which is away.
    let setup =
        Setup::new("mysql: {user: u, host: '127.0.0.1:1', database: d}\nlimits: {wait: 1s}\nshutdown: {grace: 5s}\n");
    let mut server = setup.start();
    let mut client = Client::connect(server.port());
    client.send("GET", "/new", "").unwrap();
    eventually("it waits", || (server.metric("seqsvr_waiters") > 0.0).then_some(()));
    server.signal("TERM");
    let answer = client.receive(true).expect("an answer, not a cut connection");
    assert_eq!(answer.status, 503);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    // If it waited for them, the test would not see its end.
    let mut server = Setup::embedded().env("SEQSVR_SHUTDOWN__GRACE", "10m").start();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(server.port())).collect();
    for client in &mut clients {
        assert_eq!(client.get("/new").status, 200);
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_deliberate_second_interrupt_ends_it_at_once() {
    for (first, second) in [("TERM", "INT"), ("INT", "INT"), ("QUIT", "QUIT")] {
        let mut server = Setup::embedded().env("SEQSVR_SHUTDOWN__LEAD", "10m").start();
        server.signal(first);
        server.wait_for_log("draining");
        // What a supervisor repeats, and what is not to end it.
        for signal in ["TERM", "TERM", "HUP", "USR1"] {
            server.signal(signal);
        }
        server.wait_for_log("SIGUSR1 is ignored: draining already");
        assert!(server.ended().is_none(), "{}", server.log());
        eventually("it ends", || {
            std::thread::sleep(Duration::from_millis(300));
            server.signal(second);
            server.ended()
        });
        assert_eq!(server.wait().code(), Some(1));
        assert!(server.log().contains(&format!("SIG{second} again: ended at once")), "{}", server.log());
    }
}

/// A key that is pressed once may come twice: to the whole group, and passed on by its leader.
#[test]
fn an_interrupt_that_comes_twice_at_once_is_one() {
    let mut server = Setup::embedded().env("SEQSVR_SHUTDOWN__LEAD", "500ms").start();
    server.signal("INT");
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn it_drains_on_whatever_is_meant_to_end_it() {
    for signal in ["TERM", "INT", "QUIT", "RTMIN+3"] {
        let mut server = Setup::embedded().start();
        assert_eq!(server.next(), 101);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        assert!(server.log().contains("given_back=99"), "{signal}: {}", server.log());
    }
}

#[test]
fn what_is_not_meant_to_end_it_does_not() {
    let mut server = Setup::embedded().start();
    for signal in ["HUP", "USR1", "USR2", "ALRM", "PIPE", "WINCH", "CONT", "URG"] {
        server.signal(signal);
        if !["PIPE", "WINCH", "CONT", "URG"].contains(&signal) {
            server.wait_for_log(&format!("SIG{signal} is ignored"));
        }
        assert_eq!(server.get("/livez").status, 200, "{signal}");
    }
    assert_eq!(server.stop().code(), Some(0));
}

/// `script` gives it a terminal, and closes it.
#[test]
fn the_end_of_its_terminal_drains_it() {
    let setup = Setup::embedded();
    let folder = setup.folder().to_owned();
    let command = format!("sh -c 'echo $$ > pid; exec {} --embedded'", env!("CARGO_BIN_EXE_seqsvr"));
    let mut terminal = Command::new("script")
        .args(["--quiet", "--command", &command, "/dev/null"])
        .current_dir(&folder)
        .env("SEQSVR_PORT", "127.0.0.1:0")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script (of bsdutils) runs");
    let memory = folder.join("data/node.json");
    let has_leased = |text: &String| text.contains("\"default\"");
    eventually("it has leased", || std::fs::read_to_string(&memory).ok().filter(has_leased));
    let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let running = format!("/proc/{}/exe", pid.trim());
    eventually("it ends", || std::fs::read_link(&running).is_err().then_some(()));
    // A process that is killed leaves a gap.
    assert_eq!(setup.start().next(), 101);
}

/// Whoever reads the log may go away, as `head -1` does.
#[test]
fn a_log_that_nobody_reads_ends_nothing() {
    let setup = Setup::embedded();
    let mut server = setup.command().stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let listening = log.find_map(|line| Some(line.unwrap().split_once("http://127.0.0.1:")?.1.to_owned())).unwrap();
    let port = listening.split(':').next().unwrap().parse().unwrap();
    drop(log);
    let send = |signal: &str| Command::new("kill").args(["-s", signal, &server.id().to_string()]).status().unwrap();
    assert!(send("USR1").success());
    assert_eq!(get(port, "/new").status, 200);
    assert!(send("TERM").success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
