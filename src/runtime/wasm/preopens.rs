//! `wasi:filesystem/preopens`: the mounts, opened when a guest first asks for them.
//!
//! Most guests never look at a file. Opened with every instance, or held by every container, each mount of
//! each pod would cost one of the files that the host's process may have open, and thousands of idle pods
//! would use them up; a volume that is only made when somebody looks would be made for everybody. So this
//! one function of WASI is ours. What it hands out lives as long as the guest holds it.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::{p2, p3};

use super::guest::Guest;

/// As wasmtime's own bindings name it, which this takes the place of.
const INTERFACE: &str = "wasi:filesystem/preopens@0.2.12";
const INTERFACE_3: &str = "wasi:filesystem/preopens@0.3.0";
const FUNCTION: &str = "get-directories";

type Directories = Vec<(Resource<Descriptor>, String)>;

/// Takes the place of WASI 0.2's function; shadowing must be allowed.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap_async(FUNCTION, |store, ()| {
        Box::new(open(store, |mut view| p2::bindings::filesystem::preopens::Host::get_directories(&mut view)))
    })
}

/// The same of WASI 0.3.
pub fn add_concurrent_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE_3)?.func_wrap_async(FUNCTION, |store, ()| {
        Box::new(open(store, |mut view| p3::bindings::filesystem::preopens::Host::get_directories(&mut view)))
    })
}

async fn open(
    mut store: StoreContextMut<'_, Guest>,
    hand_out: impl FnOnce(WasiFilesystemCtxView<'_>) -> wasmtime::Result<Directories>,
) -> wasmtime::Result<(Directories,)> {
    let surroundings = store.data().surroundings().clone();
    let mut files = surroundings.files().await?;
    let view = WasiFilesystemCtxView { ctx: &mut files, table: store.data_mut().resources() };
    Ok((hand_out(view)?,))
}
