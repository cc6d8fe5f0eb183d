//! Counts its visits: the count is in `wasi:keyvalue`, the words are from `wasi:config`, and what
//! happens is told by `wasi:logging`.
//!
//! `GET /` counts one more for the whole site and for the visitor that `?who=` names; `GET /all` lists
//! the counts; `GET /forget` begins anew.

use wstd::http::{Body, Request, Response, Result};

use crate::wasi::keyvalue::store::{Bucket, Error};
use crate::wasi::keyvalue::{atomics, batch, store};
use crate::wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ path: "wit", world: "visits", generate_all });

/// The site's own count.
const ALL: &str = "all";

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let who = request.uri().query().and_then(|query| query.strip_prefix("who="));
    let answer = match request.uri().path() {
        "/all" => all(),
        "/forget" => forget(),
        _ => count(who),
    };
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(error) => {
            log(Level::Error, "visits", &format!("{error:?}"));
            (500, format!("{error:?}\n"))
        }
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = status.try_into()?;
    Ok(response)
}

fn count(who: Option<&str>) -> std::result::Result<String, Error> {
    let bucket = store::open("")?;
    let all = atomics::increment(&bucket, ALL, 1)?;
    let word = wasi::config::store::get("GREETING").ok().flatten().unwrap_or_else(|| "Hello".to_owned());
    let mut body = format!("{word}, visit {all}\n");
    if let Some(who) = who {
        let own = atomics::increment(&bucket, who, 1)?;
        bucket.set("last", who.as_bytes())?;
        log(Level::Info, "visits", &format!("{who} came for the {own}. time"));
        body.push_str(&format!("{who}: {own}\n"));
    }
    Ok(body)
}

fn keys(bucket: &Bucket) -> std::result::Result<Vec<String>, Error> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok(keys);
        }
    }
}

fn all() -> std::result::Result<String, Error> {
    let bucket = store::open("")?;
    let found = batch::get_many(&bucket, &keys(&bucket)?)?;
    Ok(found.into_iter().flatten().map(|(key, value)| format!("{key}={}\n", String::from_utf8_lossy(&value))).collect())
}

fn forget() -> std::result::Result<String, Error> {
    let bucket = store::open("")?;
    batch::delete_many(&bucket, &keys(&bucket)?)?;
    log(Level::Warn, "visits", "all is forgotten");
    Ok(format!("forgotten: {}\n", !bucket.exists(ALL)?))
}
