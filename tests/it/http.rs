//! The HTTP contract, through the built binary.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::support::http::{Client, Response};
use crate::support::server::Setup;

#[test]
fn every_shape_of_an_answer() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    for (path, accept, content_type, body) in [
        ("/new", "", "application/json", r#"{"code":0,"msg":"ok","data":{"id":101}}"#),
        ("/new?strings", "", "application/json", r#"{"code":0,"msg":"ok","data":{"id":"102"}}"#),
        ("/new?count=1", "", "application/json", r#"{"code":0,"msg":"ok","data":{"ids":[103]}}"#),
        ("/new?count=3", "", "application/json", r#"{"code":0,"msg":"ok","data":{"ids":[104,105,106]}}"#),
        (
            "/new?count=4&ranges",
            "",
            "application/json",
            r#"{"code":0,"msg":"ok","data":{"ranges":[{"first":107,"last":110}]}}"#,
        ),
        ("/new", "text/plain", "text/plain; charset=utf-8", "111"),
        ("/new?count=2", "text/plain", "text/plain; charset=utf-8", "112\n113\n"),
        ("/new/default", "", "application/json", r#"{"code":0,"msg":"ok","data":{"id":114}}"#),
        ("/new?_=17", "", "application/json", r#"{"code":0,"msg":"ok","data":{"id":115}}"#),
    ] {
        let accept = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
        let response = client.request("GET", path, &accept);
        assert_eq!((response.status, response.body.as_str()), (200, body), "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(response.header("content-type"), Some(content_type), "{path}");
    }
    assert_eq!(client.request("POST", "/new", "Content-Length: 0\r\n").id(), 116);
}

/// An answer without what differs from one to the next: its date and its id's digits.
fn form(response: &Response) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<_> = response.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
    // actix has them in the order of a hash map.
    headers.sort_unstable();
    (response.status, headers, response.body.replace(|c: char| c.is_ascii_digit(), "#"))
}

#[test]
fn the_way_past_the_router_answers_as_the_router_does() {
    let server = Setup::embedded().start();
    for (version, headers) in [
        ("HTTP/1.1", ""),
        ("HTTP/1.1", "Accept: */*\r\nUser-Agent: curl/8\r\n"),
        ("HTTP/1.1", "Accept: text/plain\r\n"),
        ("HTTP/1.1", "Accept: application/json, text/plain\r\n"),
        ("HTTP/1.1", "Accept: text/plain, */*\r\n"),
        ("HTTP/1.1", "Accept: text/plain;q=0.9, application/json\r\n"),
        ("HTTP/1.1", "Accept: application/json;q=0.1\r\nAccept: text/plain;q=0.2\r\n"),
        ("HTTP/1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"),
        ("HTTP/1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
        ("HTTP/1.1", "Connection: close\r\n"),
        ("HTTP/1.1", "Connection: keep-alive\r\n"),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n"),
        ("HTTP/1.1", "Accept: text/plain, \u{e9}\r\n"),
        ("HTTP/1.1", "Content-Length: 3\r\n"),
        ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n"),
        ("HTTP/1.0", ""),
        ("HTTP/1.0", "Connection: keep-alive\r\n"),
    ] {
        // A query, be it empty, is the router's; and so is what is written with a percent sign.
        for (short, routed) in [("/new", "/new?"), ("/new/default", "/new/%64efault")] {
            let ask = |path: &str| {
                let mut client = Client::connect(server.port());
                client.send_bytes(format!("GET {path} {version}\r\nHost: x\r\n{headers}\r\n").as_bytes()).unwrap();
                client.receive(true).unwrap()
            };
            let (short, routed) = (ask(short), ask(routed));
            assert_eq!(form(&short), form(&routed), "{version} {headers:?}");
            // To whom expects it, 100 comes first.
            assert_eq!(short.status, if headers.starts_with("Expect") { 100 } else { 200 });
        }
    }
    let counted =
        |route: &str| server.metric(&format!("seqsvr_http_responses_total{{route=\"{route}\",status=\"200\"}}"));
    assert_eq!((counted("/new"), counted("/new/{sequence}")), (34.0, 34.0));
}

#[test]
fn a_body_that_says_something_is_refused() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    for (body, status, connection, wanted) in [
        ("", 200, None, "101"),
        ("{}", 200, None, "102"),
        ("{\"count\":5}", 400, None, "put count, ranges and strings into the query"),
        ("count=5", 400, None, "put count, ranges and strings into the query"),
        (&"x".repeat(100_000), 413, Some("close"), "at most 16384 bytes"),
    ] {
        client.send("POST", "/new", &format!("Content-Length: {}\r\n", body.len())).unwrap();
        client.send_bytes(body.as_bytes()).unwrap();
        let posted = client.receive(true).unwrap();
        assert_eq!((posted.status, posted.header("connection")), (status, connection));
        assert!(posted.body.contains(wanted), "{posted:?}");
    }
    assert_eq!(server.next(), 103, "no id was spent");
}

#[test]
fn a_batch_over_several_leases() {
    let server = Setup::embedded().patient().start();
    let body = server.get("/new?count=10000").body;
    let ids: Vec<u64> = body
        .trim_start_matches(r#"{"code":0,"msg":"ok","data":{"ids":["#)
        .trim_end_matches("]}}")
        .split(',')
        .map(|id| id.parse().expect("a number"))
        .collect();
    assert_eq!(ids.len(), 10_000);
    assert!(ids.is_sorted_by(|a, b| a < b));
    let response = server.get("/new?count=1000000&ranges");
    assert_eq!(response.status, 200);
    assert!(response.body.len() < 1_000, "ranges are short: {}", response.body);
}

#[test]
fn what_is_refused_costs_no_id() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("/new").id(), 101);
    for (method, path, status, wanted) in [
        ("GET", "/new?count=0", 400, "from 1 to 10000"),
        ("GET", "/new?count=-1", 400, "from 1 to 10000"),
        ("GET", "/new?count=1000000000000", 400, "from 1 to 10000"),
        ("GET", "/new?count=abc", 400, "from 1 to 10000"),
        ("GET", "/new?count=", 400, "from 1 to 10000"),
        ("GET", "/new?count=1000001&ranges", 400, "from 1 to 1000000"),
        ("GET", "/new?count=1&count=1", 400, "twice"),
        ("GET", "/new?n=3", 400, "'n' is unknown"),
        ("GET", "/new?Count=3", 400, "'Count' is unknown"),
        ("GET", "/new/default?limit=3", 400, "'limit' is unknown"),
        ("GET", "/new/no-such", 404, "no sequence no-such"),
        ("GET", "/new/not%20allowed", 400, "A-Z a-z 0-9"),
        ("GET", "/new/", 404, "/new"),
        ("GET", "/nothing", 404, "/new"),
        ("PUT", "/new", 405, "GET, POST"),
        ("DELETE", "/new", 405, "GET, POST"),
        ("PATCH", "/new/default", 405, "GET, POST"),
        ("POST", "/metrics", 405, "GET, HEAD"),
    ] {
        let response = client.request(method, path, "");
        assert_eq!(response.status, status, "{method} {path}");
        let start = format!(r#"{{"code":-{status},"msg":""#);
        assert!(response.body.starts_with(&start) && response.body.ends_with(r#","data":null}"#), "{response:?}");
        assert!(response.body.contains(wanted), "{method} {path} said {}", response.body);
        if status == 405 {
            assert_eq!(response.header("allow"), Some(wanted), "{method} {path}");
        }
    }
    let head = client.request("HEAD", "/new", "");
    assert_eq!((head.status, head.header("allow")), (405, Some("GET, POST")));
    assert_eq!(client.get("/new").id(), 102, "no id was spent");
    assert_eq!(server.metric("seqsvr_ids_total"), 2.0);
    assert_eq!(server.metric("seqsvr_http_responses_total{route=\"/new\",status=\"400\"}"), 9.0);
    assert_eq!(server.metric("seqsvr_http_responses_total{route=\"/new\",status=\"405\"}"), 3.0);
}

#[test]
fn probes_and_what_load_balancers_ask() {
    let server = Setup::embedded().start();
    let mut client = Client::connect(server.port());
    for path in ["/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(client.get(path).status, 200, "{path}");
        let head = client.request("HEAD", path, "");
        assert_eq!(head.status, 200, "{path}");
        assert_ne!(head.header("content-length"), Some("0"), "{path}");
    }
    let options = client.request("OPTIONS", "/", "");
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    assert!(client.get("/metrics").header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
}

#[test]
fn large_batches_at_once_do_not_take_from_each_other() {
    let server = Setup::embedded().patient().start();
    let port = server.port();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(move || {
                let response = crate::support::http::get(port, "/new?count=1000000&ranges");
                assert_eq!(response.status, 200, "{response:?}");
            });
        }
    });
    assert_eq!(server.metric("seqsvr_ids_total"), 12_000_000.0);
    assert_eq!(server.metric("seqsvr_ids_lost_total{reason=\"batch_timeout\""), 0.0);
}

#[test]
fn a_thousand_clients_may_connect_at_once() {
    let server = Setup::embedded().start();
    let port = format!("sport = :{}", server.port());
    let listening = Command::new("ss").args(["-Hltn", &port]).output().expect("ss runs");
    let listening = String::from_utf8(listening.stdout).expect("text");
    let backlog: u64 = listening.split_whitespace().nth(2).and_then(|queue| queue.parse().ok()).expect("a Send-Q");
    let most: u64 = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    assert_eq!(backlog, most.min(4096), "{listening}");
}

#[test]
fn metrics_are_compressed_for_who_reads_that() {
    let names: Vec<String> = (0..100).map(|number| format!("s{number}: {{}}")).collect();
    let server = Setup::new(&format!("store: embedded\nsequences: {{{}}}\n", names.join(", "))).start();
    for number in 0..100 {
        assert_eq!(server.get(&format!("/new/s{number}")).id(), 1);
    }
    let scrape = |headers: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        (String::from_utf8(answer[..head].to_vec()).unwrap(), answer.len())
    };
    let (head, plain) = scrape("");
    assert!(head.contains("content-length: ") && !head.contains("content-encoding"), "{head}");
    // As Prometheus asks; that it can read the answer is seen by the tests of the dashboard.
    let (head, compressed) = scrape("Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(plain > 100_000 && compressed < plain / 10, "{compressed} of {plain}");
}
