//! `coracle server`: the API server over its store, the controllers and the scheduler.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Extension;
use ipnet::Ipv4Net;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::kubeconfig::{Access, merge};
use crate::apiserver::audit::Audit;
use crate::apiserver::auth::User;
use crate::apiserver::auth::accounts::AccountKey;
use crate::apiserver::auth::pki::{Pki, create_private_dir, write_private};
use crate::apiserver::auth::tokens::Tokens;
use crate::apiserver::join::{JoinConfig, routes};
use crate::apiserver::serve::Door;
use crate::apiserver::{ApiConfig, ApiServer};
use crate::client;
use crate::controllers::{self, ControllerConfig, Sign, Signer};
use crate::kinds::service_cidr::Ranges;
use crate::reconcile::{Cluster, WorkQueues};
use crate::scheduler;
use crate::store::{RedbStore, Store};

/// What a server is made from.
pub struct ServerConfig {
    pub data_dir: PathBuf,
    pub api_addr: SocketAddr,
    /// Names and addresses of the API beside the usual ones.
    pub names: Vec<String>,
    pub service_cidr: Ipv4Net,
    pub pod_cidr: Ipv4Net,
    /// Who is told of requests.
    pub audit: Option<Arc<Audit>>,
}

/// Runs the server until `stop`.
pub async fn serve(config: ServerConfig, stop: CancellationToken) -> Result<()> {
    super::raise_file_limit();
    create_private_dir(&config.data_dir)?;
    let pki = Arc::new(open_pki(&config)?);
    let tokens = Tokens::open(&config.data_dir.join("token"), &pki)?;
    let door = Door::bind(config.api_addr, &pki, tokens).await?;
    let address = door.address()?;
    let store = open_store(&config.data_dir).await?;

    let mut api_config = ApiConfig::new(store.clone());
    api_config.service_cidr = config.service_cidr;
    api_config.pod_cidr = Some(config.pod_cidr);
    api_config.api_address = address;
    api_config.node_tls = Some(node_tls(&pki)?);
    api_config.account_key = Some(AccountKey::open(&config.data_dir.join("pki/sa.key"))?);
    api_config.ca_pem = pki.ca_pem.clone();
    api_config.audit = config.audit.clone();
    api_config.proxy_identity = Some(pki.front_proxy.clone());
    let queues = WorkQueues::default();
    api_config.more_metrics = Some(Arc::new({
        let queues = queues.clone();
        move |page| queues.write(page)
    }));
    let api = ApiServer::start(api_config).await.context("cannot start the API server")?;
    let join = JoinConfig {
        pki: pki.clone(),
        store: store.clone(),
        pod_cidr: config.pod_cidr,
        service_cidr: config.service_cidr,
    };
    let router = api.router().merge(routes(join));
    let client = client::in_process(router.clone().layer(Extension(User::server())));
    let cluster = Cluster::counted(client, queues);

    let mut controllers = controllers::run(
        &cluster,
        &ControllerConfig {
            root_ca_pem: pki.ca_pem.clone(),
            signer: Signer(Some(Arc::new(Authority(pki.clone())))),
            ranges: Some(Ranges { services: config.service_cidr, pods: Some(config.pod_cidr) }),
        },
    );
    let scheduler = tokio::spawn(scheduler::run(cluster.clone(), stop.clone()));
    let serving = tokio::spawn({
        let (api, stop) = (api.clone(), stop.clone());
        async move { door.serve(&api, router, stop).await }
    });
    write_kubeconfig(&config.data_dir, address, &pki)?;
    tracing::info!(%address, "the API is served");

    let failed = tokio::select! {
        () = stop.cancelled() => false,
        // A controller never ends by itself. The supervisor starts the process anew, whole.
        () = controllers.failed() => true,
    };
    stop.cancel();
    api.shutdown();
    let _ = serving.await;
    let _ = scheduler.await;
    drop(controllers);
    if let Some(audit) = config.audit {
        audit.flush().await;
    }
    store.close().await;
    if failed { bail!("a controller failed; its panic is in the log above") } else { Ok(()) }
}

/// The cluster's authority, as the controller of certificates asks it.
struct Authority(Arc<Pki>);

impl Sign for Authority {
    fn sign(&self, request: &[u8], usages: &[&str], seconds: Option<i64>) -> Result<String, String> {
        self.0.issue(request, usages, seconds).map_err(|error| format!("{error:#}"))
    }
}

/// How the server calls the nodes: with its own client certificate, trusting only the cluster's authority.
fn node_tls(pki: &Pki) -> Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pki.ca_pem.as_bytes()) {
        roots.add(authority?)?;
    }
    let own = &pki.node_client;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(own.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    builder
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("the server's certificate for nodes is damaged")
}

fn open_pki(config: &ServerConfig) -> Result<Pki> {
    let mut names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.push("kubernetes.default.svc.cluster.local".to_owned());
    let first_service = config.service_cidr.hosts().next().map(IpAddr::V4);
    let mut addresses: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1]), config.api_addr.ip()];
    addresses.extend(first_service);
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    addresses.sort();
    addresses.dedup();
    Pki::open(&config.data_dir.join("pki"), &names, &addresses)
}

async fn open_store(data_dir: &Path) -> Result<Arc<dyn Store>> {
    let dir = data_dir.join("state");
    create_private_dir(&dir)?;
    let file = dir.join("state.redb");
    let store = tokio::task::spawn_blocking(move || RedbStore::open(&file)).await?;
    Ok(Arc::new(store.context("cannot open the state")?))
}

/// The administrator's own kubeconfig, in the data directory.
fn write_kubeconfig(data_dir: &Path, address: SocketAddr, pki: &Pki) -> Result<()> {
    let access = Access {
        server: format!("https://{address}"),
        ca_pem: pki.ca_pem.clone(),
        cert_pem: pki.admin.cert_pem.clone(),
        key_pem: pki.admin.key_pem.clone(),
    };
    write_private(&data_dir.join("kubeconfig"), &merge(None, &access)?)
}
