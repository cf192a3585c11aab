//! What holds for every query of `/new`.

use actix_web::body::MessageBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, HeaderMap, HeaderValue};
use seqsvr::config::Limits;
use seqsvr::http::answer::{Refusal, Shape, Wanted};

/// More than any refusal needs, whatever was typed.
const LONGEST_REFUSAL: usize = 300;

/// The last line of `input` is the query, the one before it the `Accept` header.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (accept, query) = text.rsplit_once('\n').unwrap_or(("", text));
    let mut headers = HeaderMap::new();
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(ACCEPT, accept);
    }
    let limits = Limits::default();
    let read = |query: &str| Wanted::read(query, &headers, &limits);

    let found = read(query);
    match &found {
        Ok(wanted) => {
            let most = match wanted.shape {
                Shape::Ranges(_) => limits.range.get(),
                Shape::Id | Shape::Ids(_) => limits.batch.get(),
            };
            assert!((1..=most).contains(&count(*wanted)), "{wanted:?} is not within {limits:?}");
            assert_eq!(read(&rendered(*wanted)), found, "it says something else when it is written again");
            check_what_was_typed(query, *wanted);
        }
        Err(refusal) => check_refusal(refusal),
    }
    assert_eq!(read(&format!("{query}&_=1")), found, "a key that means nothing here changes what is wanted");
}

fn count(wanted: Wanted) -> u64 {
    match wanted.shape {
        Shape::Id => 1,
        Shape::Ids(count) | Shape::Ranges(count) => count,
    }
}

fn rendered(wanted: Wanted) -> String {
    let shape = match wanted.shape {
        Shape::Id => String::new(),
        Shape::Ids(count) => format!("count={count}"),
        Shape::Ranges(count) => format!("count={count}&ranges"),
    };
    shape + if wanted.is_strings { "&strings" } else { "" }
}

/// Without escapes the query can be read by hand.
fn check_what_was_typed(query: &str, wanted: Wanted) {
    if query.contains(['%', '+']) {
        return;
    }
    let pairs = || query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let counts: Vec<_> = pairs().filter(|(key, _)| *key == "count").map(|(_, typed)| typed.parse::<u64>()).collect();
    // The last one counts.
    let is_set = |name: &str| {
        pairs().fold(false, |is_set, (key, typed)| if key == name { !["0", "false"].contains(&typed) } else { is_set })
    };
    match wanted.shape {
        Shape::Id => assert!(counts.is_empty()),
        Shape::Ids(count) => assert_eq!(counts, [Ok(count)]),
        Shape::Ranges(count) => assert!(counts == [Ok(count)] || (counts.is_empty() && count == 1)),
    }
    assert_eq!(matches!(wanted.shape, Shape::Ranges(_)), is_set("ranges"));
    assert_eq!(wanted.is_strings, is_set("strings"));
}

/// A 400 with a short text, in the same three keys as every answer.
fn check_refusal(refusal: &Refusal) {
    assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    assert!((1..=LONGEST_REFUSAL).contains(&refusal.what.len()), "{} bytes: {}", refusal.what.len(), refusal.what);
    let Ok(body) = refusal.respond().into_body().try_into_bytes() else { panic!("a body that is not in memory") };
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body, serde_json::json!({"code": -400, "msg": refusal.what, "data": null}));
}
