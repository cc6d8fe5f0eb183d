//! CGI/1.1 (RFC 3875), pure: from a request to variables, from what a program printed to a response.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

/// The head of an answer, in bytes and lines; what no real one needs.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 256;
/// The forwarding router writes last whom it got the request from.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The variables that tell a program of its request. The program is the whole site: `SCRIPT_NAME` is
/// empty and `PATH_INFO` the path.
pub fn variables(head: &Parts, body_bytes: usize) -> Vec<(String, String)> {
    let text = |name: HeaderName| head.headers.get(name).map(readable);
    let host = text(header::HOST)
        .or_else(|| head.uri.authority().map(|authority| authority.as_str().to_owned()))
        .unwrap_or_else(|| "localhost".to_owned());
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name.to_owned(), port.to_owned()),
        _ => (host.clone(), "80".to_owned()),
    };
    let forwarded = text(X_FORWARDED_FOR);
    let remote = forwarded.as_deref().and_then(|chain| chain.rsplit(',').next()).map_or("127.0.0.1", str::trim);
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8_lossy();
    let mut variables: Vec<(String, String)> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", concat!("coracle/", env!("CARGO_PKG_VERSION"))),
        ("SERVER_PROTOCOL", &format!("{:?}", head.version)),
        ("SERVER_NAME", &name),
        ("SERVER_PORT", &port),
        ("REQUEST_METHOD", head.method.as_str()),
        ("REQUEST_URI", head.uri.path_and_query().map_or("/", PathAndQuery::as_str)),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", &path),
        ("QUERY_STRING", head.uri.query().unwrap_or_default()),
        ("REMOTE_ADDR", remote),
        ("REMOTE_HOST", remote),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.replace('\0', "")))
    .collect();
    if body_bytes > 0 {
        variables.push(("CONTENT_LENGTH".to_owned(), body_bytes.to_string()));
    }
    variables.extend(text(header::CONTENT_TYPE).map(|value| ("CONTENT_TYPE".to_owned(), value)));
    for name in head.headers.keys().filter(|name| is_told(name)) {
        let values: Vec<String> = head.headers.get_all(name).iter().map(readable).collect();
        let separator = if name == header::COOKIE { "; " } else { ", " };
        variables.push((format!("HTTP_{}", name.as_str().to_uppercase().replace('-', "_")), values.join(separator)));
    }
    variables
}

/// Whether a header becomes an `HTTP_` variable: not those that have one of their own, and none that
/// would pass for another, or for the setting of a proxy ("httpoxy").
fn is_told(name: &HeaderName) -> bool {
    *name != header::CONTENT_LENGTH
        && *name != header::CONTENT_TYPE
        && name.as_str() != "proxy"
        && !name.as_str().contains('_')
}

fn readable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).replace('\0', "")
}

/// What a program answered.
#[derive(Debug)]
pub enum Answer {
    Response(Response<Bytes>),
    /// The answer is what this path and query of the same program answers (a local redirect).
    Elsewhere(PathAndQuery),
}

/// Reads what a program printed; the error says what is wrong with it.
pub fn parse(output: Bytes) -> Result<Answer, String> {
    let (head, body) = split(&output)?;
    let body = output.slice(body..);
    let mut headers = HeaderMap::new();
    let mut status = None;
    for line in head.lines().filter(|line| !line.is_empty()) {
        if headers.len() >= MAX_HEADERS {
            return Err(format!("it has more than {MAX_HEADERS} headers"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("the line {} is no header", shown(line)))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            status = Some(status_of(value)?);
            continue;
        }
        let bad = |_| format!("the line {} is no header", shown(line));
        let name = HeaderName::from_bytes(name.trim_end().as_bytes()).map_err(|error| bad(error.to_string()))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| bad(error.to_string()))?;
        if !is_the_servers(&name) {
            headers.append(name, value);
        }
    }
    let location = headers.get(header::LOCATION);
    if status.is_none() && location.is_none() && !headers.contains_key(header::CONTENT_TYPE) {
        return Err("it has none of Content-Type, Location and Status".to_owned());
    }
    if let (Some(location), None) = (location, status)
        && location.as_bytes().starts_with(b"/")
        && !location.as_bytes().starts_with(b"//")
    {
        let path = PathAndQuery::try_from(location.as_bytes());
        return path.map(Answer::Elsewhere).map_err(|error| format!("its Location is no path: {error}"));
    }
    let usual = if location.is_some() { StatusCode::FOUND } else { StatusCode::OK };
    let mut response = Response::new(body);
    *response.status_mut() = status.unwrap_or(usual);
    *response.headers_mut() = headers;
    Ok(Answer::Response(response))
}

