//! From method and path to what is meant: verb, group, version, resource, namespace, name, subresource.
//!
//! Parsing answers only "is there such a place, and does it take this method"; upstream's 404s and 405s
//! come from here, everything about the object itself from the verbs. [`served`] is the only source: a
//! kind that is not in it does not exist.

use std::borrow::Cow;

use http::Method;

use super::definitions::Table;
use super::status::ApiError;
use super::{components, measured, reviews};
use crate::kinds::{KINDS, Kind};

/// What a request is about; authorization and the verbs read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that
    /// are no resource, the method in lower case.
    pub verb: Cow<'static, str>,
    pub group: String,
    pub version: String,
    /// Empty for paths that are no resource.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
}

impl Target {
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// A path outside the resource tree: discovery, health, …
    pub fn plain(method: &Method, path: &str) -> Self {
        Self { verb: plain_verb(method).into(), path: path.to_owned(), ..Self::default() }
    }

    /// Whether the request may stay open for long, and so does not count as in flight.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "unknown",
    }
}

/// Every kind that is served whatever users have made: those that are stored, those that are measured,
/// those that are answered.
pub fn built_in() -> impl Iterator<Item = &'static dyn Kind> {
    KINDS.iter().chain(components::KINDS).chain(measured::KINDS).chain(reviews::KINDS).copied()
}

/// Every kind that is served.
pub fn served(custom: &Table) -> impl Iterator<Item = &'static dyn Kind> {
    built_in().chain(custom.kinds())
}

/// The kind that serves `group`/`version`/`plural`.
fn find_kind(custom: &Table, group: &str, version: &str, plural: &str) -> Option<&'static dyn Kind> {
    let found = built_in().find(|kind| {
        let info = kind.info();
        info.plural == plural && info.group == group && info.version == version
    });
    found.or_else(|| custom.find(group, version, plural).map(|served| served.kind as &'static dyn Kind))
}

/// Parses a path below `/api/v1` or `/apis/<group>/<version>`. `watching` is the query's `watch`.
pub fn parse(
    custom: &Table,
    method: &Method,
    path: &str,
    watching: bool,
) -> Result<(Target, &'static dyn Kind), ApiError> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(unescape).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
        _ => return Err(ApiError::no_path()),
    };
    if !built_in().any(|kind| kind.info().group == group) && !custom.has_group(group) {
        return Err(ApiError::no_path());
    }
    let (old_watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // `namespaces/x/pods` is about pods; `namespaces/x` and `namespaces/x/status` are about x.
        ["namespaces", namespace, resource, rest @ ..] if !is_subresource_of_namespace(resource) => {
            (Some(*namespace), [&[*resource], rest].concat())
        }
        rest => (None, rest.to_vec()),
    };
    let (resource, name, subresource) = match rest.as_slice() {
        // What follows is not ours to understand.
        [resource, name, "proxy", ..] => (*resource, *name, "proxy"),
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return Err(ApiError::no_resource()),
    };
    let kind = find_kind(custom, group, version, resource).ok_or_else(ApiError::no_resource)?;
    let info = kind.info();
    if (namespace.is_some() && !info.namespaced) || (namespace.is_none() && info.namespaced && !name.is_empty()) {
        return Err(ApiError::no_resource());
    }
    let verb = if !subresource.is_empty() {
        subresource_verb(method, kind, subresource)?
    } else if name.is_empty() {
        collection_verb(method, watching || old_watch, info.namespaced && namespace.is_none())?
    } else {
        name_verb(method, old_watch)?
    };
    if subresource.is_empty() && !info.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed());
    }
    let target = Target {
        verb: verb.into(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.unwrap_or_default().to_owned(),
        name: name.to_owned(),
        path: path.to_owned(),
    };
    Ok((target, kind))
}

fn is_subresource_of_namespace(word: &str) -> bool {
    word == "status" || word == "finalize"
}

