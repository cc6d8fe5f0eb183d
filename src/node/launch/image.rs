//! How a container comes to its image: found, pulled, composed with those of others, made ready; and what
//! is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use super::super::backoff::go_duration;
use super::super::compose;
use super::super::context::Context;
use super::super::fallback;
use super::super::images::{ImageFile, PullPolicy, Pulled, Wanted};
use super::super::instances;
use super::super::plan::Plan;
use super::super::pod::{Note, Refusal};
use super::super::pull_secrets;
use super::super::stored_images;
use super::{Launch, config};
use crate::oci::{Credentials, Startup};
use crate::runtime::{Image, ImageSource};

/// Between two events about one pull.
const PROGRESS: Duration = Duration::from_secs(60);

impl Launch {
    /// The image, what the status calls it, and how it wants to be started.
    pub(super) async fn image(
        &self,
        context: &Context,
        container: &core::Container,
        providers: &[String],
    ) -> Result<(Arc<dyn Image>, String, Arc<Startup>), Refusal> {
        let snapshot = self.snapshot(container)?;
        let wanted = Wanted { snapshot, ..self.wanted(context, container) };
        let (reference, store) = (wanted.reference, self.runtime.images());
        let announce = || self.tell_pulling(context, reference);
        let came = wanted.came.clone();
        let tell = |progress: String| {
            self.tell(context, false, "Pulling", format!("Pulling image \"{reference}\": {progress}"))
        };
        let obtained = match store {
            // Asked each time: what is kept elsewhere may be removed there.
            Some(store) => while_telling(PROGRESS, &came, tell, stored_images::obtain(store, wanted, announce)).await,
            None => {
                if let Some(image) = self.kept.image.clone().filter(|_| wanted.policy != PullPolicy::Always) {
                    return Ok((image, self.kept.image_id.clone(), self.kept.startup.clone()));
                }
                if !providers.is_empty() {
                    return self.composed(context, container, providers).await;
                }
                while_telling(PROGRESS, &came, tell, context.images.obtain(&self.runtime, wanted, announce)).await
            }
        };
        let obtained = obtained.inspect_err(|refusal| self.tell_not_pulled(context, refusal))?;
        if store.is_some() && obtained.pulled.is_some() {
            context.images.engine_pulled();
        }
        self.tell_pulled(context, reference, obtained.pulled.as_ref());
        Ok((obtained.image, obtained.id, obtained.startup))
    }

    /// One image of the container's own and those of its providers.
    async fn composed(
        &self,
        context: &Context,
        container: &core::Container,
        providers: &[String],
    ) -> Result<(Arc<dyn Image>, String, Arc<Startup>), Refusal> {
        let own = self.find(context, container).await?;
        let (id, startup) = (own.id, own.startup);
        let snapshot = self.snapshot(container)?;
        let mut parts = vec![(container.name.clone(), ImageSource { snapshot, ..own.source })];
        for name in providers {
            let Some(provider) = compose::container(&self.pod, name) else { continue };
            // Its own container tells how its image came.
            let found = context.images.find(self.wanted(context, provider), || ()).await?;
            let snapshot = self.snapshot(provider)?;
            parts.push((name.clone(), ImageSource { snapshot, ..found.source }));
        }
        let composed = self.runtime.compose(&parts).await;
        let source = composed.map_err(|error| config("CreateContainerError", error.to_string()))?;
        Ok((context.images.prepare_made(&self.runtime, source).await?, id, startup))
    }

    /// The file of a container's image.
    pub(super) async fn find(&self, context: &Context, container: &core::Container) -> Result<ImageFile, Refusal> {
        let wanted = self.wanted(context, container);
        let reference = wanted.reference;
        let found = context.images.find(wanted, || self.tell_pulling(context, reference)).await;
        let found = found.inspect_err(|refusal| self.tell_not_pulled(context, refusal))?;
        self.tell_pulled(context, reference, found.pulled.as_ref());
        Ok(found)
    }

