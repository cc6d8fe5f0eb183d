//! Images of a runtime that brings and keeps them itself: the pull policy, and what is told of it.

use std::sync::Arc;
use std::time::Instant;

use super::images::{Obtained, PullPolicy, Pulled, Wanted, never_pulled, pull_failed};
use super::pod::Refusal;
use crate::oci::{Credentials, Startup};
use crate::runtime::{Account, ImageError, ImageStore, StoredImage};

/// Finds or brings the image that is wanted; calls `announce` before a registry is asked for it.
pub async fn obtain<C>(
    store: &dyn ImageStore,
    wanted: Wanted<'_, C>,
    announce: impl Fn() + Send,
) -> Result<Obtained, Refusal>
where
    C: Future<Output = Credentials> + Send,
{
    let reference = wanted.reference;
    let failed = |error: ImageError| pull_failed(reference, &error.to_string());
    let present = match wanted.policy {
        PullPolicy::Always => None,
        PullPolicy::IfNotPresent | PullPolicy::Never => store.find(reference).await.map_err(failed)?,
    };
    match (present, wanted.policy) {
        (Some(image), _) => Ok(obtained(image, None)),
        (None, PullPolicy::Never) => Err(never_pulled(reference)),
        (None, PullPolicy::Always | PullPolicy::IfNotPresent) => {
            let accounts = wanted.credentials.await.accounts(reference);
            let accounts: Vec<Account> =
                accounts.into_iter().map(|(user, password)| Account { user, password }).collect();
            announce();
            let began = Instant::now();
            let image = store.pull(reference, &accounts, &wanted.came).await.map_err(failed)?;
            let pulled = Pulled { took: began.elapsed(), bytes: image.bytes };
            Ok(obtained(image, Some(pulled)))
        }
    }
}

fn obtained(image: StoredImage, pulled: Option<Pulled>) -> Obtained {
    let StoredImage { image, id, entrypoint, cmd, env, .. } = image;
    Obtained { image, id, startup: Arc::new(Startup { entrypoint, cmd, env }), pulled }
}
