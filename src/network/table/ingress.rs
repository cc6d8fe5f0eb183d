//! Which Ingress rule takes a request: the most specific host that has a matching path, and of its
//! paths an exact one before a prefix, the longest prefix first; at equal length the older Ingress.

use std::collections::HashMap;

use super::Arc;

/// The rules of all Ingresses that are ours.
#[derive(Debug, Default)]
pub(super) struct IngressRules {
    exact: HashMap<Box<str>, HostRules>,
    /// `*.shop.example` as `shop.example`: stands for exactly one more label.
    wildcard: HashMap<Box<str>, HostRules>,
    any: HostRules,
    default: Option<Backend>,
}

/// The paths of one host.
#[derive(Debug, Default)]
pub(super) struct HostRules {
    exact: HashMap<Box<str>, Backend>,
    /// Without a trailing slash; the longest first once sorted.
    prefixes: Vec<(Box<str>, Backend)>,
}

/// The Service port that a rule leads to; `None` where there is no such Service or port.
pub(super) type Backend = Option<Arc<super::ServicePort>>;

/// What the rules say of a request.
#[derive(Debug, Clone, Copy)]
pub enum IngressMatch<'t> {
    Backend(&'t Arc<super::ServicePort>),
    /// A rule matches, but what it names does not exist (yet).
    NoService,
    NoRule,
}

/// How a rule's path matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    Exact,
    Prefix,
}

impl IngressRules {
    /// The rules of `host`; empty: every host.
    pub(super) fn host(&mut self, host: &str) -> &mut HostRules {
        match host.strip_prefix("*.") {
            _ if host.is_empty() => &mut self.any,
            Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
            None => self.exact.entry(host.into()).or_default(),
        }
    }

    /// Where requests go that no rule matches. The first to say so is heard.
    pub(super) fn set_default(&mut self, backend: Backend) {
        self.default.get_or_insert(backend);
    }

    pub(super) fn sort(&mut self) {
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut()).chain([&mut self.any]);
        for host in hosts {
            // Stable: of equal ones the first added stays first.
            host.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
    }

    pub(super) fn find(&self, host: &str, path: &str) -> IngressMatch<'_> {
        let wildcard = || host.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        let backend = (self.exact.get(host).and_then(|rules| rules.find(path)))
            .or_else(|| wildcard().and_then(|rules| rules.find(path)))
            .or_else(|| self.any.find(path))
            .or(self.default.as_ref());
        match backend {
            Some(Some(port)) => IngressMatch::Backend(port),
            Some(None) => IngressMatch::NoService,
            None => IngressMatch::NoRule,
        }
    }
}

impl HostRules {
    /// Adds a path. The first Ingress to claim a path has it.
    pub(super) fn add(&mut self, kind: PathKind, path: &str, backend: Backend) {
        match kind {
            PathKind::Exact => {
                self.exact.entry(path.into()).or_insert(backend);
            }
            PathKind::Prefix => {
                let prefix = path.trim_end_matches('/');
                if !self.prefixes.iter().any(|(known, _)| **known == *prefix) {
                    self.prefixes.push((prefix.into(), backend));
                }
            }
        }
    }

    fn find(&self, path: &str) -> Option<&Backend> {
        if let Some(backend) = self.exact.get(path) {
            return Some(backend);
        }
        self.prefixes.iter().find(|(prefix, _)| is_below(path, prefix)).map(|(_, backend)| backend)
    }
}

/// Whether `path` is `prefix` or below it, element by element. `prefix` has no trailing slash.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of examples in the documentation of Ingress.
    #[test]
    fn prefixes_match_by_path_element() {
        for (prefix, path, matches) in [
            ("/", "/anything", true),
            ("/", "/", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo/", "/foo", true),
            ("/foo/", "/foo/", true),
            ("/aaa/bb", "/aaa/bbb", false),
            ("/aaa/bbb", "/aaa/bbb", true),
            ("/aaa/bbb/", "/aaa/bbb", true),
            ("/aaa/bbb", "/aaa/bbb/", true),
            ("/aaa/bbb", "/aaa/bbb/ccc", true),
            ("/aaa/bbb", "/aaa/bbbxyz", false),
            ("/foo", "/Foo", false),
        ] {
            let mut rules = HostRules::default();
            rules.add(PathKind::Prefix, prefix, None);
            assert_eq!(rules.find(path).is_some(), matches, "{prefix} and {path}");
        }
    }

    #[test]
    fn an_exact_path_matches_itself_only() {
        let mut rules = HostRules::default();
        rules.add(PathKind::Exact, "/foo", None);
        for (path, matches) in [("/foo", true), ("/foo/", false), ("/bar", false), ("/foo/bar", false)] {
            assert_eq!(rules.find(path).is_some(), matches, "{path}");
        }
    }
}
