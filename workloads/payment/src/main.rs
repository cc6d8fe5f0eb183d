//! Takes the money: `POST /pay?cents=120` answers with a receipt that only the holder of the key can
//! make. The key comes from a Secret, as the variable `PAYMENT_KEY`.

use wstd::http::{Body, Method, Request, Response, Result, StatusCode};

const VERSION: &str = match option_env!("WORKLOAD_VERSION") {
    Some(version) => version,
    None => "1",
};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let (status, body) = answer(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    Ok(response)
}

fn answer(method: &Method, path: &str, query: &str) -> (StatusCode, String) {
    match path {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/version" => (StatusCode::OK, format!("{VERSION}\n")),
        "/pay" if method != Method::POST => (StatusCode::METHOD_NOT_ALLOWED, "pay with POST\n".to_owned()),
        "/pay" => pay(query),
        _ => (StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

fn pay(query: &str) -> (StatusCode, String) {
    let Some(cents) = query.strip_prefix("cents=").and_then(|text| text.parse::<u64>().ok()) else {
        return (StatusCode::BAD_REQUEST, "say how much: /pay?cents=120\n".to_owned());
    };
    match std::env::var("PAYMENT_KEY") {
        Ok(key) => (StatusCode::OK, format!("paid {cents}, receipt {:016x}\n", receipt(&key, cents))),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "PAYMENT_KEY is not set\n".to_owned()),
    }
}

/// FNV-1a over key and amount: enough for a demonstration, not for money.
fn receipt(key: &str, cents: u64) -> u64 {
    let bytes = key.bytes().chain(cents.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
