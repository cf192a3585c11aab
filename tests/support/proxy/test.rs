//! Each fault, seen from a client and a server on both sides of it.

// A binary that runs its own tests compiles this without the tests.
#![allow(unused_imports)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Proxy, Side};
use crate::support::server::eventually;

/// How long is listened for something that must not come.
const SILENCE: Duration = Duration::from_millis(100);

/// A proxy before a server that sends back what it gets. Its threads end with their connections, the last one with the test.
fn start() -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo(stream.unwrap()));
        }
    });
    proxy
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
}

fn connect(proxy: &Proxy) -> TcpStream {
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// Sends and gets back.
fn round_trip(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// Sends, and hears neither bytes nor an end.
fn assert_silent(client: &mut TcpStream) {
    client.write_all(b"anybody there").unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let error = client.read(&mut [0]).expect_err("it is silent");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// All that still comes until the end.
fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too, and what came before it is kept.
    let _ = client.read_to_end(&mut rest);
    rest
}

#[test]
fn a_round_trip_takes_longer_by_the_delay_and_chunks_keep_their_order() {
    let proxy = start();
    let mut client = connect(&proxy);
    // The shortest of many, which a busy machine does not lengthen.
    let mut shortest = |delay: Duration| {
        proxy.set_delay(delay);
        let timed = || {
            let sent = Instant::now();
            round_trip(&mut client, b"x");
            sent.elapsed()
        };
        std::iter::repeat_with(timed).take(50).min().unwrap()
    };
    let near = shortest(Duration::ZERO);
    let delay = Duration::from_micros(100);
    let far = shortest(delay);
    assert!(far >= delay && far < near + delay * 2, "{far:?}, without the delay {near:?}");

    let (chunks, delay) = (20_u8, Duration::from_millis(100));
    proxy.set_delay(delay);
    let first = Instant::now();
    for chunk in 0..chunks {
        client.write_all(&[chunk]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let mut got = vec![0; chunks.into()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, (0..chunks).collect::<Vec<_>>());
    let took = first.elapsed();
    assert!(took >= delay && took < delay * u32::from(chunks) / 2, "the delays add up: {took:?}");
    assert_eq!(proxy.bytes(), 2 * (2 * 50 + u64::from(chunks)));

    drop(proxy);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "it ends with the proxy");
}

#[test]
fn a_black_hole_swallows_and_leaves_only_new_connections_working() {
    let proxy = start();
    let mut before = connect(&proxy);
    round_trip(&mut before, b"hello");
    let counted = proxy.counted();

    proxy.set_black_hole(true);
    assert_silent(&mut before);
    let mut during = connect(&proxy);
    assert_silent(&mut during);
    assert_eq!(proxy.counted(), counted, "nothing passed");

    proxy.set_black_hole(false);
    round_trip(&mut connect(&proxy), b"hello again");
    assert_silent(&mut before);
    assert_silent(&mut during);
    drop((before, during));
    eventually("all are closed", || (proxy.connections() == 0).then_some(()));
}

#[test]
fn a_black_hole_hides_the_servers_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port());
    let mut client = connect(&proxy);
    let (server, _) = listener.accept().unwrap();
    eventually("it is open", || (proxy.connections() == 1).then_some(()));
    proxy.set_black_hole(true);
    drop((server, listener));
    assert_silent(&mut client);
    assert_silent(&mut connect(&proxy));
    drop(proxy);
    assert_eq!(rest(&mut client), b"", "it ends with the proxy");
}

#[test]
fn a_cut_comes_after_exactly_so_many_bytes_and_once() {
    for from in [Side::Client, Side::Server] {
        for bytes in 0..=6_u8 {
            let proxy = start();
            let (mut other, mut client) = (connect(&proxy), connect(&proxy));
            round_trip(&mut other, b"other");
            round_trip(&mut client, b"before");
            let (of_client, of_server) = proxy.counted();

            proxy.cut_after(from, bytes.into());
            assert!(!proxy.is_cut());
            client.write_all(b"123456").unwrap();
            let got = rest(&mut client);
            eventually("it is cut", || proxy.is_cut().then_some(()));
            let counted = proxy.counted();
            match from {
                // The echo of what came through may be cut off with it.
                Side::Client => assert_eq!(counted.0 - of_client, u64::from(bytes)),
                Side::Server => {
                    assert_eq!((counted.1 - of_server, got), (bytes.into(), b"123456"[..bytes.into()].to_vec()));
                }
            }
            eventually("it is closed", || (proxy.connections() == 1).then_some(()));
            round_trip(&mut other, b"the others go on");
            round_trip(&mut connect(&proxy), b"and new ones work");
        }
    }
}

#[test]
fn a_cut_counts_over_all_connections_and_hits_the_one_that_carries_the_last_byte() {
    let proxy = start();
    let (mut first, mut second) = (connect(&proxy), connect(&proxy));
    proxy.cut_after(Side::Client, 8);
    round_trip(&mut first, b"1234567");
    assert!(!proxy.is_cut());
    second.write_all(b"8 and what is lost").unwrap();
    rest(&mut second);
    eventually("it is cut", || proxy.is_cut().then_some(()));
    assert_eq!(proxy.counted().0, 8);
    round_trip(&mut first, b"goes on");
}

#[test]
fn what_waits_for_its_answer_is_told_apart() {
    let proxy = start();
    let mut client = connect(&proxy);
    round_trip(&mut client, b"asked and answered");
    assert!(proxy.is_answered());
    proxy.set_delay(SILENCE);
    client.write_all(b"asked").unwrap();
    eventually("it came", || (!proxy.is_answered()).then_some(()));
    client.read_exact(&mut [0; 5]).unwrap();
    assert!(proxy.is_answered());
    client.write_all(b"asked, and gone").unwrap();
    drop(client);
    eventually("its connection is closed", || proxy.is_answered().then_some(()));
}

#[test]
fn a_throttle_limits_both_directions_while_it_is_on() {
    let proxy = start();
    let mut client = connect(&proxy);
    let bytes = [7; 400];
    proxy.throttle(Some(2000));
    let started = Instant::now();
    round_trip(&mut client, &bytes);
    // The last piece's pause comes after it.
    let least = Duration::from_millis(200 - 50);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());

    proxy.throttle(Some(1));
    client.write_all(&bytes).unwrap();
    thread::sleep(SILENCE);
    assert!(proxy.counted().0 <= 402, "the server's direction alone would not hold these up");
    proxy.throttle(None);
    client.read_exact(&mut [0; 400]).unwrap();
    assert_eq!(proxy.counted(), (800, 800));
}

#[test]
fn open_connections_are_counted() {
    let proxy = start();
    let mut clients: Vec<_> = (0..3).map(|_| connect(&proxy)).collect();
    for client in &mut clients {
        round_trip(client, b"x");
    }
    assert_eq!(proxy.connections(), 3);
    clients.pop();
    eventually("one is closed", || (proxy.connections() == 2).then_some(()));
}
