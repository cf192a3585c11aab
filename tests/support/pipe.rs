//! The server without its sockets: a connection that benches and tests poll by hand.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_http::{HttpService, KeepAlive, Protocol, Request, Response};
use actix_service::{Service as _, ServiceFactory, ServiceFactoryExt as _, fn_service};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::web::Bytes;
use seqsvr::config::Limits;
use seqsvr::http::{self, Service};
use seqsvr::sequences::Sequences;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::filled::filled_sequence;

/// What the workers share: `default`, filled for ever.
pub fn service() -> Arc<Service> {
    let (sequence, shared) = filled_sequence();
    // Nobody looks names up.
    let (asked, _) = mpsc::channel(1);
    let sequences = Sequences::new(sequence, asked, shared.clone());
    Arc::new(Service::new(sequences, Limits::default(), 100, shared.metrics.clone()))
}

/// A connection whose client sends one request whenever it is told to, and throws the answer away.
#[derive(Clone, Default)]
pub struct Pipe(Rc<Ends>);

#[derive(Default)]
struct Ends {
    request: RefCell<Vec<u8>>,
    is_due: Cell<bool>,
    answer: RefCell<Vec<u8>>,
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.0.is_due.replace(false) {
            return Poll::Pending;
        }
        buffer.put_slice(&self.0.request.borrow());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.answer.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One connection and the service behind it, polled by hand: no socket, no reactor, no other task.
pub struct Connection {
    system: actix_web::rt::SystemRunner,
    pipe: Pipe,
    service: Pin<Box<dyn Future<Output = ()>>>,
}

impl Connection {
    /// One to the server.
    pub fn open(request: &str) -> Self {
        let service = service();
        Self::to(|| http::worker(service, std::future::pending), request)
    }

    /// One to actix-http alone: the same headers, and a body that is there already.
    pub fn to_bare_actix_http(request: &str) -> Self {
        const BODY: &[u8] = br#"{"code":0,"msg":"ok","data":{"id":1000}}"#;
        let worker = || {
            let http = HttpService::build().keep_alive(KeepAlive::Os).finish(fn_service(|_: Request| async {
                let mut response = Response::with_body(StatusCode::OK, Bytes::from_static(BODY));
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                Ok::<_, Infallible>(response)
            }));
            fn_service(|pipe: Pipe| ready(Ok((pipe, Protocol::Http1, None)))).and_then(http)
        };
        Self::to(worker, request)
    }

    /// Opens one to what `worker` makes; `request` are all bytes of the request that it sends again and again.
    fn to<W>(worker: impl FnOnce() -> W, request: &str) -> Self
    where
        W: ServiceFactory<Pipe, Config = (), InitError = ()>,
        W::Service: 'static,
    {
        let system = actix_web::rt::System::new();
        let pipe = Pipe::default();
        pipe.0.request.borrow_mut().extend_from_slice(request.as_bytes());
        let theirs = pipe.clone();
        let Ok(service) = system.block_on(async { worker().new_service(()).await }) else { panic!("it can be made") };
        let service = Box::pin(async move {
            // It ends where the client or the server closes.
            let _ = service.call(theirs).await;
        });
        Self { system, pipe, service }
    }

    /// Sends the request so many times, each after the answer to the one before. The last answer.
    ///
    /// # Panics
    /// If the server closes the connection.
    pub fn ask(&mut self, times: u64) -> String {
        let Self { system, pipe, service } = self;
        system.block_on(async {
            for _ in 0..times {
                pipe.0.answer.borrow_mut().clear();
                pipe.0.is_due.set(true);
                let polled = service.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending(), "the connection was closed");
            }
        });
        String::from_utf8(pipe.0.answer.borrow().clone()).expect("an answer is text")
    }
}
