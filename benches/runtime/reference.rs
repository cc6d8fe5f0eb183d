//! The engine embedded as its documentation shows: an instance per request in a task of its own, with
//! the pooling allocator's defaults. What `wasmtime serve` does, without its sockets.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use coracle::wire::HttpBody;
use http::Request;
use http_body_util::BodyExt;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

struct Client {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
}

impl WasiView for Client {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Client {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: Default::default() }
    }
}

pub struct Reference {
    engine: Engine,
    pre: ProxyPre<Client>,
}

impl Reference {
    pub async fn new(path: &Path) -> Self {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::pooling());
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).expect("WASI HTTP");
        let component = Component::from_file(&engine, path).expect("the guest compiles");
        let pre = ProxyPre::new(linker.instantiate_pre(&component).expect("it links")).expect("a proxy");
        Self { engine, pre }
    }

    pub async fn call(self: &Arc<Self>, request: Request<HttpBody>) -> Bytes {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let this = self.clone();
        let task = tokio::spawn(async move {
            let wasi = WasiCtx::builder().env("HOSTNAME", "bench").build();
            let client = Client { wasi, http: WasiHttpCtx::new(), table: ResourceTable::new() };
            let mut store = Store::new(&this.engine, client);
            let request = request
                .map(|body| body.map_err(|error| wasmtime_wasi_http::Error::InternalError(Some(error.to_string()))));
            let incoming = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let out = store.data_mut().http().new_response_outparam(sender)?;
            let proxy = this.pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, incoming, out).await
        });
        let response = receiver.await.expect("a response").expect("no error");
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        task.await.expect("no panic").expect("no trap");
        bytes
    }
}
