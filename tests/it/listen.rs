//! Where the server listens: on all addresses of a name, and on both families where no host is named.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::support::server::{Server, Setup};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const HOSTS: &str = "::1 ids.test\n127.0.0.1 ids.test\n127.0.0.2 ids.test\n";

fn accepts(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(20)).is_ok()
}

fn started_at(port: &str) -> Server {
    Setup::embedded().with_hosts(HOSTS).env("SEQSVR_PORT", port).start()
}

fn healthcheck(setup: Setup, port: &str) -> (i32, String) {
    setup.env("SEQSVR_PORT", port).run(&["healthcheck"])
}

#[test]
fn a_name_is_all_its_addresses() {
    let server = started_at("ids.test:0");
    for address in [V6, V4, Ipv4Addr::new(127, 0, 0, 2).into()] {
        assert!(accepts(address, server.port()), "{address}: {}", server.log());
    }
    assert!(!accepts(Ipv4Addr::new(127, 0, 0, 3).into(), server.port()));
    let port = server.port();
    let log = server.log();
    for address in ["[::1]", "127.0.0.1", "127.0.0.2"] {
        assert!(log.contains(&format!("http://{address}:{port}")), "{log}");
    }
    assert!(log.contains(&format!("try curl http://ids.test:{port}/new")), "{log}");
    assert_eq!(server.next(), 101);
}

#[test]
fn an_address_is_that_one_only() {
    let server = started_at("127.0.0.2:0");
    assert!(accepts(Ipv4Addr::new(127, 0, 0, 2).into(), server.port()));
    assert!(!accepts(V4, server.port()) && !accepts(V6, server.port()));
    assert!(server.log().contains(&format!("try curl http://127.0.0.2:{}/new", server.port())), "{}", server.log());
}

#[test]
fn no_host_is_both_families() {
    for port in [":0", "[::]:0"] {
        let server = started_at(port);
        assert!(accepts(V4, server.port()) && accepts(V6, server.port()), "{port}: {}", server.log());
        assert!(server.log().contains(&format!("try curl http://localhost:{}/new", server.port())), "{}", server.log());
    }
}

/// The system's default, `net.ipv6.bindv6only`, does not matter.
#[test]
fn no_host_is_both_families_where_the_default_is_ipv6_only() {
    let script = "ip link set lo up && echo 1 > /proc/sys/net/ipv6/bindv6only && exec \"$@\"";
    for port in [":8000", "[::]:8000"] {
        let setup = Setup::embedded().by(&["unshare", "--net", "sh", "-c", script, "sh"]);
        let server = setup.env("SEQSVR_PORT", port).start();
        let pid = server.pid().to_string();
        for address in ["127.0.0.1:8000", "[::1]:8000"] {
            let inside = Setup::embedded().by(&["nsenter", "--target", &pid, "--net"]);
            let (code, output) = healthcheck(inside, address);
            assert_eq!(code, 0, "{port}: {address}: {output}");
        }
    }
}

#[test]
fn an_address_that_this_machine_does_not_have_is_left_out() {
    let setup = Setup::embedded().with_hosts("192.0.2.1 ids.test\n127.0.0.1 ids.test\n");
    let server = setup.env("SEQSVR_PORT", "ids.test:0").start();
    assert!(accepts(V4, server.port()));
    assert!(server.log().contains("192.0.2.1"), "{}", server.log());
}

#[test]
fn a_port_that_is_taken_on_one_address_is_an_error() {
    let other = started_at("127.0.0.2:0");
    let setup = Setup::embedded().with_hosts(HOSTS).env("SEQSVR_PORT", &format!("ids.test:{}", other.port()));
    let (code, output) = setup.run(&[]);
    assert!(code == 1 && output.contains("in use"), "{code}: {output}");
}

#[test]
fn the_health_check_tries_all_addresses() {
    let setup = || Setup::embedded().with_hosts(HOSTS);
    let server = started_at("127.0.0.2:0");
    let (code, output) = healthcheck(setup(), &format!("ids.test:{}", server.port()));
    assert_eq!(code, 0, "{output}");

    // No IPv4 beside this address.
    let server = started_at("[::1]:0");
    for port in [format!(":{}", server.port()), format!("[::]:{}", server.port())] {
        let (code, output) = healthcheck(setup(), &port);
        assert_eq!(code, 0, "{port}: {output}");
    }
    let (code, output) = healthcheck(setup(), &format!("127.0.0.1:{}", server.port()));
    assert!(code == 1 && output.contains("127.0.0.1"), "{code}: {output}");
}

/// The file that the tests rely on is theirs alone.
#[test]
fn the_machine_keeps_its_hosts() {
    let before = fs::read("/etc/hosts").unwrap();
    drop(started_at("ids.test:0"));
    assert!(Command::new("getent").args(["hosts", "ids.test"]).output().unwrap().stdout.is_empty());
    assert_eq!(fs::read("/etc/hosts").unwrap(), before);
}
