//! Image references, and the files under the images directory that they may mean. Pure.

use std::path::PathBuf;

/// A reference taken apart: `registry.local/team/hello:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The name without tag and digest.
    pub name: String,
    /// `latest` when none was given.
    pub tag: String,
    /// `sha256:…`, which the file must then have.
    pub digest: Option<String>,
}

impl Reference {
    /// `None` if `text` is not a reference.
    pub fn parse(text: &str) -> Option<Reference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let tag_at = rest.rfind(':').filter(|at| !rest[*at..].contains('/'));
        let (name, tag) = match tag_at {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, "latest"),
        };
        let ok = is_name(name) && is_tag(tag) && digest.is_none_or(is_digest);
        ok.then(|| Reference { name: name.to_owned(), tag: tag.to_owned(), digest: digest.map(str::to_owned) })
    }

    /// Whether it begins with a registry, as Docker tells: a first part with a dot or a port, or `localhost`.
    pub fn names_registry(&self) -> bool {
        let first = self.name.split_once('/').map(|(first, _)| first);
        first.is_some_and(|first| first.contains(['.', ':']) || first == "localhost")
    }

    /// The files it may mean, the best first, relative to the images directory: the whole name before
    /// its last segments, `name/tag` before `name-tag` before (for `latest`) `name`.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let segments: Vec<&str> = self.name.split('/').collect();
        let mut paths = Vec::new();
        for from in 0..segments.len() {
            let base = segments[from..].join("/");
            let mut stems = vec![format!("{base}/{}", self.tag), format!("{base}-{}", self.tag)];
            if self.tag == "latest" {
                stems.push(base);
            }
            for stem in stems {
                paths.extend(["wasm", "wat"].map(|extension| PathBuf::from(format!("{stem}.{extension}"))));
            }
        }
        paths
    }
}

fn is_name(name: &str) -> bool {
    let mut segments = name.split('/');
    let first = segments.next().unwrap_or_default();
    // A registry may have a port; any other segment is of lower-case words.
    let registry =
        name.contains('/') && first.split_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port));
    (registry || is_segment(first) || (name.contains('/') && is_host(first))) && segments.all(is_segment)
}

fn is_segment(segment: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(segment.chars().next())
        && edge(segment.chars().next_back())
        && segment.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        && !segment.contains("..")
}

fn is_host(host: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(host.chars().next())
        && edge(host.chars().next_back())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        && !host.contains("..")
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok()
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit()))
}

/// The names among `known` that are so near to `wanted` that a slip of the finger explains it: another
/// tag of the same image first, then names a few letters away.
pub fn near_misses(wanted: &Reference, known: &[String]) -> Vec<String> {
    let short = wanted.name.rsplit('/').next().unwrap_or_default();
    let wanted_text = format!("{short}:{}", wanted.tag);
    let mut near: Vec<(usize, &String)> = known
        .iter()
        .filter_map(|candidate| {
            let same_name = candidate.split_once(':').is_some_and(|(name, _)| name == short);
            let distance = if same_name { 0 } else { distance(&wanted_text, candidate) };
            (distance <= 3 && distance < short.len()).then_some((distance, candidate))
        })
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// How many letters must be changed, put in or taken out to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(text: &str, count: usize) -> Vec<String> {
        let reference = Reference::parse(text).expect("a reference");
        reference.candidates().iter().take(count).map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn files_are_looked_up_from_the_whole_name_to_the_short_one() {
        assert_eq!(first("hello:1", 9), ["hello/1.wasm", "hello/1.wat", "hello-1.wasm", "hello-1.wat"]);
        assert_eq!(first("registry.local:5000/team/hello:1", 5).last().map(String::as_str), Some("team/hello/1.wasm"));
        let latest = first("hello", 9);
        assert_eq!(latest[4..], ["hello.wasm", "hello.wat"]);
    }

    #[test]
    fn references_are_checked() {
        let digest = format!("hello@sha256:{}", "a".repeat(64));
        for good in ["hello", "hello:1", "a/b/c:v1.2-x", "localhost:5000/x", "Registry.Local/x:1", digest.as_str()] {
            assert!(Reference::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "Hello", ":1", "hello:", "a//b", "../etc/passwd", "a/../b", "hello:a/b", "x@sha256:12", "-x", "a b"]
        {
            assert!(Reference::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_registry_is_told_from_a_path() {
        for (text, names) in [
            ("hello:1", false),
            ("team/hello", false),
            ("localhost/x", true),
            ("r.example/x", true),
            ("r:5000/x", true),
        ] {
            assert_eq!(Reference::parse(text).map(|reference| reference.names_registry()), Some(names), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_reference_leads_out_of_the_directory(text in "[a-zA-Z0-9./:@_-]{0,40}") {
            if let Some(reference) = Reference::parse(&text) {
                for path in reference.candidates() {
                    prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                }
            }
        }
    }

    #[test]
    fn near_misses_are_offered() {
        let known: Vec<String> = ["hello:1", "hello:2", "cart:1", "payment:1"].map(str::to_owned).into();
        let near = |text: &str| near_misses(&Reference::parse(text).expect("a reference"), &known);
        assert_eq!(near("hello:9"), ["hello:1", "hello:2"]);
        assert_eq!(near("helo:1"), ["hello:1", "hello:2"]);
        assert_eq!(near("registry.local/crat:1"), ["cart:1"]);
        assert!(near("something-else:1").is_empty());
    }
}
