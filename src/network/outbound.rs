//! The way out for guests.

use http::{Request, Response};

use crate::wire::{CallTimeouts, Caller, HttpBody, Outbound, OutboundError};

/// Whom a guest may call outside the cluster. The node knows its pods' annotations.
pub trait OutboundPolicy: Send + Sync + 'static {
    /// Whether `caller` may call `host` (a name or an address, without port).
    fn allows(&self, caller: &Caller, host: &str) -> bool;
}

pub(super) struct Guests;

#[async_trait::async_trait]
impl Outbound for Guests {
    async fn send(
        &self,
        _caller: &Caller,
        request: Request<HttpBody>,
        _timeouts: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        Err(OutboundError::UnknownHost(request.uri().to_string()))
    }
}
