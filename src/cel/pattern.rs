//! Regular expressions of users: RE2's syntax on the `regex` crate, with bounds on time and memory.
//!
//! Both match in linear time. They differ in a few letters, which `translate` sees to: RE2's `\d`,
//! `\w` and `\s` are ASCII, and in its classes `[`, `&&`, `--` and `~~` mean nothing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

use regex::{Regex, RegexBuilder};

/// The compiled size of one pattern in bytes: a nest of repetitions could take gigabytes.
const MAX_COMPILED: usize = 1 << 20;
/// How many compiled patterns are kept; beyond it the cache starts anew.
const MAX_CACHED: usize = 512;

static CACHE: LazyLock<RwLock<HashMap<String, Arc<Regex>>>> = LazyLock::new(RwLock::default);

/// The compiled `pattern`, or what is wrong with it.
pub fn compile(pattern: &str) -> Result<Arc<Regex>, String> {
    let poisoned = "no code panics while it holds the lock";
    if let Some(known) = CACHE.read().expect(poisoned).get(pattern) {
        return Ok(known.clone());
    }
    let compiled = RegexBuilder::new(&translate(pattern))
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| format!("error parsing regexp: {}", reason(&error)))?;
    let compiled = Arc::new(compiled);
    let mut cache = CACHE.write().expect(poisoned);
    if cache.len() >= MAX_CACHED {
        cache.clear();
    }
    cache.insert(pattern.to_owned(), compiled.clone());
    Ok(compiled)
}

/// The last line of the crate's drawing, which holds the words.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim().trim_start_matches("error: ").to_owned()
        }
    }
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    // In a class: how many characters of it have been read.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        let position = class;
        class = class.map(|read| read + 1);
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(r"[\t\n\x0C\r ]"),
                Some('S') => out.push_str(r"[^\t\n\x0C\r ]"),
                Some('b') if position.is_none() => out.push_str(r"(?-u:\b)"),
                Some('Q') => {
                    // `\Q…\E`: as it stands.
                    let mut literal = String::new();
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        literal.push(c);
                    }
                    out.push_str(&regex::escape(&literal));
                }
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            '[' if position.is_none() => {
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                class = Some(0);
            }
            '[' if chars.peek() == Some(&':') => out.push('['),
            '[' => out.push_str(r"\["),
            // First in its class, a bracket is one of its characters.
            ']' if position == Some(0) => out.push_str(r"\]"),
            ']' if position.is_some()
                && out.ends_with(':')
                && out.rfind("[:").is_some_and(|at| at > 0)
                && posix(&out) =>
            {
                out.push(']');
            }
            ']' => {
                out.push(']');
                class = None;
            }
            '&' | '~' if position.is_some() => {
                out.push('\\');
                out.push(c);
            }
            '-' if position.is_some() && (position == Some(0) || matches!(chars.peek(), Some(']' | '-'))) => {
                out.push_str(r"\-")
            }
            other => out.push(other),
        }
    }
    out
}

/// Whether what was written ends within a named class such as `[:alpha:`.
fn posix(out: &str) -> bool {
    out.rfind("[:").is_some_and(|at| {
        let name = &out[at + 2..out.len() - 1];
        !name.is_empty() && name.trim_start_matches('^').chars().all(|c| c.is_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syntax_is_that_of_re2() {
        let cases = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{0661}", false),
            (r"^[\w.-]+$", "a.b-c_1", true),
            (r"^[a-z[]+$", "a[", true),
            (r"^[]a]+$", "a]", true),
            (r"^[^]a]+$", "]", false),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[[:alpha:]-]+$", "a-b", true),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-1", true),
            (r"^[^\s]+$", "a b", false),
            (r"^\Qa.b\E$", "a.b", true),
            (r"\bfoo\b", "a foo b", true),
            ("^.$", "\u{e9}", true),
        ];
        for (pattern, text, want) in cases {
            let compiled = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(compiled.is_match(text), want, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        assert!(compile("((a{1000}){1000}){1000}").is_err());
        assert!(compile("(").is_err());
    }
}
