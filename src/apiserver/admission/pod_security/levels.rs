//! What a namespace's labels demand of its pods. Pure.

use std::fmt;

use serde_json::Value;

use crate::kinds::field::{Errors, Reason};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// What is checked when nobody names a version: that of the API served here.
pub const LATEST_MINOR: u32 = 36;

/// How much pods are kept from doing; in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A level as it was at a version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    /// The minor version; `None` is the latest.
    version: Option<u32>,
}

impl Standard {
    const PRIVILEGED: Self = Self { level: Level::Privileged, version: None };

    /// The minor version whose rules hold.
    pub fn minor(self) -> u32 {
        self.version.unwrap_or(LATEST_MINOR)
    }

    /// Whether whoever kept `other` keeps this, too, as far as can be told without looking.
    pub fn is_no_stricter_than(self, other: Self) -> bool {
        self.level == Level::Privileged || (self.version == other.version && self.level <= other.level)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(out, "{}:latest", self.level.as_str()),
            Some(minor) => write!(out, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What is refused, what is noted in the audit log, what is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

impl Demand {
    pub fn is_nothing(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

/// The demand of a namespace with these labels, and what is wrong with them. A level that is none
/// enforces everything, and warns of nothing.
pub fn demand(labels: &Value) -> (Demand, Errors) {
    let mut errors = Errors::default();
    let (enforce, enforced) = standard(labels, "enforce", Level::Restricted, &mut errors);
    let (audit, _) = standard(labels, "audit", Level::Privileged, &mut errors);
    let (mut warn, warned) = standard(labels, "warn", Level::Privileged, &mut errors);
    // Whoever makes a workload whose pods will be refused wants to hear of it.
    if !warned && enforced && enforce.level > warn.level {
        warn.level = enforce.level;
    }
    if labels[format!("{PREFIX}warn-version")].is_null() {
        warn.version = if warned { warn.version } else { enforce.version };
    }
    (Demand { enforce, audit, warn }, errors)
}

/// The standard for one use, and whether its level is given and good. `fallback` is the level that
/// stands for one that is none.
fn standard(labels: &Value, mode: &str, fallback: Level, errors: &mut Errors) -> (Standard, bool) {
    let mut standard = Standard::PRIVILEGED;
    let mut refuse = |key: &str, value: &str, why: &str| {
        errors.push(Reason::Invalid, format!("metadata.labels[{key}]"), Some(value.into()), why);
    };
    let mut given = false;
    let key = format!("{PREFIX}{mode}");
    if let Some(text) = labels[&key].as_str() {
        match Level::parse(text) {
            Some(level) => (standard.level, given) = (level, true),
            None => {
                standard.level = fallback;
                refuse(&key, text, "must be one of privileged, baseline, restricted");
            }
        }
    }
    let key = format!("{PREFIX}{mode}-version");
    if let Some(text) = labels[&key].as_str() {
        match parse_version(text) {
            Some(version) => standard.version = version,
            None => refuse(&key, text, "must be \"latest\" or \"v1.x\""),
        }
    }
    (standard, given)
}

fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    if plain { minor.parse().ok().map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_say_what_is_demanded() {
        let told = |labels: Value| {
            let (demand, errors) = demand(&labels);
            let shown = [demand.enforce, demand.audit, demand.warn].map(|standard| standard.to_string());
            (shown.join(" "), errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let cases = [
            (json!(null), "privileged:latest privileged:latest privileged:latest", ""),
            (
                json!({"pod-security.kubernetes.io/enforce": "restricted"}),
                "restricted:latest privileged:latest restricted:latest",
                "",
            ),
            (
                json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.24",
                "pod-security.kubernetes.io/warn": "restricted"}),
                "baseline:v1.24 privileged:latest restricted:latest",
                "",
            ),
            (
                json!({"pod-security.kubernetes.io/enforce": "strict"}),
                "restricted:latest privileged:latest privileged:latest",
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            ),
            (
                json!({"pod-security.kubernetes.io/audit-version": "1.2"}),
                "privileged:latest privileged:latest privileged:latest",
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
            ),
        ];
        for (labels, want, wrong) in cases {
            assert_eq!(told(labels.clone()), (want.to_owned(), wrong.to_owned()), "{labels}");
        }
    }
}
