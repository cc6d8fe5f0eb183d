//! The `format` of strings: those that upstream checks; any other is a note to readers.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

use crate::cel::pattern;
use crate::kinds::names;

/// Whether `text` is of `format`.
pub fn matches(format: &str, text: &str) -> bool {
    match format {
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "duration" => duration(text).is_some(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => names::parse_cidr(text).is_some(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => by(text, r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{12}$"),
        "uuid3" => by(text, r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?3[0-9A-F]{3}-?[0-9A-F]{4}-?[0-9A-F]{12}$"),
        "uuid4" => by(text, r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?4[0-9A-F]{3}-?[89AB][0-9A-F]{3}-?[0-9A-F]{12}$"),
        "uuid5" => by(text, r"(?i)^[0-9A-F]{8}-?[0-9A-F]{4}-?5[0-9A-F]{3}-?[89AB][0-9A-F]{3}-?[0-9A-F]{12}$"),
        "hostname" => names::dns1123_subdomain(&text.to_lowercase()).is_empty(),
        "email" => text.split_once('@').is_some_and(|(who, host)| !who.is_empty() && !host.is_empty()),
        "mac" => by(text, r"(?i)^[0-9A-F]{2}([:-][0-9A-F]{2}){5}$"),
        "uri" => by(text, r"^([A-Za-z][A-Za-z0-9+.-]*:[^\s]+|/[^\s]*)$"),
        "hexcolor" => by(text, "(?i)^#?([0-9A-F]{3}|[0-9A-F]{6})$"),
        _ => true,
    }
}

fn by(text: &str, expression: &str) -> bool {
    pattern::compile(expression).is_ok_and(|pattern| pattern.is_match(text))
}

/// A Go duration (`1h30m`, `-1.5s`), in nanoseconds.
pub fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        sum += amount
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (sum < 9.2e18).then_some((sign * sum) as i64)
}
