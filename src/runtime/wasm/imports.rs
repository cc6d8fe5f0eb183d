//! The interfaces offered to components, and words for imports that none of them serves. Pure.

use super::{blobstore, config, keyvalue, logging};

/// The versions of the stable interfaces.
pub const WASI_VERSION: &str = "0.2.12";
pub const WASI_3_VERSION: &str = "0.3.0";
/// The same, for people.
pub const WASI_VERSIONS: &str = "0.2.12 and 0.3.0";

/// An interface offered to components, in one version.
struct Offer {
    name: &'static str,
    version: &'static str,
}

impl Offer {
    const fn stable(name: &'static str) -> Self {
        Self { name, version: WASI_VERSION }
    }

    const fn stable_3(name: &'static str) -> Self {
        Self { name, version: WASI_3_VERSION }
    }

    /// Whether who wants `version` is served. Drafts promise each other nothing.
    fn serves(&self, version: &str) -> bool {
        match self.version {
            WASI_VERSION => version.is_empty() || (version.starts_with("0.2.") && !version.contains('-')),
            WASI_3_VERSION => version.starts_with("0.3.") && !version.contains('-'),
            logging::VERSION => version.is_empty() || version == self.version,
            draft => version == draft,
        }
    }
}

const OFFERS: &[Offer] = &[
    Offer::stable("wasi:cli/environment"),
    Offer::stable("wasi:cli/exit"),
    Offer::stable("wasi:cli/stderr"),
    Offer::stable("wasi:cli/stdin"),
    Offer::stable("wasi:cli/stdout"),
    Offer::stable("wasi:cli/terminal-input"),
    Offer::stable("wasi:cli/terminal-output"),
    Offer::stable("wasi:cli/terminal-stderr"),
    Offer::stable("wasi:cli/terminal-stdin"),
    Offer::stable("wasi:cli/terminal-stdout"),
    Offer::stable("wasi:clocks/monotonic-clock"),
    Offer::stable("wasi:clocks/wall-clock"),
    Offer::stable("wasi:filesystem/preopens"),
    Offer::stable("wasi:filesystem/types"),
    Offer::stable("wasi:http/outgoing-handler"),
    Offer::stable("wasi:http/types"),
    Offer::stable("wasi:io/error"),
    Offer::stable("wasi:io/poll"),
    Offer::stable("wasi:io/streams"),
    Offer::stable("wasi:random/insecure"),
    Offer::stable("wasi:random/insecure-seed"),
    Offer::stable("wasi:random/random"),
    Offer::stable("wasi:sockets/instance-network"),
    Offer::stable("wasi:sockets/ip-name-lookup"),
    Offer::stable("wasi:sockets/network"),
    Offer::stable("wasi:sockets/tcp"),
    Offer::stable("wasi:sockets/tcp-create-socket"),
    Offer::stable("wasi:sockets/udp"),
    Offer::stable("wasi:sockets/udp-create-socket"),
    Offer::stable_3("wasi:cli/environment"),
    Offer::stable_3("wasi:cli/exit"),
    Offer::stable_3("wasi:cli/stderr"),
    Offer::stable_3("wasi:cli/stdin"),
    Offer::stable_3("wasi:cli/stdout"),
    Offer::stable_3("wasi:cli/terminal-input"),
    Offer::stable_3("wasi:cli/terminal-output"),
    Offer::stable_3("wasi:cli/terminal-stderr"),
    Offer::stable_3("wasi:cli/terminal-stdin"),
    Offer::stable_3("wasi:cli/terminal-stdout"),
    Offer::stable_3("wasi:cli/types"),
    Offer::stable_3("wasi:clocks/monotonic-clock"),
    Offer::stable_3("wasi:clocks/system-clock"),
    Offer::stable_3("wasi:clocks/types"),
    Offer::stable_3("wasi:filesystem/preopens"),
    Offer::stable_3("wasi:filesystem/types"),
    Offer::stable_3("wasi:http/client"),
    Offer::stable_3("wasi:http/types"),
    Offer::stable_3("wasi:random/insecure"),
    Offer::stable_3("wasi:random/insecure-seed"),
    Offer::stable_3("wasi:random/random"),
    Offer::stable_3("wasi:sockets/ip-name-lookup"),
    Offer::stable_3("wasi:sockets/types"),
    Offer { name: "wasi:blobstore/blobstore", version: blobstore::VERSION },
    Offer { name: "wasi:blobstore/container", version: blobstore::VERSION },
    Offer { name: "wasi:blobstore/types", version: blobstore::VERSION },
    Offer { name: "wasi:config/store", version: config::VERSION },
    Offer { name: "wasi:keyvalue/atomics", version: keyvalue::VERSION },
    Offer { name: "wasi:keyvalue/batch", version: keyvalue::VERSION },
    Offer { name: "wasi:keyvalue/store", version: keyvalue::VERSION },
    Offer { name: "wasi:logging/logging", version: logging::VERSION },
];
/// Missing imports explained in one message. The rest are not even looked at: a module may have a million,
/// and each explanation compares a name with all that is offered.
const MAX_LISTED: usize = 5;

