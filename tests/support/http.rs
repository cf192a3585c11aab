//! A plain HTTP client on one connection, and a load made of many.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::checker::Checker;

/// Longer than any answer may take; a hang fails the test.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
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
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str) -> std::io::Result<()> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn receive(&mut self, has_body: bool) -> std::io::Result<Response> {
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(closed)?;
        let (mut headers, mut length) = (Vec::new(), 0);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().expect("a number");
            }
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut body = vec![0; if has_body { length } else { 0 }];
        self.stream.read_exact(&mut body)?;
        Ok(Response { status, headers, body: String::from_utf8(body).expect("UTF-8") })
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

/// `GET /new` over `connections` connections to `ports` in turn, until the servers are gone. An answer that is not an id is
/// an error; a cut connection is the end.
pub fn load_until_gone(ports: &[u16], connections: usize) -> Checker {
    load_of_until_gone("/new", ports, connections)
}

/// As [`load_until_gone`], of `path`.
pub fn load_of_until_gone(path: &str, ports: &[u16], connections: usize) -> Checker {
    let one = |port: u16| {
        let mut checker = Checker::default();
        let Ok(mut client) = Client::try_connect(port) else { return checker };
        while let Ok(response) = client.try_request("GET", path, "") {
            match try_id(&response.body) {
                Some(id) => checker.add([id]),
                None => checker.error(format!("{response:?}")),
            }
        }
        checker
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

/// As [`load`], of `path`.
pub fn load_of(path: &str, ports: &[u16], connections: usize, requests: i64) -> Checker {
    let left = AtomicI64::new(requests);
    let one = |port: u16| {
        let mut checker = Checker::default();
        let mut client = Client::connect(port);
        let mut last = 0;
        while left.fetch_sub(1, Ordering::Relaxed) > 0 {
            match client.try_request("GET", path, "") {
                Ok(response) => match try_id(&response.body) {
                    Some(id) => {
                        assert!(id > last, "{id} after {last} on one connection");
                        last = id;
                        checker.add([id]);
                    }
                    None => checker.error(format!("{response:?}")),
                },
                Err(error) => {
                    checker.error(error.to_string());
                    client = Client::connect(port);
                }
            }
        }
        checker
    };
    at_once(ports, connections, &one)
}
