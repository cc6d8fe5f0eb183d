//! GET of a collection: one version, in pages if the client likes.
//!
//! A continue token ([`Token`]) holds the version of its first page and the last key shown. The store keeps enough
//! history for that version to be listed again; once it has been compacted the answer is 410 with a
//! token that goes on at the current version instead, and says so.

use axum::response::Response;

use super::Call;
use crate::apiserver::continuation::Token;
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

pub fn list(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = ListOptions::from_query(&call.query, false)?;
    let (items, meta) = collect(call, &options)?;
    look.list(call.kind, &items, &meta)
}

/// The objects that the options name, and what the list says of itself.
pub fn collect(call: &Call, options: &ListOptions) -> Result<(Vec<Stored>, ListMeta), ApiError> {
    let selector = Selector::parse(call.kind, &options.label_selector, &options.field_selector)?;
    let start = start(call, options)?;
    let info = call.kind.info();
    let prefix = encoding::prefix(info, &call.target.namespace);
    let mut scan = Scan { call, selector: &selector, limit: options.limit, items: Vec::new() };
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
        let full_at = scan.take(&page.entries)?;
        let more = page.remaining > 0;
        let meta = |token: Option<&str>, remaining: usize| ListMeta {
            revision: page.revision,
            continue_token: token.map(|key| Token::at(page.revision, key).to_string()).unwrap_or_default(),
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
    /// The index of the entry that filled the list.
    fn take(&mut self, entries: &[Entry]) -> Result<Option<usize>, ApiError> {
        for (index, entry) in entries.iter().enumerate() {
            if self.wants(entry)? {
                self.items.push(Stored::from(entry));
                if self.items.len() == self.limit {
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    fn wants(&self, entry: &Entry) -> Result<bool, ApiError> {
        if self.selector.is_empty() {
            return Ok(true);
        }
        // The key ends in the name: most entries need no parsing when one name is asked for.
        if let Some(name) = self.selector.single_name()
            && entry.key.rsplit('/').next() != Some(name)
        {
            return Ok(false);
        }
        let object = outline(self.call.kind, &entry.value, entry.mod_revision).map_err(ApiError::internal)?;
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
        let Token { revision, start } = Token::read(&options.continue_token).map_err(|why| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        })?;
        return Ok(Start { at: revision, after: Some(start), continued: true });
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

fn expired(error: store::Error, start: &Start) -> ApiError {
    match (error, &start.after) {
        (store::Error::Compacted { .. }, Some(key)) if start.continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        )
        .with_continue(Token::anew(key).to_string()),
        (error, _) => store_error(error),
    }
}