/// `None` if the interface is offered; otherwise why not, with what comes nearest.
pub fn explain_missing_interface(import: &str) -> Option<String> {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    let offered: Vec<&Offer> = OFFERS.iter().filter(|offer| offer.name == name).collect();
    if !offered.is_empty() {
        let versions = offered.iter().map(|offer| offer.version).collect::<Vec<_>>().join(" and ");
        return match version {
            _ if offered.iter().any(|offer| offer.serves(version)) => None,
            "" => Some(format!("import `{name}` is wanted without a version, offered is {versions}")),
            _ => Some(format!("import `{name}` is wanted in version {version}, offered is {versions}")),
        };
    }
    let missing = format!("import `{import}` is not provided");
    let Some((package, _)) = name.split_once('/') else {
        // Not an interface but a function or a value of the component's own world.
        return Some(format!("{missing}: it is no interface; offered are the interfaces of WASI {WASI_VERSIONS}"));
    };
    let near = nearest(name, OFFERS.iter().map(|offer| offer.name));
    let near = OFFERS.iter().find(|offer| Some(offer.name) == near);
    Some(match near {
        Some(near) => format!("{missing}; the nearest offered is `{}@{}`", near.name, near.version),
        None if package.starts_with("wasi:") => {
            format!("{missing}; offered are the interfaces of WASI {WASI_VERSIONS}")
        }
        None => format!(
            "{missing}: a component that exports it has to be composed with this one, from another container by the \
             annotation coracle.dev/compose or beforehand; offered are the interfaces of WASI {WASI_VERSIONS}"
        ),
    })
}

/// The first few of what is missing, in one line; `None` if nothing is.
pub fn listed(missing: impl Iterator<Item = String>) -> Option<String> {
    let mut shown: Vec<String> = missing.take(MAX_LISTED + 1).collect();
    let more = shown.len() > MAX_LISTED;
    shown.truncate(MAX_LISTED);
    let mut text = shown.join("; ");
    if more {
        text.push_str("; and more");
    }
    (!text.is_empty()).then_some(text)
}

/// The offered name with the fewest edits, if they are few enough to be a likeness.
pub fn nearest<'a>(wanted: &str, offered: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wanted.len() / 3).max(2);
    offered
        .map(|name| (edits(wanted, name), name))
        .min()
        .filter(|&(distance, _)| distance <= allowed)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in bytes, of names that are cut to a bounded length.
fn edits(one: &str, two: &str) -> usize {
    const MAX: usize = 96;
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let (one, two) = (one.get(..MAX).unwrap_or(one), two.get(..MAX).unwrap_or(two));
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in two.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (one, two, count) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edits(one, two), count, "{one} {two}");
            assert_eq!(edits(two, one), count, "{two} {one}");
        }
    }

    #[test]
    fn missing_interfaces_are_explained() {
        let offered = [
            "wasi:cli/environment@0.2.0",
            "wasi:http/types@0.2.99",
            "wasi:http/types@0.3.1",
            "wasi:http/client@0.3.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:blobstore/blobstore@0.2.0-draft",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:logging/logging",
            "wasi:logging/logging@0.1.0-draft",
        ];
        for offered in offered {
            assert_eq!(explain_missing_interface(offered), None);
        }
        let cases = [
            (
                "wasi:http/types@0.3.0-rc-2026-01-06",
                "import `wasi:http/types` is wanted in version 0.3.0-rc-2026-01-06, offered is 0.2.12 and 0.3.0",
            ),
            ("wasi:http/client@0.2.0", "is wanted in version 0.2.0, offered is 0.3.0"),
            ("wasi:http/type@0.2.0", "the nearest offered is `wasi:http/types@0.2.12`"),
            (
                "wasi:keyvalue/store@0.2.0-draft2",
                "import `wasi:keyvalue/store` is wanted in version 0.2.0-draft2, offered is 0.2.0-draft",
            ),
            ("wasi:config/store", "is wanted without a version, offered is 0.2.0-rc.1"),
            ("wasi:cli/environment@0.2.0-rc-2023-11-10", "is wanted in version 0.2.0-rc-2023-11-10"),
            (
                "wasi:messaging/producer@0.2.0-draft",
                "is not provided; offered are the interfaces of WASI 0.2.12 and 0.3.0",
            ),
            (
                "acme:billing/ledger@1.2.0",
                "import `acme:billing/ledger@1.2.0` is not provided: a component that exports it",
            ),
            ("launch", "import `launch` is not provided: it is no interface"),
        ];
        for (import, part) in cases {
            let why = explain_missing_interface(import).unwrap();
            assert!(why.contains(part), "{import}: {why}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let text = |count: usize| listed((0..count).map(|n| n.to_string()));
        assert_eq!(text(0), None);
        assert_eq!(text(5).as_deref(), Some("0; 1; 2; 3; 4"));
        assert_eq!(text(9).as_deref(), Some("0; 1; 2; 3; 4; and more"));
        // What is not shown is not made.
        let endless = std::iter::repeat_with(|| "x".to_owned());
        assert_eq!(listed(endless).as_deref(), Some("x; x; x; x; x; and more"));
    }
}
