//! The shop's front: asks the cart for prices and the payment service for a receipt, by Service name.
//!
//! `GET /` shows the shop; `GET /buy?items=apple,pear` buys; `GET /healthz` and `GET /version` say how
//! it is.

use wstd::http::{Body, Client, Method, Request, Response, Result, StatusCode};

const VERSION: &str = match option_env!("WORKLOAD_VERSION") {
    Some(version) => version,
    None => "1",
};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/version" => (StatusCode::OK, format!("{VERSION}\n")),
        "/" => front().await,
        "/buy" => buy(request.uri().query().and_then(|query| query.strip_prefix("items=")).unwrap_or("")).await,
        _ => (StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    Ok(response)
}

async fn front() -> (StatusCode, String) {
    let banner = std::env::var("BANNER").unwrap_or_else(|_| "Welcome".to_owned());
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    match call(Method::GET, "http://cart/").await {
        Ok(prices) => (
            StatusCode::OK,
            format!("{banner} (storefront {VERSION}, {pod})\n\n{prices}\nbuy: /buy?items=apple,pear\n"),
        ),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("cart: {error}\n")),
    }
}

async fn buy(items: &str) -> (StatusCode, String) {
    let total = match call(Method::GET, &format!("http://cart/total?items={items}")).await {
        Ok(total) => total,
        Err(error) => return (StatusCode::BAD_GATEWAY, format!("cart: {error}\n")),
    };
    match call(Method::POST, &format!("http://payment/pay?cents={}", total.trim())).await {
        Ok(receipt) => (StatusCode::OK, format!("bought {items}: {receipt}")),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("payment: {error}\n")),
    }
}

/// The body of a 200 answer; any other answer is an error that shows it.
async fn call(method: Method, uri: &str) -> std::result::Result<String, String> {
    let request = Request::builder().method(method).uri(uri).body(Body::empty()).map_err(|e| e.to_string())?;
    let mut response = Client::new().send(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let text = response.body_mut().str_contents().await.map_err(|e| e.to_string())?.to_owned();
    if status.is_success() { Ok(text) } else { Err(format!("{status}: {}", text.trim())) }
}
