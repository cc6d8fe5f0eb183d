//! The query string: read once, refused with upstream's texts.
//!
//! Each verb has its options type; what a verb does not know it ignores, as upstream does. Numbers and
//! booleans are Go's: `strconv.ParseInt`'s complaint is part of the API.

use serde_json::Value;

use super::codec::FieldValidation;
use super::status::ApiError;
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::meta::validate_field_manager;

/// A decoded query string. Keys may repeat.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(key), unescape(value))
                })
                .collect(),
        )
    }

    /// The first value of `key`, or "".
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Go's conversion of query parameters: present and not "false" or "0" is true.
    pub fn bool(&self, key: &str) -> bool {
        self.0.iter().find(|(k, _)| k == key).is_some_and(|(_, v)| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }

    pub fn int(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

fn unescape(part: &str) -> String {
    let spaced = part.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// As sent; "" is unset.
    pub field_manager: String,
    /// Take what others own: apply only.
    pub force: bool,
}

impl WriteOptions {
    /// `kind` is that of the options: `CreateOptions`, `UpdateOptions`, `PatchOptions`.
    pub fn from_query(query: &Query, kind: &str) -> Result<Self, ApiError> {
        let mut errors = Errors::default();
        if kind == "PatchOptions" && !query.get("force").is_empty() {
            errors.push(Reason::Forbidden, "force", None, "may not be specified for non-apply patch");
        }
        Self::read(query, kind, errors)
    }

    /// Options of server-side apply, which must say who applies.
    pub fn of_apply(query: &Query) -> Result<Self, ApiError> {
        let mut errors = Errors::default();
        if query.get("fieldManager").is_empty() {
            errors.push(Reason::Required, "fieldManager", None, "is required for apply patch");
        }
        Self::read(query, "PatchOptions", errors)
    }

    fn read(query: &Query, kind: &str, mut errors: Errors) -> Result<Self, ApiError> {
        let field_manager = query.get("fieldManager").to_owned();
        validate_field_manager(&mut errors, &Field::new("fieldManager".to_owned(), &field_manager.as_str().into()));
        let dry_run = check_dry_run(&query.all("dryRun"), &mut errors);
        let given = query.get("fieldValidation");
        let field_validation = FieldValidation::parse(given).unwrap_or_else(|| {
            let supported = r#"supported values: "", "Ignore", "Strict", "Warn""#;
            errors.push(Reason::NotSupported, "fieldValidation", Some(given.into()), supported);
            FieldValidation::default()
        });
        refuse(kind, errors)?;
        Ok(Self { dry_run, field_validation, field_manager, force: query.bool("force") })
    }
}

/// Options of delete and deletecollection.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub precondition_uid: Option<String>,
    pub precondition_version: Option<String>,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    /// From the body's DeleteOptions where there is one, else from the query: never a mixture, except
    /// that a dry run may be asked for in either.
    pub fn read(query: &Query, body: Option<&Value>) -> Result<Self, ApiError> {
        let mut errors = Errors::default();
        let empty = Value::Null;
        let from_body = body.unwrap_or(&empty);
        let mut dry = query.all("dryRun");
        dry.extend(from_body["dryRun"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)));
        let dry_run = check_dry_run(&dry, &mut errors);
        let grace = match body {
            Some(body) if !body["gracePeriodSeconds"].is_null() => body["gracePeriodSeconds"].as_i64(),
            _ => query.int("gracePeriodSeconds")?,
        };
        let policy = from_body["propagationPolicy"].as_str().unwrap_or_else(|| query.get("propagationPolicy"));
        let orphan = from_body["orphanDependents"]
            .as_bool()
            .or_else(|| (!query.get("orphanDependents").is_empty()).then(|| query.bool("orphanDependents")));
        let propagation = check_policy(policy, orphan, &mut errors);
        refuse("DeleteOptions", errors)?;
        let text = |key: &str| from_body["preconditions"][key].as_str().map(str::to_owned);
        Ok(Self {
            dry_run,
            grace_period_seconds: grace,
            propagation,
            precondition_uid: text("uid"),
            precondition_version: text("resourceVersion"),
        })
    }
}

fn check_policy(policy: &str, orphan: Option<bool>, errors: &mut Errors) -> Option<Propagation> {
    if !policy.is_empty() && orphan.is_some() {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(Reason::Invalid, "propagationPolicy", Some(policy.into()), detail);
        return None;
    }
    match (policy, orphan) {
        ("", None) => None,
        ("", Some(true)) | ("Orphan", _) => Some(Propagation::Orphan),
        ("", Some(false)) | ("Background", _) => Some(Propagation::Background),
        ("Foreground", _) => Some(Propagation::Foreground),
        (other, _) => {
            let supported = r#"supported values: "Foreground", "Background", "Orphan", "nil""#;
            errors.push(Reason::NotSupported, "propagationPolicy", Some(other.into()), supported);
            None
        }
    }
}

