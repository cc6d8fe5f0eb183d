//! Programs that start from where their initialisation left them.
//!
//! A module may export a function that prepares what every instance needs: a table, a parsed file, an
//! interpreter with its library loaded. It is run once, when the image is made ready, and the memories
//! and globals that it leaves become the module's own (wasmtime's Wizer); each instance then starts there.
//! What it finds must be the same for all of them, so it has nothing of the world: no import may be
//! called. Its time and its memory are bounded, as those of everything that comes with an image.

use std::sync::mpsc;
use std::time::Duration;

use futures::executor::block_on;
use wasmtime::component::{self, Component};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, Val};
use wasmtime_wizer::{ComponentInstanceState, InstanceState, SnapshotVal, ValType, Wizer};

use super::artifact::{Form, MAX_MODULE_BYTES};
use super::engine;

/// What such a function is called, the first that is exported; the second is how it was called before
/// there were components.
const FUNCTIONS: [&str; 2] = ["wizer-initialize", "wizer.initialize"];
const NO_FUNCTION: &str = "it exports no function";
const MAX_MEMORY_BYTES: usize = 256 << 20;
const GUARD_BYTES: u64 = 64 << 10;
const MAX_TIME: Duration = Duration::from_secs(20);

/// The program of the same form with its state as it is after its initialisation; or in words why there is
/// none.
pub fn initialised(bytes: &[u8], form: Form) -> Result<Vec<u8>, String> {
    initialised_within(MAX_TIME, bytes, form)
}

fn initialised_within(time: Duration, bytes: &[u8], form: Form) -> Result<Vec<u8>, String> {
    let binary = wat::parse_bytes(bytes).map_err(|error| error.to_string())?;
    let engine = Engine::new(&config(form)).map_err(|error| format!("cannot make the engine: {error:#}"))?;
    // Ends with the sender, when all is done.
    let (done, ended) = mpsc::channel::<()>();
    let theirs = engine.clone();
    let clock = std::thread::Builder::new().name("snapshot-clock".to_owned()).spawn(move || {
        if ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
            theirs.increment_epoch();
        }
    });
    clock.map_err(|error| format!("cannot watch the clock: {error}"))?;
    let made = match form {
        Form::Module => of_module(&engine, &binary),
        Form::Component | Form::Concurrent => of_component(&engine, &binary),
    };
    drop(done);
    let snapshot = made.map_err(|error| explain(&error))?;
    if snapshot.len() as u64 > MAX_MODULE_BYTES {
        return Err(format!("its state has {} bytes; at most {MAX_MODULE_BYTES} are taken", snapshot.len()));
    }
    Ok(snapshot)
}

fn config(form: Form) -> Config {
    let mut config = engine::base(form.calls());
    // It runs once: what is quick to compile is what counts. And the process that does this is bounded in
    // its address space, so that a memory has no more of it than it may grow to.
    config
        .cranelift_opt_level(wasmtime::OptLevel::None)
        .memory_reservation(MAX_MEMORY_BYTES as u64)
        .memory_reservation_for_growth(0)
        .memory_guard_size(GUARD_BYTES);
    config
}

fn store(engine: &Engine) -> Store<StoreLimits> {
    let limits = StoreLimitsBuilder::new().memory_size(MAX_MEMORY_BYTES).trap_on_grow_failure(true);
    let mut store = Store::new(engine, limits.build());
    store.limiter(|limits| limits);
    store.epoch_deadline_trap();
    store.set_epoch_deadline(1);
    store
}

fn of_module(engine: &Engine, binary: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let exports: Vec<String> = Module::new(engine, binary)?.exports().map(|export| export.name().to_owned()).collect();
    let function = function(|name| exports.iter().any(|export| export == name))?;
    let mut wizer = Wizer::new();
    wizer.init_func(function);
    let (context, instrumented) = wizer.instrument(binary)?;
    let module = Module::new(engine, &instrumented)?;
    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_traps(&module)?;
    let mut store = store(engine);
    let instance = linker.instantiate(&mut store, &module)?;
    for name in ["_initialize", function] {
        if let Ok(function) = instance.get_typed_func::<(), ()>(&mut store, name) {
            function.call(&mut store, ())?;
        }
    }
    block_on(wizer.snapshot(&context, &mut CoreState { store, instance }))
}

fn of_component(engine: &Engine, binary: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let whole = Component::new(engine, binary)?;
    let function = function(|name| whole.get_export_index(None, name).is_some())?;
    let mut wizer = Wizer::new();
    wizer.init_func(function);
    let (context, instrumented) = wizer.instrument_component(binary)?;
    let component = Component::new(engine, &instrumented)?;
    let mut linker = component::Linker::new(engine);
    linker.define_unknown_imports_as_traps(&component)?;
    let mut store = store(engine);
    let instance = block_on(linker.instantiate_async(&mut store, &component))?;
    let call = instance.get_typed_func::<(), ()>(&mut store, function)?;
    block_on(call.call_async(&mut store, ()))?;
    block_on(wizer.snapshot_component(&context, &mut ComponentState { store, instance }))
}

fn function(exports: impl Fn(&str) -> bool) -> wasmtime::Result<&'static str> {
    FUNCTIONS.into_iter().find(|name| exports(name)).ok_or_else(|| {
        let [name, _] = FUNCTIONS;
        wasmtime::format_err!("{NO_FUNCTION} `{name}` that could initialise it")
    })
}

