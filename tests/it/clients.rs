//! What common HTTP clients send and expect, and what comes from clients of other protocols.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, get};
use crate::support::server::{PATIENCE, Server, Setup, eventually};

/// What Java's `HttpClient` and `curl --http2` offer with each request.
const HTTP2_OFFER: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n";

#[test]
fn an_offer_of_another_protocol_is_ignored() {
    let server = Setup::embedded().start();
    for offer in [HTTP2_OFFER, "Connection: Upgrade\r\nUpgrade: websocket\r\n", "connection: keep-alive, upgrade\r\n"] {
        let mut client = Client::connect(server.port());
        for (method, path, body) in [
            ("GET", "/new", ""),
            ("GET", "/new?count=2", ""),
            ("POST", "/new", "{}"),
            ("GET", "/livez", ""),
            ("GET", "/nothing", ""),
            ("POST", "/new/default", ""),
            ("GET", "/new/default", ""),
        ] {
            let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            client.send(method, path, &format!("{offer}{length}")).unwrap();
            // Apart from the head, as clients may send it.
            client.send_bytes(body.as_bytes()).unwrap();
            let response = client.receive(true).unwrap();
            assert_eq!(response.status, if path == "/nothing" { 404 } else { 200 }, "{method} {path}: {response:?}");
            assert_eq!((response.header("connection"), response.header("upgrade")), (None, None), "{method} {path}");
        }
    }
}

/// Behind a body of unknown length the next head can't be found, so its offer reaches actix, which then closes the connection.
#[test]
fn where_an_offer_can_not_be_ignored_the_end_of_the_connection_is_announced() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    client.send("POST", "/new", "Transfer-Encoding: chunked\r\n").unwrap();
    client.send_bytes(b"0\r\n\r\n").unwrap();
    assert_eq!(client.receive(true).unwrap().id(), 101);
    let response = client.request("GET", "/new", HTTP2_OFFER);
    assert_eq!((response.id(), response.header("connection")), (102, Some("close")));
}

#[test]
fn a_client_that_closes_is_closed_whatever_it_offers() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    let response = client.request("GET", "/new", "Connection: close, Upgrade\r\nUpgrade: h2c\r\n");
    assert_eq!((response.id(), response.header("connection")), (101, Some("close")));
}

/// Clients with connections of their own, as behind a balancer that knows TCP alone: they go to another node when they are told to,
/// and not one request of theirs fails.
#[test]
fn a_rolling_restart_fails_no_request_of_clients_that_keep_their_connections() {
    const CLIENTS: usize = 8;
    let database = Database::start(Flavor::MariaDb);
    let setup = || Setup::seed(&database).patient().env("SEQSVR_SHUTDOWN__LEAD", "1s");
    let setups = [setup(), setup()];
    let mut nodes: Vec<Server> = setups.iter().map(Setup::start).collect();
    let ports = std::sync::Mutex::new(nodes.iter().map(Server::port).collect::<Vec<u16>>());
    let is_over = AtomicBool::new(false);
    let connect = || {
        eventually("a node accepts", || {
            let ports = ports.lock().unwrap().clone();
            ports.into_iter().find_map(|port| Client::try_connect(port).ok())
        })
    };
    let all = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (connect, is_over) = (&connect, &is_over);
                scope.spawn(move || {
                    let (mut client, mut all) = (connect(), Checker::default());
                    while !is_over.load(Ordering::Relaxed) {
                        // Half of them by the fast path, half by the router.
                        let path = if number % 2 == 0 { "/new" } else { "/new?count=2" };
                        match client.try_request("GET", path, "") {
                            Ok(response) if response.status == 200 => {
                                all.add(client.last_ids());
                                if response.header("connection") == Some("close") {
                                    client = connect();
                                }
                            }
                            other => all.error(format!("{other:?}")),
                        }
                        thread::sleep(Duration::from_millis(3));
                    }
                    all
                })
            })
            .collect();
        for number in 0..nodes.len() {
            // A balancer that checks its nodes sends nobody to one that is draining.
            let before = ports.lock().unwrap().remove(0);
            assert_eq!(nodes[number].port(), before);
            assert_eq!(nodes[number].stop().code(), Some(0));
            nodes[number] = setups[number].start();
            ports.lock().unwrap().push(nodes[number].port());
        }
        is_over.store(true, Ordering::Relaxed);
        let mut all = Checker::default();
        for client in clients {
            all.merge(client.join().unwrap());
        }
        all
    });
    assert!(all.ids().len() > 100, "{:?}", all.verdict());
    all.assert_clean(all.ids().len());
}

