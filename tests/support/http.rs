//! A plain HTTP client on one connection, and a load made of many.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use super::checker::{Checker, ids_in};
use super::server::PATIENCE;

/// Longer than any answer may take; a hang fails the test.
const TIMEOUT: Duration = PATIENCE;

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// What was read of the last answer's body, and whether that is all of it.
    body: Vec<u8>,
    is_complete: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The id of a plain `/new`; panics if it is not exactly such an answer.
    pub fn id(&self) -> u64 {
        try_id(&self.body).unwrap_or_else(|| panic!("no id in {self:?}"))
    }
}

fn try_id(body: &str) -> Option<u64> {
    body.strip_prefix(r#"{"code":0,"msg":"ok","data":{"id":"#)?.strip_suffix("}}")?.parse().ok()
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("the server accepts connections")
    }

    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), body: Vec::new(), is_complete: false })
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str) -> std::io::Result<()> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn receive(&mut self, has_body: bool) -> std::io::Result<Response> {
        self.body.clear();
        self.is_complete = false;
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(closed)?;
        let (mut headers, mut length) = (Vec::new(), 0_u64);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().expect("a number");
            }
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let length = if has_body { length } else { 0 };
        // Unlike read_exact, it keeps what came before an error.
        (&mut self.stream).take(length).read_to_end(&mut self.body)?;
        if (self.body.len() as u64) < length {
            return Err(closed());
        }
        self.is_complete = true;
        Ok(Response { status, headers, body: String::from_utf8(self.body.clone()).expect("UTF-8") })
    }

    /// All ids of the last answer, as far as it came: also where its receiving failed.
    pub fn last_ids(&self) -> Vec<u64> {
        ids_in(&self.body, self.is_complete)
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &str) -> Response {
        self.try_request(method, path, headers).expect("an answer")
    }

    pub fn try_request(&mut self, method: &str, path: &str, headers: &str) -> std::io::Result<Response> {
        self.send(method, path, headers)?;
        self.receive(method != "HEAD")
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "")
    }
}

/// One request on a connection of its own.
pub fn get(port: u16, path: &str) -> Response {
    Client::connect(port).get(path)
}

/// `GET /new` over `connections` connections to `ports` in turn, until the servers are gone. An answer without an id is an
/// error; a cut connection is the end, and the ids that came before the cut count.
pub fn load_until_gone(ports: &[u16], connections: usize) -> Checker {
    load_of_until_gone("/new", ports, connections)
}

/// As [`load_until_gone`], of `path`, which may ask for many ids.
pub fn load_of_until_gone(path: &str, ports: &[u16], connections: usize) -> Checker {
    let one = |port: u16| {
        let mut checker = Checker::default();
        let Ok(mut client) = Client::try_connect(port) else { return checker };
        loop {
            let result = client.try_request("GET", path, "");
            let ids = client.last_ids();
            match result {
                Ok(response) if ids.is_empty() => checker.error(format!("{response:?}")),
                Ok(_) => checker.add(ids),
                Err(_) => {
                    checker.add(ids);
                    return checker;
                }
            }
        }
    };
    at_once(ports, connections, &one)
}

/// Runs `one` on as many threads, each with the next port.
fn at_once(ports: &[u16], connections: usize, one: &(impl Fn(u16) -> Checker + Sync)) -> Checker {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            ports.iter().copied().cycle().take(connections).map(|port| scope.spawn(move || one(port))).collect();
        let mut all = Checker::default();
        for thread in threads {
            all.merge(thread.join().expect("a connection's thread"));
        }
        all
    })
}

/// `requests` times `GET /new` over `connections` connections, which go to `ports` in turn. Each connection's ids must
/// rise, for it talks to one node.
pub fn load(ports: &[u16], connections: usize, requests: i64) -> Checker {
    load_of("/new", ports, connections, requests)
}