    fn snapshot(&self, container: &core::Container) -> Result<bool, Refusal> {
        let asked = instances::snapshot(&self.pod, &container.name);
        asked.map_err(|why| config("CreateContainerConfigError", why))
    }

    fn wanted<'a>(
        &'a self,
        context: &'a Context,
        container: &'a core::Container,
    ) -> Wanted<'a, impl Future<Output = Credentials> + Send + 'a> {
        Wanted {
            reference: self.reference(container),
            policy: PullPolicy::of(container.image_pull_policy.as_deref()),
            snapshot: false,
            came: Arc::default(),
            credentials: pull_secrets::credentials(context, &self.pod, self.index),
        }
    }

    /// What stands for the container's image in this runtime.
    fn reference<'a>(&'a self, container: &'a core::Container) -> &'a str {
        let falls_back = self.runtime.images().is_some() && Plan::ephemeral(&self.pod, self.index).is_none();
        let instead = fallback::image(&self.pod, &container.name).filter(|_| falls_back);
        instead.or(container.image.as_deref()).unwrap_or_default()
    }

    fn tell(&self, context: &Context, warning: bool, reason: &'static str, message: String) {
        context.tell(&self.pod, &Note { index: Some(self.index), warning, reason, message });
    }

    fn tell_pulling(&self, context: &Context, reference: &str) {
        self.tell(context, false, "Pulling", format!("Pulling image \"{reference}\""));
    }

    fn tell_not_pulled(&self, context: &Context, refusal: &Refusal) {
        let pulled = refusal.reason == "ErrImagePull";
        let message = if pulled { uppercase_first(&refusal.message) } else { refusal.message.clone() };
        let reason = if refusal.reason == "InvalidImageName" { "InspectFailed" } else { refusal.reason };
        self.tell(context, true, if pulled { "Failed" } else { reason }, message);
    }

    fn tell_pulled(&self, context: &Context, reference: &str, pulled: Option<&Pulled>) {
        match pulled {
            Some(pulled) => {
                let took = go_duration(Duration::from_millis(u64::try_from(pulled.took.as_millis()).unwrap_or(0)));
                let message = format!(
                    "Successfully pulled image \"{reference}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    pulled.bytes
                );
                self.tell(context, false, "Pulled", message);
            }
            None if self.run == 0 => {
                let message = format!(
                    "Container image \"{reference}\" already present on machine and can be accessed by the pod"
                );
                self.tell(context, false, "Pulled", message);
            }
            None => {}
        }
    }
}

/// Tells every so often how much of a long pull has come.
async fn while_telling<T>(
    every: Duration,
    came: &AtomicU64,
    tell: impl Fn(String),
    pull: impl Future<Output = T>,
) -> T {
    tokio::pin!(pull);
    let mut taken = Duration::ZERO;
    loop {
        tokio::select! {
            pulled = &mut pull => return pulled,
            () = tokio::time::sleep(every) => {}
        }
        taken += every;
        let bytes = came.load(Ordering::Relaxed);
        if bytes > 0 {
            tell(format!("{bytes} bytes have come in {}", go_duration(taken)));
        }
    }
}

fn uppercase_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_pull_is_told_of_every_so_often_and_a_short_one_not_at_all() {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let tell = |text| told.send(text).expect("somebody hears");
        let came = AtomicU64::new(0);
        while_telling(Duration::from_secs(3600), &came, tell, std::future::ready(())).await;
        let long = async {
            // What has brought nothing yet is not told of.
            tokio::time::sleep(Duration::from_millis(50)).await;
            came.store(7, Ordering::Relaxed);
            (heard.recv().await, heard.recv().await)
        };
        let told = while_telling(Duration::from_millis(1), &came, tell, long).await;
        let (Some(first), Some(second)) = told else { panic!("{told:?}") };
        assert!(first.starts_with("7 bytes have come in ") && second != first, "{first}, {second}");
    }
}
