//! The HTTP front end: routes, limits, and what a request is refused for.
//!
//! What always holds: a refused request costs no id, and every response is counted, by a counter of its worker's own.

use std::cell::RefCell;
use std::future::ready;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{ConnectionType, HttpService, KeepAlive, Protocol};
use actix_service::{ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, Server};
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Compress;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, Resource, guard, web};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Limits;
use crate::metrics::{Metrics, ResponseCounts, Route};
use crate::sequence::{Cached, Failure, Sequence};
use crate::sequences::Sequences;
use crate::store::ErrorKind;

pub mod answer;
pub mod connections;
mod head;
mod lane;
mod listen;
mod malformed;
mod probes;
mod stream;

use answer::{Refusal, Shape, Wanted};
use connections::Connections;
use lane::Lane;
pub use listen::bind;
use stream::Watch;

/// The most bytes that are read of a POST's body.
const MAX_BODY_BYTES: usize = 16 << 10;

/// How long a client may take to close its side.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What all workers share.
#[derive(Debug)]
pub struct Service {
    sequences: Arc<Sequences>,
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    /// Relaxed: nothing else is published through it, and a probe that comes a moment earlier may miss it.
    is_draining: AtomicBool,
}

/// A worker's own: what is shared, its counter, and its way to `default`.
#[derive(Debug)]
pub struct Worker {
    service: Arc<Service>,
    counts: Arc<ResponseCounts>,
    default: RefCell<Cached>,
}

impl Service {
    /// Serves `sequences` within `limits`, on at most `max_connections` connections.
    pub fn new(sequences: Arc<Sequences>, limits: Limits, max_connections: u64, metrics: Arc<Metrics>) -> Self {
        let connections = Connections::new(max_connections, metrics.clone());
        Self { sequences, limits, metrics, connections, is_draining: AtomicBool::new(false) }
    }

    /// From now on `/readyz` says no, so that load balancers look elsewhere. Requests are still answered, and each answer tells
    /// its client to reconnect.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether ids can be asked for here. A failing store is no reason while ids are in memory; an exhausted sequence
    /// is none at all, for another node could not help.
    fn readiness(&self) -> Result<String, String> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("this node is shutting down".to_owned());
        }
        let sequence = self.sequences.default_sequence();
        let health = sequence.health().clone();
        match health.failure {
            // Another node could not help.
            Some(Failure { kind: Some(ErrorKind::Exhausted), error, .. }) => Ok(format!("ready, but {error}")),
            Some(failure) if !health.has_leased => {
                Err(format!("nothing was leased since the start: {}", failure.error))
            }
            None if !health.has_leased => Err("the first lease is under way".to_owned()),
            Some(failure) => {
                let since = failure.since.elapsed().as_secs();
                if sequence.snapshot().held() == 0 {
                    return Err(format!("no id is left, and leasing fails since {since} s: {}", failure.error));
                }
                let runway = sequence.runway_seconds();
                Ok(format!("ready, from memory for {runway:.0} s; leasing fails since {since} s: {}", failure.error))
            }
            None => Ok(match sequence.short_runway() {
                Some((runway, wanted)) => format!("ready; the runway is short: {runway:.0} s of {wanted:.0} s"),
                None => "ready".to_owned(),
            }),
        }
    }
}

impl Worker {
    fn new(service: Arc<Service>) -> Self {
        let counts = service.metrics.worker();
        let default = RefCell::new(Cached::new(service.sequences.default_sequence().clone()));
        Self { service, counts, default }
    }

    /// Counts the `response` to `request`, and says where it is the connection's last.
    fn respond(&self, request: &HttpRequest, route: Route, mut response: HttpResponse) -> HttpResponse {
        self.counts.count(route, response.status().as_u16());
        // After an offer of another protocol actix closes the connection, and would not say so.
        if self.service.is_draining.load(Ordering::Relaxed) || request.head().upgrade() {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        response
    }
}

/// The server on `listeners`; it runs once it is awaited. `grace` is how long requests in flight may take at its stop.
///
/// It is put together as `actix_web::HttpServer` does it, but of connections that are watched.
pub fn server(service: &Arc<Service>, listeners: Vec<TcpListener>, grace: Duration) -> std::io::Result<Server> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // `Connections` counts those of all workers together, and refuses more. actix would let them wait without a word.
    let max = service.connections.max();
    let mut builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(usize::try_from(max + 2 * Connections::surplus(max)).unwrap_or(usize::MAX))
        .shutdown_timeout(grace.as_secs() + u64::from(grace.subsec_nanos() > 0))
        .disable_signals();
    let shutdown = builder.graceful_shutdown_signal();
    for listener in listeners {
        let (service, shutdown) = (service.clone(), shutdown.clone());
        builder = builder.listen("http", listener, move || {
            let shutdown = shutdown.clone();
            let stop = move || {
                let signal = shutdown.clone();
                async move { signal.notified().await }
            };
            fn_service(async |tcp: TcpStream| {
                // It fails where the client has gone already.
                let _ = tcp.set_nodelay(true);
                Ok(tcp)
            })
            .and_then(worker(service.clone(), stop))
        })?;
    }
    Ok(builder.run())
}

