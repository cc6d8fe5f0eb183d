//! How the engines do that runtimes work with: a condition and events of the Node.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::heartbeat::{HEALTHY, Heartbeat, unhealthy};
use crate::reconcile::EventKind;
use crate::runtime::{Health, Runtime};

/// Tells of each change until shutdown.
pub(super) async fn run(context: Arc<Context>, heartbeat: Arc<Heartbeat>, shutdown: CancellationToken) {
    let each = context.runtimes.iter().map(|runtime| follow(&context, runtime.as_ref(), &heartbeat));
    tokio::select! {
        _ = futures::future::join_all(each) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn follow(context: &Context, runtime: &dyn Runtime, heartbeat: &Heartbeat) {
    let Some(mut health) = runtime.health() else { return };
    let mut was_ill = false;
    loop {
        let now = health.borrow_and_update().clone();
        heartbeat.set_health(runtime.name(), now.clone());
        match now {
            Health::Ill(why) => {
                was_ill = true;
                context.tell_of_node(EventKind::Warning, &unhealthy(runtime.name()), &why);
            }
            Health::Well if std::mem::take(&mut was_ill) => {
                context.tell_of_node(EventKind::Normal, HEALTHY.0, HEALTHY.1);
            }
            Health::Well | Health::Unknown => {}
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}
