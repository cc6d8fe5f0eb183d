//! `wget`: one GET by the pod's own way out, where Services have their names and policies hold.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use super::Session;
use crate::wire::{CallTimeouts, HttpBody};

const TIMEOUTS: CallTimeouts = CallTimeouts {
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(60),
    between_bytes: Duration::from_secs(60),
};
/// A URL that is longer is a mistake.
const MAX_URL_BYTES: usize = 8 << 10;

pub fn wget(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let (mut file, mut url) = (None, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-q" => {}
            "-O" | "-qO" => match rest.next() {
                Some(path) => file = Some(path.clone()),
                None => return session.misused("-O wants a file"),
            },
            other if other.starts_with("-O") || other.starts_with("-qO") => {
                file = other.split_once('O').map(|(_, path)| path.to_owned());
            }
            flag if flag.starts_with('-') => return session.misused(&format!("there is no flag {flag}")),
            given => url = Some(given.to_owned()),
        }
    }
    let Some(url) = url.filter(|url| url.len() <= MAX_URL_BYTES) else { return session.misused("give one URL") };
    let url = if url.contains("://") { url } else { format!("http://{url}") };
    let request = match request(&url) {
        Ok(request) => request,
        Err(why) => return session.complain(&format!("{url}: {why}")),
    };
    match get(session, request) {
        Ok(body) => save(session, body, file.filter(|path| path != "-")),
        Err(why) => session.complain(&format!("{url}: {why}")),
    }
}

fn request(url: &str) -> Result<Request<HttpBody>, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let host = uri.authority().ok_or("it names no host")?.as_str().to_owned();
    Request::get(uri)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "Wget")
        .header(header::ACCEPT, "*/*")
        .body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync())
        .map_err(|error| error.to_string())
}

fn get(session: &Session, request: Request<HttpBody>) -> Result<HttpBody, String> {
    let (caller, outbound, stop) = (session.sight.caller.clone(), session.sight.outbound.clone(), session.stop.clone());
    let answer = session.handle.block_on(async {
        let sent = std::pin::pin!(outbound.send(&caller, request, TIMEOUTS));
        match futures::future::select(sent, std::pin::pin!(stop.cancelled())).await {
            Either::Left((answer, _)) => answer.map_err(|error| error.to_string()),
            Either::Right(_) => Err("interrupted".to_owned()),
        }
    })?;
    match answer.status() {
        status if status.is_success() => Ok(answer.into_body()),
        status if status.is_redirection() => {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            Err(format!("the server sends on to {to} ({}), which is not followed", status.as_u16()))
        }
        status => Err(format!("server returned error: {status}", status = text(status))),
    }
}

fn text(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

fn save(session: &mut Session, mut body: HttpBody, path: Option<String>) -> io::Result<i32> {
    let mut file = match path {
        None => None,
        Some(path) => match session.view.create(&path, 0o644) {
            Ok(file) => Some(file),
            Err(error) => return session.blame(&path, &error),
        },
    };
    loop {
        session.check()?;
        let (handle, stop) = (session.handle.clone(), session.stop.clone());
        let frame = handle.block_on(async {
            tokio::select! {
                frame = tokio::time::timeout(TIMEOUTS.between_bytes, body.frame()) => frame.map_err(|_| "the server fell silent".to_owned()),
                () = stop.cancelled() => Err("interrupted".to_owned()),
            }
        });
        let bytes = match frame {
            Ok(None) => return Ok(0),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(error))) => return session.complain(&error.to_string()),
            Err(why) => return session.complain(&why),
        };
        match &mut file {
            Some(file) => file.write_all(&bytes)?,
            None => session.stdout.write_all(&bytes)?,
        }
    }
}
