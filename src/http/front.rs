//! The shortest way to an id: `GET /new` and `GET /new/NAME` without a query, answered in front of the router.
//!
//! What it answers has the same bytes as the router's answer (`tests/it/http.rs`), in half of its time
//! (`docs/performance.md`). All else is the router's: other methods, queries, names that are not known yet, and ids that
//! are not in memory.

use std::rc::Rc;

use actix_http::{HttpMessage, Request, Response};
use actix_service::{Service, ServiceFactory, fn_factory, fn_service};
use actix_web::body::{BoxBody, EitherBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Data};

use super::Worker;
use super::answer::{self, Wanted};
use crate::metrics::Route;

/// `router`, with this in front of it.
pub fn before<R>(
    router: R,
    worker: Data<Worker>,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = Response<EitherBody<Bytes, BoxBody>>,
    Error = R::Error,
    InitError = R::InitError,
>
where
    R: ServiceFactory<Request, Config = (), Response = ServiceResponse> + 'static,
{
    let router = Rc::new(router);
    fn_factory(move || {
        let (router, worker) = (router.clone(), worker.clone());
        async move {
            let router = Rc::new(router.new_service(()).await?);
            Ok(fn_service(move |request: Request| {
                let answer = answer(&worker, &request).ok_or_else(|| router.call(request));
                async move {
                    Ok(match answer {
                        Ok(response) => response.map_body(|_, body| EitherBody::left(body)),
                        Err(later) => Response::from(later.await?).map_body(|_, body| EitherBody::right(body)),
                    })
                }
            }))
        }
    })
}

/// The answer, if it is an easy one; nothing is spent otherwise.
fn answer(worker: &Worker, request: &Request) -> Option<Response<Bytes>> {
    if request.method() != Method::GET || request.uri().query().is_some() {
        return None;
    }
    let wanted = Wanted::one(request.headers());
    let (route, id) = match request.path().strip_prefix("/new")? {
        "" => (Route::New, worker.default.borrow_mut().try_next()?),
        name => (Route::NewSequence, worker.service.sequences.try_next(name.strip_prefix('/')?)?),
    };
    worker.counts.count(route, StatusCode::OK.as_u16());
    Some(answer::one(id, wanted))
}
