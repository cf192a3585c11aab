//! A database server that is none: it speaks just enough of the MySQL protocol to say who it is.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

/// What it can do: long passwords and flags, a database at the start, protocol 4.1, transactions, and passwords that are
/// hashed by a method with a name.
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;

/// The status.
const AUTOCOMMIT: u8 = 2;
const UTF8MB4: u8 = 45;
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
/// The type of a column of text.
const VAR_STRING: u8 = 0xfd;
const OK: [u8; 7] = [0, 0, 0, AUTOCOMMIT, 0, 0, 0];
const END_OF_ROWS: [u8; 5] = [0xfe, 0, 0, AUTOCOMMIT, 0];

/// Serves on a free port until the test's end, and returns the port. Anybody may log in; to a question for variables it
/// answers with its `version` and `version_comment`, to one for its host name with a name, and all else is fine.
pub fn start(version: &'static str, comment: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A client that goes away is no error.
            thread::spawn(move || drop(serve(client, version, comment)));
        }
    });
    port
}

/// Like [`start`], of a server whose accounts are checked by `plugin`. It lets nobody in.
pub fn start_with_plugin(plugin: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                write_packet(&mut client, 0, &greeting("11.8.2-MariaDB"))?;
                read_packet(&mut client)?;
                write_packet(&mut client, 2, &[&[0xfe], plugin.as_bytes(), b"\0", b"12345678901234567890\0"].concat())?;
                // Until the client goes.
                read_packet(&mut client).and_then(|_| read_packet(&mut client))
            });
        }
    });
    port
}

fn serve(mut client: TcpStream, version: &str, comment: &str) -> io::Result<()> {
    write_packet(&mut client, 0, &greeting(version))?;
    read_packet(&mut client)?;
    write_packet(&mut client, 2, &OK)?;
    loop {
        let command = read_packet(&mut client)?;
        match command.split_first() {
            None | Some((&COM_QUIT, _)) => return Ok(()),
            Some((&COM_QUERY, sql)) if String::from_utf8_lossy(sql).contains("VARIABLES") => {
                let rows = [vec!["version", version], vec!["version_comment", comment]];
                write_rows(&mut client, &["Variable_name", "Value"], &rows)?;
            }
            Some((&COM_QUERY, sql)) if String::from_utf8_lossy(sql).contains("@@hostname") => {
                write_rows(&mut client, &["name"], &[vec!["scripted:3306:1"]])?;
            }
            Some(_) => write_packet(&mut client, 1, &OK)?,
        }
    }
}

fn write_rows(client: &mut TcpStream, columns: &[&str], rows: &[Vec<&str>]) -> io::Result<()> {
    let count = u8::try_from(columns.len()).expect("few columns");
    let mut packets = vec![vec![count]];
    packets.extend(columns.iter().map(|name| column(name)));
    packets.push(END_OF_ROWS.to_vec());
    packets.extend(rows.iter().map(|row| row.iter().flat_map(|value| text(value)).collect()));
    packets.push(END_OF_ROWS.to_vec());
    for (number, packet) in (1..).zip(&packets) {
        write_packet(client, number, packet)?;
    }
    Ok(())
}

fn greeting(version: &str) -> Vec<u8> {
    let [low, lower, high, higher] = CAPABILITIES.to_le_bytes();
    [
        &[10],
        version.as_bytes(),
        &[0, 1, 0, 0, 0], // the connection's number is 1
        b"12345678\0",    // what a password is hashed with, in two parts
        &[low, lower, UTF8MB4, AUTOCOMMIT, 0, high, higher, 21],
        &[0; 10],
        b"123456789012\0",
        b"mysql_native_password\0",
    ]
    .concat()
}

/// The definition of a column.
fn column(name: &str) -> Vec<u8> {
    let names = ["def", "", "", "", name, name].map(text).concat();
    [&names[..], &[12, UTF8MB4, 0, 0, 1, 0, 0, VAR_STRING, 0, 0, 0, 0, 0]].concat()
}

/// A text with its length before it.
fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text");
    [&[length], text.as_bytes()].concat()
}

fn write_packet(to: &mut TcpStream, number: u8, packet: &[u8]) -> io::Result<()> {
    let [low, middle, high, _] = u32::try_from(packet.len()).expect("a short packet").to_le_bytes();
    to.write_all(&[&[low, middle, high, number], packet].concat())
}

fn read_packet(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
    let mut packet = vec![0; usize::try_from(length).expect("24 bits")];
    from.read_exact(&mut packet)?;
    Ok(packet)
}