/// One worker's service for connections, whatever they are made of; they end politely once `stop` does. Must be called in
/// the worker's thread.
pub fn worker<T, Stop>(
    service: Arc<Service>,
    stop: impl Fn() -> Stop + Clone + 'static,
) -> impl ServiceFactory<T, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    Stop: Future<Output = ()> + 'static,
{
    let watch = Watch::start(turns(&service.limits));
    let connections = service.connections.clone();
    let worker = web::Data::new(Worker::new(service));
    let lane = Rc::new(Lane::new(worker.clone()));
    let app = App::new().app_data(worker).configure(routes);
    let http = HttpService::build()
        .graceful_shutdown_signal(stop)
        // `stream` times both.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .finish(map_config(app, |()| AppConfig::default()));
    let watched = move |io: T| {
        let place = connections.enter().ok_or_else(|| DispatchError::Io(io::ErrorKind::ConnectionRefused.into()))?;
        // The address of the client is not used.
        Ok((watch.stream(io, lane.clone(), place), Protocol::Http1, None))
    };
    fn_service(move |io: T| ready(watched(io))).and_then(http)
}

/// Where a request may wait for longer than a connection stays open, waiting must not end it: it waits for its sequence to
/// be found, and then for ids.
fn turns(limits: &Limits) -> stream::Limits<Duration> {
    stream::Limits { idle: limits.keep_alive.get(), request: limits.request.get().max(2 * limits.wait.get()) }
}

fn routes(app: &mut web::ServiceConfig) {
    let get_or_head = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    app.app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
        .service(only("/new", "GET, POST", Route::New).route(web::get().to(new)).route(web::post().to(new_posted)))
        .service(
            only("/new/{sequence}", "GET, POST", Route::NewSequence)
                .route(web::get().to(new_of_sequence))
                .route(web::post().to(new_of_sequence_posted)),
        )
        .service(only("/livez", "GET, HEAD", Route::Livez).route(get_or_head().to(probes::livez)))
        .service(only("/readyz", "GET, HEAD", Route::Readyz).route(get_or_head().to(probes::readyz)))
        .service(
            only("/metrics", "GET, HEAD", Route::Metrics)
                .route(get_or_head().to(probes::metrics))
                // A scrape of many sequences is hundreds of kilobytes, and a twentieth of that compressed.
                .wrap(Compress::default()),
        )
        .service(
            only("/", "GET, HEAD, OPTIONS", Route::Other)
                .route(get_or_head().to(root))
                .route(web::route().method(Method::OPTIONS).to(options)),
        )
        .default_service(web::to(not_found));
}

/// A resource that answers other methods than its own with 405.
fn only(path: &str, allowed: &'static str, route: Route) -> Resource {
    web::resource(path).default_service(web::to(move |worker: web::Data<Worker>, request: HttpRequest| async move {
        let what = format!("{} is not allowed here: use {allowed}", request.method());
        let mut response = Refusal { status: StatusCode::METHOD_NOT_ALLOWED, what }.respond();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        worker.respond(&request, route, response)
    }))
}

async fn new(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    let service = &worker.service;
    let response = hand_out(service, service.sequences.default_sequence(), &request).await;
    worker.respond(&request, Route::New, response)
}

/// A body must be read, or the connection could not go on behind it.
type Body = Result<web::Bytes, actix_web::Error>;

async fn new_posted(worker: web::Data<Worker>, request: HttpRequest, body: Body) -> HttpResponse {
    match check_body(body) {
        Ok(()) => new(worker, request).await,
        Err(refusal) => worker.respond(&request, Route::New, refusal.respond()),
    }
}

async fn new_of_sequence_posted(worker: web::Data<Worker>, request: HttpRequest, body: Body) -> HttpResponse {
    match check_body(body) {
        Ok(()) => new_of_sequence(worker, request).await,
        Err(refusal) => worker.respond(&request, Route::NewSequence, refusal.respond()),
    }
}

fn check_body(body: Body) -> Result<(), Refusal> {
    match body {
        Ok(body) => answer::check_body(&body),
        Err(error) => Err(Refusal {
            status: error.as_response_error().status_code(),
            what: format!("the body can't be read ({error}): send none, or at most {MAX_BODY_BYTES} bytes"),
        }),
    }
}

async fn new_of_sequence(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    let service = &worker.service;
    let response = match service.sequences.get(request.match_info().query("sequence")).await {
        Ok(sequence) => hand_out(service, &sequence, &request).await,
        Err(error) => Refusal::from(error).respond(),
    };
    worker.respond(&request, Route::NewSequence, response)
}

async fn hand_out(service: &Service, sequence: &Sequence, request: &HttpRequest) -> HttpResponse {
    match take(service, sequence, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.respond(),
    }
}

async fn take(service: &Service, sequence: &Sequence, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let wanted = Wanted::read(request.query_string(), request.headers(), &service.limits)?;
    let response = match wanted.shape {
        Shape::Id => answer::one(sequence.next().await?, wanted),
        Shape::Ids(count) | Shape::Ranges(count) => answer::ids(&sequence.take(count).await?, wanted),
    };
    Ok(response.map_into_boxed_body().into())
}

const USAGE: &str = concat!(
    "seqsvr ",
    env!("CARGO_PKG_VERSION"),
    ": unique, rising ids\n\n\
     GET /new                    {\"code\":0,\"msg\":\"ok\",\"data\":{\"id\":101}}\n\
     GET /new/orders             the next id of the sequence orders\n\
     GET /new?count=3            three ids; with &ranges as first and last; with &strings as strings\n\
     GET /livez /readyz /metrics for those that watch\n"
);

async fn root(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    let response = HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(USAGE);
    worker.respond(&request, Route::Other, response)
}

/// What some load balancers ask by default to see whether a server is there.
async fn options(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    let response =
        HttpResponse::NoContent().insert_header((ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"))).finish();
    worker.respond(&request, Route::Other, response)
}

async fn not_found(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    // A path may be as long as a request: the start is enough to know it by.
    let path: String = request.path().chars().take(64).collect();
    let what = format!("there is nothing at {path}: ids are at /new");
    worker.respond(&request, Route::Other, Refusal { status: StatusCode::NOT_FOUND, what }.respond())
}