/// What comes back to `bytes`, until the server closes.
fn answer_to(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn what_is_no_http_is_told_so_and_counted() {
    let server = Setup::embedded().start();
    let good = "GET /new HTTP/1.1\r\nHost: x\r\n\r\n";
    // As much as is read of a head. With more, the answer may get lost behind the connection's reset.
    let mut long = b"GET /new HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    long.resize(16 << 10, b'y');
    let cases = [
        ("tls", 400, &b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03 and more\r\n\r\n"[..], "use http://"),
        ("http2", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "HTTP/1.1"),
        ("other", 400, b"hello\r\n\r\n", "not a valid HTTP/1.1 request"),
        ("other", 400, b"GET /new HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "not a valid HTTP/1.1 request"),
        ("other", 400, b"GET /new HTTP/1.1\r\nHost: x\r\nContent-Length: no\r\n\r\n", "not a valid HTTP/1.1 request"),
        ("too_long", 431, &long, "too long"),
    ];
    for (kind, status, bytes, wanted) in cases {
        // Alone, behind a request of the fast path, and behind one of the router.
        for before in ["", good, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"] {
            if !before.is_empty() && status == 431 {
                continue;
            }
            let series = |kind: &str| server.metric(&format!("seqsvr_http_malformed_total{{kind=\"{kind}\"}}"));
            let counted = series(kind);
            let answer = answer_to(server.port(), &[before.as_bytes(), bytes].concat());
            let (_, last) = answer.rsplit_once("HTTP/1.1 4").unwrap_or_else(|| panic!("{kind}: {answer}"));
            let (head, body) = last.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{kind}: {answer}"));
            assert!(format!("4{head}").starts_with(&status.to_string()), "{kind}: {answer}");
            assert!(head.contains("connection: close") && head.contains("content-type: application/json"), "{head}");
            assert!(body.starts_with(&format!("{{\"code\":-{status},\"msg\":\"")), "{kind}: {answer}");
            assert!(body.contains(wanted), "{kind}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 200").count(), usize::from(!before.is_empty()), "{answer}");
            assert_eq!(series(kind), counted + 1.0, "{kind}");
        }
    }
    assert_eq!(get(server.port(), "/new").status, 200);
}

#[test]
fn what_the_store_says_is_for_operators() {
    let database = Database::start(Flavor::MariaDb);
    let port = database.port();
    let setup = Setup::seed(&database).env("SEQSVR_LIMITS__WAIT", "100ms").env("SEQSVR_STEP", "10");
    let server = setup.start();
    drop(database);
    let refused =
        eventually("no id is left", || Some(server.get("/new?count=10")).filter(|answer| answer.status == 503));
    let unknown = server.get("/new/orders");
    assert_eq!(unknown.status, 503, "{unknown:?}");
    for answer in [&refused, &unknown] {
        for secret in ["127.0.0.1", "localhost", &port.to_string(), "mysql", "root", "refused"] {
            assert!(!answer.body.contains(secret), "{secret} is in {answer:?}");
        }
        assert!(answer.body.contains("log say"), "{answer:?}");
    }
    let ready = eventually("it is not ready", || Some(server.get("/readyz")).filter(|ready| ready.status == 503));
    assert!(ready.body.contains(&port.to_string()), "{ready:?}");
    server.wait_for_log("sequences can't be looked up");
}

#[test]
fn a_batch_that_can_not_be_had_costs_nothing() {
    let database = Database::start(Flavor::MySql9);
    // A ticket of 100 ids each: 10,000 of them.
    let server = Setup::seed(&database).env("SEQSVR_LIMITS__WAIT", "20ms").start();
    let refused = eventually("it is refused at once", || {
        let answer = server.get("/new?count=1000000&ranges");
        assert!(matches!(answer.status, 400 | 503), "{answer:?}");
        Some(answer).filter(|answer| answer.status == 400)
    });
    assert!(refused.body.contains("can be leased within 20 ms (limits.wait): ask for at most"), "{refused:?}");
    assert_eq!(server.metric("seqsvr_ids_lost_total{reason=\"batch_timeout\",sequence=\"default\"}"), 0.0);
}

/// actix answers by the HEAD, the version and the `Connection` of the request that it has read last, so it gets one at a time.
#[test]
fn each_of_several_requests_at_once_is_answered_by_its_own_kind() {
    let server = Setup::embedded().start();
    let get = "GET /new?count=2 HTTP/1.1\r\nHost: x\r\n\r\n";
    let requests = [
        get,
        "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        get,
        "POST /new?count=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /new HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ];
    for split in [1, 50, 10_000] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for part in requests.concat().as_bytes().chunks(split) {
            stream.write_all(part).unwrap();
        }
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let answers: Vec<&str> = answers.split("HTTP/1.1 200 OK\r\n").skip(1).collect();
        assert_eq!(answers.len(), requests.len(), "{answers:?}");
        for (number, (request, answer)) in requests.iter().zip(&answers).enumerate() {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.is_empty(), request.starts_with("HEAD"), "{number}: {answer}");
            assert_eq!(body.contains("\"ids\":["), request.contains("count=2"), "{number}: {answer}");
            assert_eq!(head.contains("connection: close"), request.contains("close"), "{number}: {answer}");
        }
    }
}
