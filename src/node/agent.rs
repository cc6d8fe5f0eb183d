//! The agent: for every pod that the API binds to this node, a worker; for every worker whose pod is
//! gone, its end.
//!
//! The agent holds no truth. A change names a pod; what the shared watch says of it now is told to its
//! worker, and a worker that hears the same twice does nothing. A worker that ends, or panics, while
//! its pod is still there is begun anew from the pod's status.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::worker::{News, Worker};
use crate::kinds::placement::is_over;
use crate::reconcile::{Change, ObjectKey, Shared};

/// The workers of a node.
pub struct Agent {
    context: Arc<Context>,
    pods: Shared<Pod>,
    workers: HashMap<String, Handle>,
    /// The uid of the worker that has a name at present.
    by_key: HashMap<ObjectKey, String>,
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
}

struct Handle {
    key: ObjectKey,
    news: watch::Sender<News>,
}

impl Agent {
    pub fn new(context: Arc<Context>, pods: Shared<Pod>) -> Agent {
        Agent {
            context,
            pods,
            workers: HashMap::new(),
            by_key: HashMap::new(),
            tasks: JoinSet::new(),
            uids: HashMap::new(),
        }
    }

    /// Runs until shutdown; what runs then ends with it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.ready() => {}
        }
        self.reserve_addresses();
        self.context.recovery.expect(self.pods.list().iter().filter(|pod| ran_before(pod)).count());
        self.sweep();
        let mut changes = self.pods.subscribe();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = changes.next() => match change {
                    Change::Object(key) => self.reconcile(&key),
                    Change::Rescan => self.rescan(),
                },
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    self.ended(id, ended.is_err());
                }
            }
        }
        self.tasks.shutdown().await;
    }

    /// What pods need to start must have been read, lest a first environment lack its Services.
    async fn ready(&self) {
        self.pods.synced().await;
        self.context.services.synced().await;
        self.context.classes.synced().await;
    }

    /// Pods that ran here before keep their addresses, before any other pod gets one.
    fn reserve_addresses(&self) {
        for pod in self.pods.list() {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
            if let (Some(ip), Some(uid), false) = (ip, &pod.metadata.uid, is_over(&pod)) {
                self.context.addresses.reserve(uid, ip);
            }
        }
    }

    /// Removes from the disk what belongs to pods that went while nobody was here.
    fn sweep(&self) {
        let pods = self.pods.list();
        let uids: HashSet<&str> = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        self.context.volumes.sweep(|uid| uids.contains(uid));
        self.context.logs.sweep(|dir| dir.rsplit('_').next().is_some_and(|uid| uids.contains(uid)));
        self.sweep_runtimes();
    }

    /// The same of what runtimes have, which may be slow to answer.
    fn sweep_runtimes(&self) {
        let known: HashSet<String> = self.pods.list().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let known: HashSet<String> = known.into_iter().chain(self.workers.keys().cloned()).collect();
        let context = self.context.clone();
        tokio::spawn(async move {
            for runtime in &context.runtimes {
                runtime.sweep(&known).await;
            }
        });
    }

    fn rescan(&mut self) {
        let gone = self.workers.values().map(|handle| handle.key.clone());
        let mut keys: Vec<ObjectKey> = self.pods.keys().into_iter().chain(gone).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            self.reconcile(&key);
        }
        self.sweep_runtimes();
    }

    fn reconcile(&mut self, key: &ObjectKey) {
        let pod = self.pods.get(key);
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        // Another pod of the same name: the one before it has gone without a word.
        if let Some(before) = self.by_key.get(key).filter(|before| Some(*before) != uid.as_ref())
            && let Some(handle) = self.workers.get(before)
        {
            handle.news.send_replace(News::Gone);
        }
        if let (Some(pod), Some(uid)) = (pod, uid) {
            match self.workers.get(&uid) {
                Some(handle) => {
                    handle.news.send_replace(News::Pod(pod));
                }
                None => self.begin(key.clone(), uid, pod),
            }
        }
    }

    fn begin(&mut self, key: ObjectKey, uid: String, pod: Arc<Pod>) {
        let (news, heard) = watch::channel(News::Pod(pod.clone()));
        let worker = Box::new(Worker::new(self.context.clone(), pod));
        let id = self.tasks.spawn(worker.run(heard)).id();
        self.uids.insert(id, uid.clone());
        self.by_key.insert(key.clone(), uid.clone());
        self.workers.insert(uid, Handle { key, news });
    }

    fn ended(&mut self, id: Id, panicked: bool) {
        let Some(uid) = self.uids.remove(&id) else { return };
        let Some(handle) = self.workers.remove(&uid) else { return };
        if self.by_key.get(&handle.key) == Some(&uid) {
            self.by_key.remove(&handle.key);
        }
        self.context.release_address(&uid);
        if panicked {
            tracing::error!(pod = %handle.key, "a pod's worker panicked; it begins anew");
            self.reconcile(&handle.key);
        } else {
            // The watch may still bring the last words of the pod; they are not to begin it again.
            self.pods.observe_gone(&handle.key, &uid);
        }
    }
}

/// Whether the pod ran here, under another process, and is to run again.
pub fn ran_before(pod: &Pod) -> bool {
    let has_address = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
    has_address && !is_over(pod) && pod.metadata.deletion_timestamp.is_none()
}
