//! Lines of a response that goes on: watches and logs.

use anyhow::Result;
use futures::{AsyncBufReadExt, Stream, TryStreamExt};
use kube::Client;

/// The response's lines as they come.
pub async fn lines(client: &Client, request: http::Request<Vec<u8>>) -> Result<impl Stream<Item = Result<String>>> {
    let reader = client.request_stream(request).await?;
    Ok(reader.lines().map_err(anyhow::Error::from))
}