fn collection_verb(method: &Method, watching: bool, across_namespaces: bool) -> Result<&'static str, ApiError> {
    match *method {
        Method::GET if watching => Ok("watch"),
        Method::GET => Ok("list"),
        _ if across_namespaces => Err(ApiError::method_not_allowed()),
        Method::POST => Ok("create"),
        Method::DELETE => Ok("deletecollection"),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn name_verb(method: &Method, old_watch: bool) -> Result<&'static str, ApiError> {
    match *method {
        Method::GET if old_watch => Ok("watch"),
        Method::GET => Ok("get"),
        Method::PUT => Ok("update"),
        Method::PATCH => Ok("patch"),
        Method::DELETE => Ok("delete"),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn subresource_verb(method: &Method, kind: &dyn Kind, name: &str) -> Result<&'static str, ApiError> {
    let facts = kind.info().subresources.iter().find(|sub| sub.name == name).ok_or_else(ApiError::no_resource)?;
    let verb = match *method {
        Method::GET => "get",
        Method::HEAD if facts.is_proxy() => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::POST => "create",
        Method::DELETE => "delete",
        _ => return Err(ApiError::method_not_allowed()),
    };
    if facts.verbs.contains(&verb) { Ok(verb) } else { Err(ApiError::method_not_allowed()) }
}

fn unescape(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_upstream_reads_in_them() {
        let cases = [
            ("GET", "/api/v1/pods", "list pods//"),
            ("GET", "/api/v1/namespaces", "list namespaces//"),
            ("GET", "/api/v1/namespaces/a", "get namespaces//a"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update namespaces//a/finalize"),
            ("GET", "/api/v1/namespaces/a/pods", "list pods/a/"),
            ("POST", "/api/v1/namespaces/a/pods", "create pods/a/"),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection pods/a/"),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d", "patch deployments/a/d"),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch deployments/a/d/scale"),
            ("POST", "/api/v1/namespaces/a/pods/p/binding", "create pods/a/p/binding"),
            ("GET", "/api/v1/watch/namespaces/a/pods/p", "watch pods/a/p"),
            ("GET", "/api/v1/watch/pods", "watch pods//"),
            ("POST", "/api/v1/pods", "405"),
            ("POST", "/api/v1/namespaces/a/pods/p", "405"),
            ("PUT", "/api/v1/namespaces/a/pods", "405"),
            ("DELETE", "/api/v1/namespaces", "405"),
            ("GET", "/api/v1/namespaces/a/pods/p/binding", "405"),
            ("GET", "/api/v1/namespaces/a/bogus", "404"),
            ("GET", "/api/v1/namespaces/a/nodes", "404"),
            ("GET", "/api/v1/namespaces/a/configmaps/c/status", "404"),
            ("GET", "/api/v1/nodes/n/proxy/stats/summary", "get nodes//n/proxy"),
            ("POST", "/api/v1/nodes/n/proxy/run/a", "405"),
            ("HEAD", "/api/v1/namespaces/a/pods/http:p:80/proxy/a//b", "get pods/a/http:p:80/proxy"),
            ("DELETE", "/api/v1/namespaces/a/services/s:web/proxy", "delete services/a/s:web/proxy"),
            ("HEAD", "/api/v1/namespaces/a/pods/p/log", "405"),
            ("GET", "/api/v1/namespaces/a/configmaps/c/proxy/x", "404"),
            ("GET", "/apis/metrics.k8s.io/v1beta1/nodes", "list nodes//"),
            ("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/p", "get pods/a/p"),
            ("DELETE", "/apis/metrics.k8s.io/v1beta1/nodes/n", "405"),
            ("GET", "/api/v7/pods", "404"),
            ("GET", "/api/v1/namespaces/a/pods/p/status/x", "404"),
        ];
        for (method, path, want) in cases {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let got = match parse(&Table::default(), &method, path, false) {
                Ok((t, _)) => {
                    let tail = if t.subresource.is_empty() { String::new() } else { format!("/{}", t.subresource) };
                    format!("{} {}/{}/{}{tail}", t.verb, t.resource, t.namespace, t.name)
                }
                Err(error) => error.code().to_string(),
            };
            assert_eq!(got, want, "{method} {path}");
        }
    }

    #[test]
    fn unknown_groups_are_unknown_paths() {
        let error = parse(&Table::default(), &Method::GET, "/apis/none.example.com/v1/things", false).err();
        assert_eq!(error.map(|e| e.message().to_owned()), Some("404 page not found\n".to_owned()));
    }
}
