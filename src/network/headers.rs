//! What a proxy owes to headers: the hop-by-hop ones end here, the client is told on.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Uri};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A node says with this on a 503 that no guest has seen the request: it may go elsewhere whatever its
/// method. Between nodes only; it is taken off what guests answer.
pub(super) const UNDELIVERED: HeaderName = HeaderName::from_static("coracle-undelivered");

/// Removes what concerns one connection only (RFC 9110, section 7.6.1), and what `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(named) = headers.remove(header::CONNECTION) {
        let names = named.to_str().unwrap_or_default().split(',').map(str::trim);
        for name in names.filter_map(|name| HeaderName::try_from(name).ok()) {
            // Nobody may have these taken off by naming them.
            if name != header::HOST && name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Gives a request the one shape that handlers get: the path in the URI, the host in `Host`.
pub(super) fn normalise<B>(request: &mut Request<B>) {
    if request.uri().authority().is_none() {
        return;
    }
    let uri = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = uri.authority
        && let Ok(host) = HeaderValue::try_from(authority.as_str())
    {
        // The authority of the request's target counts, whatever `Host` says (RFC 9112, section 3.2.2).
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = uri.path_and_query.map_or_else(|| Uri::from_static("/"), Uri::from);
}

/// The host that a normalised request is for, without port.
pub(super) fn host_of<B>(request: &Request<B>) -> &str {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    without_port(host)
}

/// `host` of `host:port`; brackets of an IPv6 address stay.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !ends_inside_brackets(name) => name,
        _ => host,
    }
}

fn ends_inside_brackets(name: &str) -> bool {
    name.starts_with('[') && !name.ends_with(']')
}

/// Tells the guest who the client is.
pub(super) fn forwarded(headers: &mut HeaderMap, client: &HeaderValue) {
    // Behind those that the client says it spoke for, if any.
    let chain = match headers.contains_key(X_FORWARDED_FOR) {
        true => chain(headers, client),
        false => client.clone(),
    };
    headers.insert(X_FORWARDED_FOR, chain);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

fn chain(headers: &HeaderMap, client: &HeaderValue) -> HeaderValue {
    let before = headers.get_all(X_FORWARDED_FOR).iter();
    let chain: Vec<&str> = before.chain([client]).filter_map(|value| value.to_str().ok()).collect();
    HeaderValue::try_from(chain.join(", ")).unwrap_or_else(|_| client.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_are_removed() {
        let mut headers = map(&[
            ("connection", "x-mine, close, host"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("host", "shop"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "shop"), ("accept", "*/*")]));
    }

    #[test]
    fn hosts_lose_their_port() {
        for (host, bare) in [
            ("shop", "shop"),
            ("shop:80", "shop"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
            ("shop:", "shop"),
            ("shop:x", "shop:x"),
        ] {
            assert_eq!(without_port(host), bare);
        }
    }

    #[test]
    fn the_target_of_an_absolute_request_becomes_its_host() {
        let mut request = Request::get("http://shop:81/a?b").header("host", "other").body(()).expect("a request");
        normalise(&mut request);
        assert_eq!(request.uri(), "/a?b");
        assert_eq!(request.headers().get("host"), Some(&HeaderValue::from_static("shop:81")));
        assert_eq!(host_of(&request), "shop");
    }

    #[test]
    fn the_client_is_added_to_those_before_it() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1"), ("host", "shop")]);
        forwarded(&mut headers, &HeaderValue::from_static("127.0.0.9"));
        let expected = map(&[
            ("x-forwarded-for", "10.0.0.1, 127.0.0.9"),
            ("host", "shop"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop"),
        ]);
        assert_eq!(headers, expected);
    }
}
