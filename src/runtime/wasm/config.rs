//! `wasi:config/store`: the container's variables, and the ConfigMaps that its pod names.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::guest::Guest;

/// The draft that is offered.
pub const VERSION: &str = "0.2.0-rc.1";

/// Never told: all values are here before the container starts.
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Told<T> = wasmtime::Result<(Result<T, Error>,)>;

/// Defines the interface.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut config = linker.instance(&format!("wasi:config/store@{VERSION}"))?;
    config.func_wrap("get", |store: Store<'_>, (key,): (String,)| -> Told<Option<String>> {
        let found = store.data().config().find(|(name, _)| *name == key);
        Ok((Ok(found.map(|(_, value)| value.clone())),))
    })?;
    config.func_wrap("get-all", |store: Store<'_>, (): ()| -> Told<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = store.data().config().cloned().collect();
        // Of a name that several sources have, the first counts, as in `get`.
        all.sort_by(|one, two| one.0.cmp(&two.0));
        all.dedup_by(|later, first| later.0 == first.0);
        Ok((Ok(all),))
    })
}