/// As [`load`], of `path`, which may ask for many ids.
pub fn load_of(path: &str, ports: &[u16], connections: usize, requests: i64) -> Checker {
    let left = AtomicI64::new(requests);
    let one = |port: u16| {
        let mut checker = Checker::default();
        let mut client = Client::connect(port);
        let mut last = 0;
        while left.fetch_sub(1, Ordering::Relaxed) > 0 {
            let result = client.try_request("GET", path, "");
            let ids = client.last_ids();
            match result {
                Ok(response) if ids.is_empty() => checker.error(format!("{response:?}")),
                Ok(_) => {}
                Err(error) => {
                    checker.error(error.to_string());
                    client = Client::connect(port);
                }
            }
            for id in &ids {
                assert!(*id > last, "{id} after {last} on one connection");
                last = *id;
            }
            checker.add(ids);
        }
        checker
    };
    at_once(ports, connections, &one)
}

/// `GET /new` over one connection until an answer is an error, which is in the result: however much the node holds ahead, what
/// it may still issue is taken then. Panics if it goes on for a million ids.
pub fn load_until_refused(port: u16) -> Checker {
    let mut checker = Checker::default();
    let mut client = Client::connect(port);
    for _ in 0..1_000_000 {
        let response = client.get("/new");
        let ids = client.last_ids();
        if ids.is_empty() {
            checker.error(format!("{response:?}"));
            return checker;
        }
        checker.add(ids);
    }
    panic!("it goes on: {}", checker.verdict());
}

/// The ways in which the clients of [`load_during`] ask, by turns.
const WAYS: [(&str, &str, &str); 4] = [
    ("GET", "/new", ""),
    ("GET", "/new?count=5", ""),
    ("POST", "/new", "Content-Length: 0\r\n"),
    ("GET", "/new/default", "Accept: text/plain\r\n"),
];

/// Several clients, who ask for ids in several ways, with a `pause` behind each answer, while `during` is done. Some keep a
/// connection for few requests, some for many. All but an answer with ids is an error.
pub fn load_during(port: u16, pause: Duration, during: impl FnOnce()) -> Checker {
    const CLIENTS: usize = 8;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = SetAtEnd(&is_over);
        let clients: [_; CLIENTS] = std::array::from_fn(|n| {
            let is_over = &is_over;
            scope.spawn(move || ask_until(is_over, port, 10 * (n + 1) * (n + 1), pause))
        });
        during();
        drop(over);
        let mut all = Checker::default();
        for client in clients {
            all.merge(client.join().expect("a client's thread"));
        }
        all
    })
}

/// Sets it when dropped, so that a failed test ends its threads too.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks over a new connection every `requests` times.
fn ask_until(is_over: &AtomicBool, port: u16, requests: usize, pause: Duration) -> Checker {
    let mut checker = Checker::default();
    while !is_over.load(Ordering::Relaxed) {
        let mut client = match Client::try_connect(port) {
            Ok(client) => client,
            Err(error) => {
                checker.error(format!("no connection: {error}"));
                continue;
            }
        };
        let ways = WAYS.iter().cycle().take(requests).take_while(|_| !is_over.load(Ordering::Relaxed));
        for (method, path, headers) in ways {
            match client.try_request(method, path, headers) {
                Ok(response) if response.status == 200 => checker.add(client.last_ids()),
                Ok(response) => checker.error(format!("{method} {path}: {response:?}")),
                Err(error) => {
                    checker.add(client.last_ids());
                    checker.error(format!("{method} {path}: {error}"));
                    break;
                }
            }
            std::thread::sleep(pause);
        }
    }
    checker
}

#[test]
fn ids_of_an_answer_that_is_cut_count() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = r#"{"code":0,"msg":"ok","data":{"ids":[101,102,103]}}"#;
    let cut = answer.find("103").unwrap() + 2;
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for body in [answer, &answer[..cut]] {
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            assert!(request.any(|line| line.is_empty()));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", answer.len()).unwrap();
        }
    });
    let checker = load_of_until_gone("/new?count=3", &[port], 1);
    server.join().unwrap();
    assert_eq!(checker.ids(), [101, 102, 103, 101, 102]);
    assert_eq!((checker.verdict().repeats, checker.verdict().errors), (2, 0));
}