fn check_dry_run(values: &[String], errors: &mut Errors) -> bool {
    if values.iter().any(|v| v != "All") {
        let shown: Value = values.iter().map(|v| Value::from(v.as_str())).collect();
        errors.push(Reason::NotSupported, "dryRun", Some(shown), r#"supported values: "All""#);
    }
    !values.is_empty()
}

fn refuse(kind: &str, errors: Errors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind(kind, "meta.k8s.io", "", &errors)) }
}

/// How `resourceVersion` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// Options of list and watch.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// As sent; "" is unset.
    pub resource_version: String,
    pub version_match: Option<VersionMatch>,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub allow_bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn from_query(query: &Query, watching: bool) -> Result<Self, ApiError> {
        let limit = query.int("limit")?.unwrap_or(0);
        let timeout = query.int("timeoutSeconds")?;
        let send_initial_events = (!query.get("sendInitialEvents").is_empty()).then(|| query.bool("sendInitialEvents"));
        let mut errors = Errors::default();
        let version_match = check_match(query, watching, send_initial_events, &mut errors);
        refuse("ListOptions", errors)?;
        Ok(Self {
            label_selector: query.get("labelSelector").to_owned(),
            field_selector: query.get("fieldSelector").to_owned(),
            resource_version: query.get("resourceVersion").to_owned(),
            version_match,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0),
            allow_bookmarks: query.bool("allowWatchBookmarks"),
            send_initial_events,
        })
    }

    /// The version as a number; `None` when unset. The error is the bare text: list and watch wrap it
    /// differently.
    pub fn version(&self) -> Result<Option<u64>, String> {
        parse_version(&self.resource_version)
    }
}

/// Upstream's reading of a `resourceVersion`; "" is `None`.
pub fn parse_version(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let complaint =
        || format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
    text.parse().map(Some).map_err(|_| complaint())
}

fn check_match(query: &Query, watching: bool, initial: Option<bool>, errors: &mut Errors) -> Option<VersionMatch> {
    let given = query.get("resourceVersionMatch");
    let version = query.get("resourceVersion");
    let mut forbid = |field: &str, detail: &str| errors.push(Reason::Forbidden, field, None, detail);
    if watching {
        match (given, initial) {
            ("", None) => {}
            ("", Some(_)) => forbid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (_, None) => forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            ("NotOlderThan", Some(_)) => return Some(VersionMatch::NotOlderThan),
            (other, Some(_)) => {
                forbid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
                let supported = r#"supported values: "NotOlderThan""#;
                errors.push(Reason::NotSupported, "resourceVersionMatch", Some(other.into()), supported);
            }
        }
        return None;
    }
    if initial.is_some() {
        forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if given.is_empty() {
        return None;
    }
    if version.is_empty() {
        forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !query.get("continue").is_empty() {
        forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    match given {
        "Exact" => {
            if version == "0" {
                forbid("resourceVersionMatch", r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#);
            }
            Some(VersionMatch::Exact)
        }
        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
        other => {
            let supported = r#"supported values: "Exact", "NotOlderThan", """#;
            errors.push(Reason::NotSupported, "resourceVersionMatch", Some(other.into()), supported);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn query(text: &str) -> Query {
        Query::parse(Some(text))
    }

    #[test]
    fn values_are_unescaped_and_may_repeat() {
        let q = query("labelSelector=app%3Dx%2Cn+in+(1)&dryRun=All&dryRun=All&watch");
        assert_eq!(q.get("labelSelector"), "app=x,n in (1)");
        assert_eq!(q.all("dryRun").len(), 2);
        assert!(q.bool("watch") && !query("watch=0").bool("watch") && !query("").bool("watch"));
    }

    #[test]
    fn refusals_have_the_texts_of_upstream() {
        let text = |r: Result<ListOptions, ApiError>| r.err().map(|e| e.message().to_owned()).unwrap_or_default();
        let list = |q: &str| text(ListOptions::from_query(&query(q), false));
        assert!(list("resourceVersionMatch=Exact").ends_with("is forbidden unless resourceVersion is provided"));
        assert!(list("sendInitialEvents=true").ends_with("sendInitialEvents is forbidden for list"));
        assert_eq!(list("limit=x"), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(list("limit=-1"), "");
        let create =
            WriteOptions::from_query(&query("dryRun=None"), "CreateOptions").err().map(|e| e.message().to_owned());
        let want = "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"None\"]: supported values: \"All\"";
        assert_eq!(create.as_deref(), Some(want));
    }

    #[test]
    fn the_body_of_a_delete_wins_over_its_query() {
        let body = json!({"gracePeriodSeconds": 3, "preconditions": {"uid": "u"}});
        let options = DeleteOptions::read(&query("gracePeriodSeconds=9&propagationPolicy=Orphan"), Some(&body));
        let options = options.expect("valid options");
        assert_eq!(options.grace_period_seconds, Some(3));
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!(options.precondition_uid.as_deref(), Some("u"));
    }
}
