//! GET of a collection: one version, in pages if the client likes.
//!
//! A continue token holds the version of its first page and the last key shown. The store keeps enough
//! history for that version to be listed again; once it has been compacted the answer is 410 with a
//! token that goes on at the current version instead, and says so.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Call;
use crate::apiserver::options::{ListOptions, VersionMatch};
use crate::apiserver::registry::encoding::{self, Stored};
use crate::apiserver::registry::outline::outline;
use crate::apiserver::registry::store_error;
use crate::apiserver::reply::{ListMeta, Look};
use crate::apiserver::selector::Selector;
use crate::apiserver::status::ApiError;
use crate::store::{self, Entry};

/// How many keys are looked at under one hold of the store's lock when a selector leaves most out.
const SCAN_PAGE: usize = 2000;

pub async fn list(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = ListOptions::from_query(&call.query, false)?;
    let (items, meta) = collect(call, &options, look.is_metadata()).await?;
    look.list(call.kind, &items, &meta)
}

/// The objects that the options name, and what the list says of itself. Who looks at their metadata only
/// may take them in whatever version they are stored in.
pub async fn collect(
    call: &Call,
    options: &ListOptions,
    metadata_only: bool,
) -> Result<(Vec<Stored>, ListMeta), ApiError> {
    let selector = Selector::parse(call.kind, &options.label_selector, &options.field_selector)?;
    let start = start(call, options)?;
    let info = call.kind.info();
    let prefix = encoding::prefix(info, &call.target.namespace);
    let mut scan = Scan { call, selector: &selector, limit: options.limit, items: Vec::new() };
    let as_stored = metadata_only && call.takes_any_version();
    let lookup = |after: Option<&str>, limit: usize, at: Option<u64>| {
        call.server.registry.store.list(&prefix, after, limit, at).map_err(|error| expired(error, &start))
    };
    let page_size = if selector.is_empty() { options.limit } else { SCAN_PAGE };
    let mut after = start.after.clone();
    let mut at = start.at;
    loop {
        let page = lookup(after.as_deref(), page_size, at)?;
        // All later pages show what the first one showed.
        at = Some(page.revision);
        let last = page.entries.last().map(|entry| entry.key.to_string());
        let (places, found): (Vec<usize>, Vec<Stored>) = scan.candidates(&page.entries).unzip();
        let shown = if as_stored { found } else { call.server.registry.shown(call.kind, found).await? };
        let full_at = scan.take(shown)?.and_then(|at| places.get(at).copied());
        let more = page.remaining > 0;
        let meta = |token: Option<&str>, remaining: usize| ListMeta {
            revision: page.revision,
            continue_token: token.map(|key| write_token(page.revision, key)).unwrap_or_default(),
            remaining: selector.is_empty().then_some(remaining),
        };
        match full_at {
            Some(index) if more || index + 1 < page.entries.len() => {
                let key = page.entries.get(index).map(|entry| entry.key.to_string());
                let remaining = page.remaining + page.entries.len() - index - 1;
                return Ok((scan.items, meta(key.as_deref(), remaining)));
            }
            _ if !more => return Ok((scan.items, meta(None, 0))),
            _ => after = last,
        }
    }
}

/// Collects matching entries up to the limit.
struct Scan<'a> {
    call: &'a Call,
    selector: &'a Selector,
    limit: usize,
    items: Vec<Stored>,
}

impl Scan<'_> {
    /// The entries that may be meant, with their places. The key ends in the name: most need no parsing
    /// when one name is asked for.
    fn candidates<'e>(&self, entries: &'e [Entry]) -> impl Iterator<Item = (usize, Stored)> + use<'e, '_> {
        let name = self.selector.single_name();
        let may_be = move |entry: &Entry| name.is_none_or(|name| entry.key.rsplit('/').next() == Some(name));
        let entries = entries.iter().enumerate().filter(move |(_, entry)| may_be(entry));
        entries.map(|(place, entry)| (place, Stored::from(entry)))
    }

    /// Takes those that match; says which of them filled the list.
    fn take(&mut self, found: Vec<Stored>) -> Result<Option<usize>, ApiError> {
        for (index, stored) in found.into_iter().enumerate() {
            if self.wants(&stored)? {
                self.items.push(stored);
                if self.items.len() == self.limit {
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    fn wants(&self, stored: &Stored) -> Result<bool, ApiError> {
        if self.selector.is_empty() {
            return Ok(true);
        }
        let object = outline(self.call.kind, &stored.bytes, stored.revision).map_err(ApiError::internal)?;
        Ok(self.selector.matches(self.call.kind, &object))
    }
}

/// Where a list begins.
#[derive(Debug, Default)]
struct Start {
    /// `None`: now.
    at: Option<u64>,
    after: Option<String>,
    continued: bool,
}

fn start(call: &Call, options: &ListOptions) -> Result<Start, ApiError> {
    if !options.continue_token.is_empty() {
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, key) = read_token(&options.continue_token)?;
        return Ok(Start { at: revision, after: Some(key), continued: true });
    }
    let version = options.version().map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    let current = call.server.registry.store.revision();
    if let Some(wanted) = version.filter(|wanted| *wanted > current) {
        return Err(ApiError::future_version(wanted, current));
    }
    let exact = match options.version_match {
        Some(VersionMatch::Exact) => true,
        Some(VersionMatch::NotOlderThan) => false,
        None => options.limit > 0,
    };
    Ok(Start { at: version.filter(|wanted| exact && *wanted > 0), ..Start::default() })
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

fn write_token(revision: u64, key: &str) -> String {
    let token = json!({"v": TOKEN_VERSION, "rv": revision, "start": key});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// A token that goes on at whatever the version is then.
fn write_inconsistent_token(key: &str) -> String {
    let token = json!({"v": TOKEN_VERSION, "rv": -1, "start": key});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Result<(Option<u64>, String), ApiError> {
    let refuse =
        |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| refuse(format!("illegal base64 data at input byte {}", first_illegal_byte(token))))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let key = value["start"].as_str().filter(|key| key.starts_with("/registry/"));
    match (value["v"].as_str(), value["rv"].as_i64(), key) {
        (Some(TOKEN_VERSION), Some(revision), Some(key)) => Ok((u64::try_from(revision).ok(), key.to_owned())),
        (Some(TOKEN_VERSION), ..) => Err(refuse("the token has no start".to_owned())),
        _ => Err(refuse("server does not recognize this encoded version".to_owned())),
    }
}

/// Where Go's decoder stops: at the first byte that is no base64, or at the last one where the length
/// cannot be.
fn first_illegal_byte(token: &str) -> usize {
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    token.bytes().position(|b| !is_base64(b)).unwrap_or(token.len().saturating_sub(1))
}

fn expired(error: store::Error, start: &Start) -> ApiError {
    match (error, &start.after) {
        (store::Error::Compacted { .. }, Some(key)) if start.continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        )
        .with_continue(write_inconsistent_token(key)),
        (error, _) => store_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let token = write_token(7, "/registry/pods/a/b");
        assert_eq!(read_token(&token).ok(), Some((Some(7), "/registry/pods/a/b".to_owned())));
        assert_eq!(read_token(&write_inconsistent_token("/registry/x")).ok(), Some((None, "/registry/x".to_owned())));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = |token: &str| read_token(token).err().map(|e| e.message().to_owned()).unwrap_or_default();
        assert_eq!(
            text("bogus"),
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 4"
        );
        assert!(text("a!cd").ends_with("input byte 1"));
        assert!(text(&URL_SAFE_NO_PAD.encode("{}")).contains("does not recognize"));
        assert!(text("").contains("continue key is not valid"));
    }
}
