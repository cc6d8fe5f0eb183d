//! A volume that is made when somebody first looks into it.
//!
//! Admission gives every pod a volume with a token of its service account. For a guest that never calls the
//! API it would be a request to the API server, a signature and ten files, on the way to Ready, for each of
//! a thousand pods, and again when the node comes back. So it is made on the first look, and from then on
//! kept up to date like any other, until the pod goes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::fields::{Allocatable, Fields};
use super::{Sources, Volumes, all};

/// One such volume of a pod.
pub struct Deferred {
    pub dir: PathBuf,
    work: Arc<Work>,
    made: OnceCell<()>,
    end: CancellationToken,
    _end: DropGuard,
}

/// What it takes to make it.
struct Work {
    volumes: Arc<Volumes>,
    pod: Arc<core::Pod>,
    index: usize,
    pod_ip: IpAddr,
    host_ip: IpAddr,
    allocatable: Allocatable,
    dir: PathBuf,
}

impl Deferred {
    /// The volume at `index` of the pod's, which will be in `dir`.
    pub fn new(volumes: Arc<Volumes>, pod: Arc<core::Pod>, index: usize, fields: &Fields<'_>, dir: PathBuf) -> Self {
        let Fields { pod_ip, host_ip, allocatable, .. } = *fields;
        let work = Work { volumes, pod, index, pod_ip, host_ip, allocatable, dir: dir.clone() };
        let end = CancellationToken::new();
        Self { dir, work: Arc::new(work), made: OnceCell::new(), _end: end.clone().drop_guard(), end }
    }

    /// Makes it, unless it is there. Who comes meanwhile waits for the same; after a failure the next one
    /// who looks tries again.
    pub async fn make(&self) -> Result<(), String> {
        let make = async || {
            let mut sources = Sources::default();
            self.work.follow(&mut sources);
            self.work.write(&mut sources).await?;
            let (work, end) = (self.work.clone(), self.end.clone());
            tokio::spawn(async move { end.run_until_cancelled(work.keep(sources)).await });
            Ok(())
        };
        self.made.get_or_try_init(make).await.map(|_| ())
    }
}

impl Work {
    fn volume(&self) -> Option<&core::Volume> {
        all(&self.pod).get(self.index)
    }

    fn follow(&self, sources: &mut Sources) {
        if let Some(volume) = self.volume() {
            self.volumes.follow(volume, &self.pod, sources);
        }
    }

    async fn write(&self, sources: &mut Sources) -> Result<(), String> {
        let Some(volume) = self.volume() else { return Ok(()) };
        let Self { pod_ip, host_ip, allocatable, .. } = *self;
        let fields = Fields { pod: &self.pod, pod_ip, host_ip, allocatable };
        let written = self.volumes.write(volume, &fields, sources, self.dir.clone()).await;
        written.map_err(|why| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name))
    }

    /// Keeps it up to date.
    async fn keep(&self, mut sources: Sources) {
        loop {
            sources.changed().await;
            if let Err(error) = self.write(&mut sources).await {
                tracing::debug!(%error, "a volume stays as it was");
            }
        }
    }
}