fn explain(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    let called = text.split('`').nth(1).filter(|_| text.contains("has not been defined"));
    match called {
        Some(import) => format!(
            "its initialisation calls `{import}`, which it may not: what it finds must be the same for every \
             instance, so it has no files, variables, clocks, random numbers or network, and no output"
        ),
        None if text.starts_with(NO_FUNCTION) => text,
        None if text.contains("wasm trap: interrupt") => {
            format!("its initialisation takes longer than {} s", MAX_TIME.as_secs())
        }
        None if text.contains("forcing trap when growing memory") => {
            format!("its initialisation takes more than {} MiB of memory", MAX_MEMORY_BYTES >> 20)
        }
        None => format!("its initialisation failed: {text}"),
    }
}

/// Where Wizer reads a module's state.
struct CoreState {
    store: Store<StoreLimits>,
    instance: Instance,
}

impl InstanceState for CoreState {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("Wizer exported it");
        match global.get(&mut self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(bits) => SnapshotVal::F32(bits),
            Val::F64(bits) => SnapshotVal::F64(bits),
            Val::V128(value) => SnapshotVal::V128(value.as_u128()),
            other => panic!("a global of type {:?} cannot be kept", other.ty(&self.store)),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name).expect("Wizer exported it");
        contents(memory.data(&self.store));
    }
}

/// Where Wizer reads a component's state: by functions that it has added.
struct ComponentState {
    store: Store<StoreLimits>,
    instance: component::Instance,
}

impl ComponentState {
    async fn ask<R>(&mut self, instance: &str, function: &str) -> R
    where
        R: component::Lift + Send + Sync + 'static,
    {
        let (_, instance) = self.instance.get_export(&mut self.store, None, instance).expect("Wizer added it");
        let (_, function) =
            self.instance.get_export(&mut self.store, Some(&instance), function).expect("Wizer added it");
        let function = self.instance.get_typed_func::<(), (R,)>(&mut self.store, function).expect("of this type");
        function.call_async(&mut self.store, ()).await.expect("it only reads").0
    }
}

impl ComponentInstanceState for ComponentState {
    async fn call_func_ret_list_u8(&mut self, instance: &str, function: &str, contents: impl FnOnce(&[u8]) + Send) {
        let list: component::WasmList<u8> = self.ask(instance, function).await;
        contents(list.as_le_slice(&self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, function: &str) -> i32 {
        self.ask(instance, function).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, function: &str) -> i64 {
        self.ask(instance, function).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, function: &str) -> u32 {
        self.ask::<f32>(instance, function).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, function: &str) -> u64 {
        self.ask::<f64>(instance, function).await.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(body: &str) -> String {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
                (memory (export "memory") 1)
                (global $count (mut i32) (i32.const 0))
                (func (export "wizer-initialize") {body})
                (func (export "told") (result i32) (i32.add (i32.load (i32.const 64)) (global.get $count))))"#
        )
    }

    /// What `told` says in a fresh instance.
    fn told(binary: &[u8]) -> i32 {
        let engine = Engine::default();
        let module = Module::new(&engine, binary).expect("a module");
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).expect("linked");
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).expect("an instance");
        assert!(instance.get_func(&mut store, "wizer-initialize").is_none(), "it is not run twice");
        instance.get_typed_func::<(), i32>(&mut store, "told").expect("it").call(&mut store, ()).expect("an answer")
    }

    #[test]
    fn memories_and_globals_are_as_the_initialisation_left_them() {
        let text = module("(i32.store (i32.const 64) (i32.const 40)) (global.set $count (i32.const 2))");
        assert_eq!(told(&initialised(text.as_bytes(), Form::Module).expect("a snapshot")), 42);
    }

    #[test]
    fn what_cannot_be_kept_is_explained() {
        for (text, words) in [
            (module("unreachable"), "its initialisation failed"),
            (module("(drop (call $random (i32.const 0) (i32.const 8)))"), "calls `wasi_snapshot_preview1::random_get`"),
            (module("(drop (memory.grow (i32.const 8192)))"), "more than 256 MiB of memory"),
            ("(module)".to_owned(), "exports no function `wizer-initialize`"),
        ] {
            let why = initialised(text.as_bytes(), Form::Module).expect_err("refused");
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn an_endless_initialisation_is_ended() {
        let text = module("(loop br 0)");
        let why = initialised_within(Duration::from_millis(20), text.as_bytes(), Form::Module).expect_err("ended");
        assert!(why.contains("takes longer than 20 s"), "{why}");
    }

    #[test]
    fn components_are_initialised_too() {
        let text = r#"(component
            (core module $m
                (memory (export "memory") 1)
                (func (export "init") (i32.store (i32.const 64) (i32.const 42)))
                (func (export "told") (result i32) (i32.load (i32.const 64))))
            (core instance $i (instantiate $m))
            (func (export "wizer-initialize") (canon lift (core func $i "init")))
            (func (export "told") (result s32) (canon lift (core func $i "told"))))"#;
        let binary = initialised(text.as_bytes(), Form::Component).expect("a snapshot");
        let engine = Engine::default();
        let component = Component::new(&engine, &binary).expect("a component");
        let mut store = Store::new(&engine, ());
        let instance = component::Linker::new(&engine).instantiate(&mut store, &component).expect("an instance");
        let told = instance.get_typed_func::<(), (i32,)>(&mut store, "told").expect("it");
        assert_eq!(told.call(&mut store, ()).expect("an answer"), (42,));
    }
}
