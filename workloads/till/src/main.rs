//! A server that knows no prices: it imports `shop:goods/prices`, which another component exports.
//!
//! `GET /ITEM` tells what an item costs.

use wstd::http::{Body, Request, Response, Result};

wit_bindgen::generate!({ path: "wit", world: "till" });

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let item = request.uri().path().trim_start_matches('/');
    let (status, body) = match shop::goods::prices::price(item) {
        Some(cents) => (200, format!("{item}: {}.{:02}\n", cents / 100, cents % 100)),
        None => (404, format!("{item:?} is not sold here\n")),
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = status.try_into()?;
    Ok(response)
}
