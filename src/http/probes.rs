//! What is asked by machines that watch: `/livez`, `/readyz`, `/metrics`. None of them touches the store.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::Worker;
use super::answer::{Refusal, message};
use crate::metrics::Route;

/// 200 as long as the process answers at all.
pub async fn livez(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    worker.respond(&request, Route::Livez, message(HttpResponse::Ok(), 0, "alive"))
}

/// 200 if ids can be asked for here, else 503 and why not.
pub async fn readyz(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    let response = match worker.service.readiness() {
        Ok(ready) => message(HttpResponse::Ok(), 0, &ready),
        Err(why) => Refusal { status: StatusCode::SERVICE_UNAVAILABLE, what: format!("not ready: {why}") }.respond(),
    };
    worker.respond(&request, Route::Readyz, response)
}

/// What Prometheus scrapes.
pub async fn metrics(worker: web::Data<Worker>, request: HttpRequest) -> HttpResponse {
    const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let service = &worker.service;
    service.metrics.connections(service.connections.open());
    let text = service.sequences.render(&service.metrics, service.readiness().is_ok());
    worker.respond(&request, Route::Metrics, HttpResponse::Ok().insert_header((CONTENT_TYPE, FORMAT)).body(text))
}
