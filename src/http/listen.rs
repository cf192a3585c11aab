//! Binds the addresses at which the server listens.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Connections that wait to be accepted; the kernel caps it (`net.core.somaxconn`). With std's 128, a thousand clients that
/// connect at once wait for a second, for the kernel drops what does not fit.
const BACKLOG: i32 = 4096;

/// How often a free port is chosen that another process may have at one of several addresses.
const PORT_TRIES: u32 = 10;

/// Binds `listen`: every address of its host, or all of the machine, IPv6 and IPv4, where no host is named.
pub fn bind(listen: &Listen) -> io::Result<Vec<TcpListener>> {
    let Some(host) = &listen.host else { return bind_all(listen.port).map(|listener| vec![listener]) };
    let mut addresses: Vec<SocketAddr> = (host.as_str(), listen.port).to_socket_addrs()?.collect();
    addresses.dedup();
    let mut tries = if listen.port == 0 && addresses.len() > 1 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_each(&addresses) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            outcome => return outcome,
        }
    }
}

/// One listener for each of `addresses`, all at one port. Those that this machine does not have are left out, if it has others.
fn bind_each(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut missing = Vec::new();
    for address in addresses {
        let port =
            listeners.first().map_or(Ok(address.port()), |first| first.local_addr().map(|first| first.port()))?;
        match bind_one(SocketAddr::new(address.ip(), port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_missing(&error) => missing.push((address.ip(), error)),
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() {
        let error = missing.pop().map(|(_, error)| error);
        return Err(error.unwrap_or_else(|| io::Error::new(ErrorKind::NotFound, "the host has no address")));
    }
    for (address, error) in missing {
        tracing::info!("not listening at {address}: {error}");
    }
    Ok(listeners)
}

/// On a machine without IPv6, IPv4 is all.
fn bind_all(port: u16) -> io::Result<TcpListener> {
    match bind_one((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if is_missing(&error) => bind_one((Ipv4Addr::UNSPECIFIED, port).into()),
        outcome => outcome,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // IPv4 too, whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for connections that are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether this machine lacks the address, or its family.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}
