//! Two servers of our own that set the limit: the least that a server on this runtime, and on this framework, can cost.
//!
//! They are this binary, started again with a hidden argument, so that their processor time is their own process's. They
//! end when their standard input does, which is when who started them ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// The first argument of a reference server; the second is which, then what it answers.
pub const ARGUMENT: &str = "--reference";

/// What is read at once of a connection.
const BUFFER_BYTES: usize = 16 << 10;

/// So many answers lie ready to be sent in one write.
const ANSWERS: usize = 256;

/// Serves as `arguments` say, after having printed its port; does not return before standard input ends.
///
/// # Panics
/// If they are not those that `servers.rs` gives.
pub fn serve(arguments: &[String]) {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    std::io::stdout().flush().expect("the port is read");
    match arguments {
        [which, request_bytes, answer] if which == "raw" => {
            raw(&listener, request_bytes.parse().expect("a number of bytes"), answer.as_bytes());
        }
        [which, body] if which == "actix" => actix(listener, body.clone()).expect("actix serves"),
        _ => panic!("unknown: {arguments:?}"),
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Answers fixed bytes without parsing: requests are all of one length, so so many bytes are so many requests. A runtime
/// of its own for each processor, and connections in turn to each: no task ever moves.
fn raw(listener: &TcpListener, request_bytes: usize, answer: &[u8]) {
    let answers: &'static [u8] = answer.repeat(ANSWERS).leak();
    let workers: Vec<mpsc::UnboundedSender<TcpStream>> = (0..processors())
        .map(|_| {
            let (to, mut connections) = mpsc::unbounded_channel();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
                runtime.block_on(tokio::task::LocalSet::new().run_until(async {
                    while let Some(stream) = connections.recv().await {
                        tokio::task::spawn_local(answer_all(stream, request_bytes, answers));
                    }
                }));
            });
            to
        })
        .collect();
    for worker in workers.iter().cycle() {
        let Ok((stream, _)) = listener.accept() else { continue };
        worker.send(stream).expect("the workers stay");
    }
}

async fn answer_all(stream: TcpStream, request_bytes: usize, answers: &'static [u8]) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let (mut buffer, mut unanswered) = (vec![0; BUFFER_BYTES], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => unanswered += read,
        }
        while unanswered >= request_bytes {
            let count = (unanswered / request_bytes).min(ANSWERS);
            stream.write_all(&answers[..count * answers.len() / ANSWERS]).await?;
            unanswered -= count * request_bytes;
        }
    }
}

/// One route and a fixed body, with the headers of seqsvr's answers and as many workers.
fn actix(listener: TcpListener, body: String) -> std::io::Result<()> {
    let body = web::Bytes::from(body);
    actix_web::rt::System::new().block_on(async {
        let server = HttpServer::new(move || {
            let body = body.clone();
            App::new().route(
                "/new",
                web::get().to(move || {
                    let body = body.clone();
                    async move {
                        HttpResponse::Ok()
                            .insert_header((CONTENT_TYPE, "application/json"))
                            .insert_header((CACHE_CONTROL, "no-store"))
                            .body(body)
                    }
                }),
            )
        });
        server.workers(processors()).listen(listener)?.run().await
    })
}