/// The head's text, and where the body begins: after the first empty line, of either line end.
fn split(output: &[u8]) -> Result<(&str, usize), String> {
    let mut begins = 0;
    for (at, _) in output.iter().enumerate().take(MAX_HEAD_BYTES).filter(|(_, byte)| **byte == b'\n') {
        let line = output.get(begins..at).unwrap_or_default();
        if line.is_empty() || line == b"\r" {
            let head = std::str::from_utf8(output.get(..begins).unwrap_or_default());
            return head.map(|head| (head, at + 1)).map_err(|_| "its headers are not text".to_owned());
        }
        begins = at + 1;
    }
    Err(match output.is_empty() {
        true => "it printed nothing; headers and an empty line come first".to_owned(),
        false => "no empty line ends its headers".to_owned(),
    })
}

/// Headers that the server writes by itself, from the body and the connection.
fn is_the_servers(name: &HeaderName) -> bool {
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE].contains(name)
}

/// `404` or `404 Not Found`. Interim answers are not a program's to give.
fn status_of(value: &str) -> Result<StatusCode, String> {
    let code = value.split(' ').next().unwrap_or_default().parse().ok();
    let code = code.and_then(|code: u16| StatusCode::from_u16(code).ok()).filter(|code| code.as_u16() >= 200);
    code.ok_or_else(|| format!("its Status {} is none", shown(value)))
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

/// The request of a local redirect: the same program, asked by GET, without a body.
pub fn redirected(mut head: Parts, to: PathAndQuery) -> Parts {
    head.method = Method::GET;
    let mut uri = head.uri.into_parts();
    uri.path_and_query = Some(to);
    head.uri = http::Uri::from_parts(uri).unwrap_or_default();
    head.headers.remove(header::CONTENT_TYPE);
    head
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_request_becomes_variables() {
        let request = Request::post("/a%20b/c?x=1&y=%20")
            .header("host", "shop.example:8080")
            .header("content-type", "text/plain")
            .header("content-length", "3")
            .header("x-forwarded-for", "198.51.100.7, 127.64.0.3")
            .header("x-one", "1")
            .header("x-one", "2")
            .header("proxy", "http://evil.example")
            .header("x_one", "3");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let variables = variables(&head, 3);
        let get = |name: &str| {
            let found: Vec<&str> = variables.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
            assert!(found.len() <= 1, "{name} is told twice");
            found.first().copied()
        };
        for (name, value) in [
            ("GATEWAY_INTERFACE", Some("CGI/1.1")),
            ("SERVER_PROTOCOL", Some("HTTP/1.1")),
            ("SERVER_NAME", Some("shop.example")),
            ("SERVER_PORT", Some("8080")),
            ("REQUEST_METHOD", Some("POST")),
            ("PATH_INFO", Some("/a b/c")),
            ("SCRIPT_NAME", Some("")),
            ("QUERY_STRING", Some("x=1&y=%20")),
            ("REMOTE_ADDR", Some("127.64.0.3")),
            ("CONTENT_LENGTH", Some("3")),
            ("CONTENT_TYPE", Some("text/plain")),
            ("HTTP_X_ONE", Some("1, 2")),
            ("HTTP_HOST", Some("shop.example:8080")),
            ("HTTP_PROXY", None),
            ("HTTP_CONTENT_LENGTH", None),
        ] {
            assert_eq!(get(name), value, "{name}");
        }
    }

    #[test]
    fn answers_are_read() {
        let read = |text: &'static str| match parse(Bytes::from_static(text.as_bytes())) {
            Ok(Answer::Response(response)) => {
                let body = String::from_utf8_lossy(response.body()).into_owned();
                format!("{} {} {body}", response.status().as_u16(), response.headers().len())
            }
            Ok(Answer::Elsewhere(path)) => format!("-> {path}"),
            Err(why) => format!("error: {why}"),
        };
        for (text, result) in [
            ("Content-Type: text/plain\n\nhello\n\nworld", "200 1 hello\n\nworld"),
            ("content-type:text/plain\r\nX-A: b\r\n\r\nhi", "200 2 hi"),
            ("Status: 404 Not Found\nContent-Type: text/plain\n\n", "404 1 "),
            ("Status: 204\n\n", "204 0 "),
            ("Location: https://example.com/\n\n", "302 1 "),
            ("Location: //example.com/\n\n", "302 1 "),
            ("Status: 301\nLocation: /new\n\n", "301 1 "),
            ("Location: /other?x=1\n\n", "-> /other?x=1"),
            ("Content-Type: a/b\nContent-Length: 999\nTransfer-Encoding: chunked\n\nx", "200 1 x"),
            ("", "error: it printed nothing; headers and an empty line come first"),
            ("hello", "error: no empty line ends its headers"),
            ("\nhello", "error: it has none of Content-Type, Location and Status"),
            ("X-A: b\n\nhello", "error: it has none of Content-Type, Location and Status"),
            ("hello\n\n", "error: the line \"hello\" is no header"),
            ("Content Type: a\n\n", "error: the line \"Content Type: a\" is no header"),
            ("Status: 100\n\n", "error: its Status \"100\" is none"),
            ("Status: soon\n\n", "error: its Status \"soon\" is none"),
        ] {
            assert_eq!(read(text), result, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_output_gets_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(bytes.into());
        }
    }
}
