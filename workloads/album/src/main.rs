//! Keeps what it is sent, in `wasi:blobstore`.
//!
//! `POST /NAME` keeps the body as the object of that name, and a copy as `last`; `GET /NAME` gives it back and
//! `GET /NAME?from=N` its end; `GET /` lists the objects with their sizes; `DELETE /NAME` removes one and
//! `DELETE /` all of them.

use wstd::http::{Body, Method, Request, Response, Result};

use crate::wasi::blobstore::blobstore::{ObjectId, container_exists, copy_object, create_container, get_container};
use crate::wasi::blobstore::container::Container;
use crate::wasi::blobstore::types::{IncomingValue, OutgoingValue};
use crate::wasi::io::streams::StreamError;

wit_bindgen::generate!({ path: "wit", world: "album", generate_all });

const ALBUM: &str = "album";
/// What `wasi:io` takes at a time.
const CHUNK: usize = 4096;
/// Names asked for at a time.
const PAGE: u64 = 2;

type Done<T> = std::result::Result<T, String>;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>> {
    let (head, mut body) = request.into_parts();
    let name = head.uri.path().trim_start_matches('/').to_owned();
    let from = head.uri.query().and_then(|query| query.strip_prefix("from=")?.parse().ok()).unwrap_or(0);
    let answer = match (head.method, name.as_str()) {
        (Method::GET, "") => list(),
        (Method::GET, name) => read(name, from),
        (Method::POST, name) => write(name, body.contents().await?),
        (Method::DELETE, "") => album().and_then(|album| album.clear()).map(|()| Vec::new()),
        (Method::DELETE, name) => album().and_then(|album| album.delete_object(name)).map(|()| Vec::new()),
        _ => Err("what is that?".to_owned()),
    };
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(why) => (404, format!("{why}\n").into_bytes()),
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = status.try_into()?;
    Ok(response)
}

fn album() -> Done<Container> {
    if container_exists(ALBUM)? { get_container(ALBUM) } else { create_container(ALBUM) }
}

fn list() -> Done<Vec<u8>> {
    let album = album()?;
    let names = album.list_objects()?;
    let mut listing = String::new();
    loop {
        let (page, last) = names.read_stream_object_names(PAGE)?;
        for name in page {
            let about = album.object_info(&name)?;
            listing.push_str(&format!("{name} {}\n", about.size));
        }
        if last {
            return Ok(listing.into_bytes());
        }
    }
}

fn read(name: &str, from: u64) -> Done<Vec<u8>> {
    let stream = IncomingValue::incoming_value_consume_async(album()?.get_data(name, from, u64::MAX)?)?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(CHUNK as u64) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err("the object cannot be read".to_owned()),
        }
    }
}

fn write(name: &str, bytes: &[u8]) -> Done<Vec<u8>> {
    let album = album()?;
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().map_err(|()| "no stream".to_owned())?;
    album.write_data(name, &value)?;
    for chunk in bytes.chunks(CHUNK) {
        stream.blocking_write_and_flush(chunk).map_err(|error| format!("{error:?}"))?;
    }
    drop(stream);
    if album.has_object(name)? {
        album.delete_object(name)?;
    }
    OutgoingValue::finish(value)?;
    let id = |object: &str| ObjectId { container: ALBUM.to_owned(), object: object.to_owned() };
    copy_object(&id(name), &id("last"))?;
    Ok(format!("kept {} bytes\n", bytes.len()).into_bytes())
}
