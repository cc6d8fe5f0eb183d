//! Knows what things cost. The price list is a file, mounted from a ConfigMap.
//!
//! `GET /` lists the prices; `GET /total?items=apple,pear` adds them up.

use wstd::http::{Body, Request, Response, Result, StatusCode};

const VERSION: &str = match option_env!("WORKLOAD_VERSION") {
    Some(version) => version,
    None => "1",
};

const PRICES: &str = "/etc/shop/prices";

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let (status, body) = answer(request.uri().path(), request.uri().query().unwrap_or(""));
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    Ok(response)
}

fn answer(path: &str, query: &str) -> (StatusCode, String) {
    if path == "/healthz" {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    if path == "/version" {
        return (StatusCode::OK, format!("{VERSION}\n"));
    }
    let list = match std::fs::read_to_string(PRICES) {
        Ok(list) => list,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read {PRICES}: {error}\n")),
    };
    let prices: Vec<(&str, u64)> = list.lines().filter_map(price).collect();
    match path {
        "/total" => total(&prices, query.strip_prefix("items=").unwrap_or("")),
        "/" => (StatusCode::OK, prices.iter().map(|(name, cents)| format!("{name}={cents}\n")).collect()),
        _ => (StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

/// A line `name=cents`.
fn price(line: &str) -> Option<(&str, u64)> {
    let (name, cents) = line.split_once('=')?;
    Some((name.trim(), cents.trim().parse().ok()?))
}

fn total(prices: &[(&str, u64)], items: &str) -> (StatusCode, String) {
    let mut sum = 0u64;
    for item in items.split(',').filter(|item| !item.is_empty()) {
        match prices.iter().find(|(name, _)| *name == item) {
            Some((_, cents)) => sum = sum.saturating_add(*cents),
            None => return (StatusCode::NOT_FOUND, format!("we do not sell {item}\n")),
        }
    }
    (StatusCode::OK, format!("{sum}\n"))
}
