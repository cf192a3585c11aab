//! What systemd is told of the server: by the protocol of `sd_notify`, to a socket of the test's own.

use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use crate::support::server::{PATIENCE, Setup};

/// Stands in for systemd.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// Lets it start what `setup` starts.
    fn starts(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// The next message that it is sent.
    fn message(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Whether it was sent nothing that was not received.
    fn was_told_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        self.socket.recv(&mut [0; 1024]).is_err()
    }
}

#[test]
fn it_is_ready_when_it_listens_and_stopping_when_it_drains() {
    let manager = Manager::new();
    let mut server = manager.starts(Setup::embedded()).start();
    assert_eq!(manager.message(), format!("READY=1\nSTATUS=listening on http://127.0.0.1:{}\n", server.port()));
    assert_eq!(server.get("/new").status, 200);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(manager.message(), "STOPPING=1\nSTATUS=draining\n");
    assert!(manager.was_told_nothing(), "there was no watchdog");
}

#[test]
fn a_database_that_is_away_does_not_hold_up_the_start() {
    let manager = Manager::new();
    let away = Setup::new("mysql: {user: u, host: '127.0.0.1:1', database: d}\n");
    let server = manager.starts(away).start();
    assert!(manager.message().starts_with("READY=1\n"));
    assert_eq!(server.get("/readyz").status, 503);
}

#[test]
fn what_only_a_person_can_mend_fails_the_start() {
    let manager = Manager::new();
    let setup = manager.starts(Setup::embedded().env("SEQSVR_DATA_DIR", "/dev/null/data"));
    let (code, text) = setup.run(&[]);
    assert_eq!(code, 78, "{text}");
    assert!(manager.was_told_nothing());
}

#[test]
fn a_socket_that_is_gone_is_said_and_no_reason_to_end() {
    let server = Setup::embedded().env("NOTIFY_SOCKET", "/dev/null/notify").start();
    server.wait_for_log("systemd can't be told");
    assert_eq!(server.get("/new").status, 200);
}

#[test]
fn the_watchdog_is_told_also_while_it_drains() {
    let manager = Manager::new();
    // The watchdog is for the process that it names, which is known only once it runs.
    let watched = Setup::embedded().by(&["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"]);
    let watched = watched.env("WATCHDOG_USEC", "100000").env("SEQSVR_SHUTDOWN__LEAD", "10m");
    let server = manager.starts(watched).start();
    // Among the watchdog's, of which there are twenty a second at most.
    let until = |wanted: &str| assert!((0..400).any(|_| manager.message().starts_with(wanted)), "no {wanted}");
    until("READY=1\n");
    for _ in 0..3 {
        assert_eq!(manager.message(), "WATCHDOG=1\n");
    }
    server.signal("TERM");
    until("STOPPING=1\n");
    for _ in 0..3 {
        assert_eq!(manager.message(), "WATCHDOG=1\n");
    }
}
