//! The corpus: what each is called, how it is made, and what becomes of it.

use super::bytes::{
    COMPONENT, COMPONENT_IMPORT, Command, MODULE, component, core, custom, function, leb, lying_section, module,
    nested, nested_types, section, sized, vector,
};

/// What becomes of a container with this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is not made ready, or does not start, for this reason.
    Refused(&'static str),
    /// It starts and ends by itself with this code and these words.
    Ends(i32, &'static str),
    /// It runs until it is stopped.
    Runs,
}

use Fate::{Ends, Refused, Runs};

pub struct Case {
    pub name: &'static str,
    pub make: fn() -> Vec<u8>,
    pub fate: Fate,
}

const fn case(name: &'static str, make: fn() -> Vec<u8>, fate: Fate) -> Case {
    Case { name, make, fate }
}

/// `nop`s: a body of many operators that do nothing.
const NOP: u8 = 0x01;
const MANY: usize = 100_000;

pub const CORPUS: &[Case] = &[
    // What is no WebAssembly.
    case("empty", Vec::new, Refused("the file is empty")),
    case("text", || b"hello, world\n".to_vec(), Refused("it begins with 68 65 6c 6c")),
    case("html", || b"<!DOCTYPE html><html></html>".to_vec(), Refused("it begins with 3c 21 44 4f")),
    case("elf", || std::fs::read("/proc/self/exe").expect("this program").split_off(0)[..4096].to_vec(), NATIVE),
    case("cwasm", precompiled, NATIVE),
    case("gzip", || b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), Refused("it is gzip-compressed")),
    case("zip", || b"PK\x03\x04rest".to_vec(), Refused("it is a zip archive")),
    case("script", || b"#!/bin/sh\nexit 0\n".to_vec(), Refused("it is a script")),
    case("zeros", || vec![0; 1 << 20], Refused("it begins with 00 00 00 00")),
    case("magic-in-capitals", || b"\0ASM\x01\0\0\0".to_vec(), Refused("it begins with 00 41 53 4d")),
    case("magic-alone", || b"\0asm".to_vec(), Refused("it ends after 4 bytes")),
    case("half-a-version", || b"\0asm\x01\0".to_vec(), Refused("it ends after 6 bytes")),
    case("version-2", || b"\0asm\x02\0\0\0".to_vec(), Refused("the unknown version 2")),
    case("old-component", || b"\0asm\x0a\0\x01\0".to_vec(), Refused("the unreleased format 10")),
    case("layer-2", || b"\0asm\x0d\0\x02\0".to_vec(), Refused("the unknown version 13")),
    case("bad-text", || b"(module (func (call $nobody)))".to_vec(), Refused("nobody")),
    case("deep-text", || [b"(module ".to_vec(), b"(".repeat(MANY)].concat(), Refused("expected valid module field")),
    // What is cut off, or says that it is larger or smaller than it is.
    case("header-alone", || MODULE.to_vec(), Refused("exports no function `_start`")),
    case("component-header-alone", || COMPONENT.to_vec(), Refused("the component exports no `wasi:http")),
    case("cut-in-a-section", || Command::of(&[NOP]).bytes()[..20].to_vec(), CUT),
    case(
        "cut-in-the-code",
        || {
            let mut all = Command::of(&[NOP; 64]).bytes();
            all.truncate(all.len() - 9);
            all
        },
        CUT,
    ),
    case("cut-component", || nested(3)[..30].to_vec(), CUT),
    case("size-beyond-the-end", || module(&[lying_section(core::TYPE, 1000, &[1, 0x60, 0, 0])]), CUT),
    case("size-of-4-gib", || module(&[lying_section(core::TYPE, 0xffff_ffff, &[1])]), CUT),
    case("size-too-small", || module(&[lying_section(core::TYPE, 2, &[1, 0x60, 0, 0])]), CUT),
    case("size-too-large", || module(&[section(core::TYPE, &[1, 0x60, 0, 0, 0, 0, 0])]), Refused("size mismatch")),
    case("size-without-end", || module(&[vec![core::TYPE, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]]), Refused("invalid")),
    case("count-of-4-gib", || module(&[section(core::TYPE, &leb(0xffff_ffff))]), Refused("exceeds limit")),
    case("count-lies", || module(&[section(core::TYPE, &leb(900_000))]), CUT),
    case(
        "code-without-functions",
        || module(&[section(core::CODE, &vector(1, |_| function(&[0], &[])))]),
        Refused("function section is absent but code section"),
    ),
    case(
        "functions-without-code",
        || module(&[types(), section(core::FUNCTION, &vector(1, |_| vec![0]))]),
        Refused("code section is absent"),
    ),
    case("sections-out-of-order", || module(&[section(core::MEMORY, &[0]), types()]), Refused("out of order")),
    case("section-twice", || module(&[types(), types()]), Refused("out of order")),
    case("unknown-section", || module(&[section(99, b"what")]), Refused("malformed section id: 99")),
    // Custom sections, which mean nothing to the host.
    case("custom-name-no-text", || module(&[custom(b"\xff\xfe", b"")]), Refused("malformed UTF-8")),
    case("custom-unaligned", || with_custom(&[(b"a", b"b"), (b"", b""), (b"ccc", b"\xff\xff\xff")]), FINE),
    case(
        "custom-of-32-mib",
        || [Command::of(&[NOP]).bytes(), custom(b"ballast", &vec![0xa5; 32 << 20])].concat(),
        FINE,
    ),
    case("custom-many", || [Command::of(&[NOP]).bytes(), custom(b"x", b"y").repeat(MANY)].concat(), FINE),
    case("name-section-garbage", || with_custom(&[(b"name", b"\x01\xff\xff\xff\xff\x0fgarbage")]), FINE),
    case(
        "name-section-garbage-and-a-trap",
        || [Command::of(&[0]).bytes(), custom(b"name", &[0x81; 999])].concat(),
        Ends(134, "unreachable"),
    ),
    case(
        "debug-sections-garbage",
        || {
            with_custom(&[
                (b".debug_info", &[0xee; 99]),
                (b".debug_line", b"\x01"),
                (b"producers", b"\xff"),
                (b"dylink.0", b"\x7f"),
            ])
        },
        FINE,
    ),
    // Very many of something.
    case("imports-100000", imports, Refused("imported functions")),
    case(
        "import-with-a-huge-name",
        || {
            module(&[
                types(),
                section(
                    core::IMPORT,
                    &vector(1, |_| [sized(b"env"), sized(&vec![b'x'; 100_000]), vec![0, 0]].concat()),
                ),
            ])
        },
        Refused("import `env::xxxx"),
    ),
    case("imports-1000001", || module(&[types(), section(core::IMPORT, &leb(1_000_001))]), Refused("(at offset 0x")),
    case("types-100000", || Command { types: vector(MANY, |_| vec![0x60, 0, 0]), ..Command::of(&[NOP]) }.bytes(), FINE),
    case(
        "functions-100000",
        || {
            Command {
                functions: vector(MANY, |_| vec![0]),
                code: vector(MANY, |_| function(&[0], &[])),
                ..Command::of(&[NOP])
            }
            .bytes()
        },
        FINE,
    ),
    case(
        "globals-100000",
        || {
            Command {
                middle: vec![section(core::GLOBAL, &vector(MANY, |_| vec![0x7f, 0, 0x41, 0, 0x0b]))],
                ..Command::of(&[NOP])
            }
            .bytes()
        },
        Refused("defined globals"),
    ),
    case("data-100000", data, FINE),
    case(
        "exports-twice",
        || {
            module(&[
                types(),
                section(core::FUNCTION, &[1, 0]),
                section(core::EXPORT, &vector(2, |_| [sized(b"_start"), vec![0, 0]].concat())),
                section(core::CODE, &vector(1, |_| function(&[0], &[]))),
            ])
        },
        Refused("duplicate export name"),
    ),
    case(
        "export-with-a-huge-name",
        || {
            module(&[
                types(),
                section(core::FUNCTION, &[1, 0]),
                section(core::EXPORT, &vector(1, |_| [sized(&vec![b'x'; 100_001]), vec![0, 0]].concat())),
            ])
        },
        Refused("string size out of bounds"),
    ),
    case(
        "locals-50001",
        || {
            Command {
                code: vector(1, |_| function(&[&[1][..], &leb(50_001), &[0x7f]].concat(), &[])),
                ..Command::of(&[])
            }
            .bytes()
        },
        Refused("too many locals"),
    ),
    case("blocks-3000-deep", || deep(0x02), FINE),
    case("loops-3000-deep", || deep(0x03), FINE),
    case("blocks-without-end", || Command::of(&[0x02, 0x40].repeat(MANY)).bytes(), Refused("control frames remain")),
    case("branch-table-of-60000", || branch_table(60_000), FINE),
    case("branch-table-of-100000", || branch_table(MANY), Refused("exceeds the implementation limit of 65520")),
    case("body-of-2-mib", || Command::of(&[0x41, 7, 0x1a].repeat(700_000)).bytes(), FINE),
    case(
        "body-too-long",
        || Command::of(&[NOP].repeat(7_700_000)).bytes(),
        Refused("function body size count exceeds limit"),
    ),
    // Absurd memories and tables.
    case(
        "memory-of-4-gib",
        || b"(module (memory (export \"memory\") 65536) (func (export \"_start\")))".to_vec(),
        Ends(137, "memory limit of the container exceeded"),
    ),
    case(
        "memory-beyond-4-gib",
        || b"(module (memory 65537) (func (export \"_start\")))".to_vec(),
        Refused("memory size must be at most"),
    ),
    case(
        "memory-of-256-tib",
        || b"(module (memory i64 0x100000000) (func (export \"_start\")))".to_vec(),
        Refused("memory"),
    ),
    case(
        "memory-least-above-most",
        || b"(module (memory 2 1) (func (export \"_start\")))".to_vec(),
        Refused("minimum must not be greater than maximum"),
    ),
    case("memory-shared", || b"(module (memory 1 1 shared) (func (export \"_start\")))".to_vec(), Refused("threads")),
    case(
        "memories-50",
        || format!("(module {} (func (export \"_start\")))", "(memory 1)".repeat(50)).into_bytes(),
        Refused("memories"),
    ),
    case(
        "memories-101",
        || format!("(module {} (func (export \"_start\")))", "(memory 1)".repeat(101)).into_bytes(),
        Refused("exceeds limit"),
    ),
    case(
        "table-of-4-gi-elements",
        || b"(module (table 0xffffffff funcref) (func (export \"_start\")))".to_vec(),
        Refused("table"),
    ),
    case(
        "table-of-1-mi-elements",
        || b"(module (table 1000000 funcref) (func (export \"_start\")))".to_vec(),
        Refused("table"),
    ),
    case(
        "tables-50",
        || format!("(module {} (func (export \"_start\")))", "(table 1 funcref)".repeat(50)).into_bytes(),
        Refused("tables"),
    ),
    case(
        "data-outside-the-memory",
        || b"(module (memory 1) (data (i32.const 65530) \"too long\") (func (export \"_start\")))".to_vec(),
        Ends(134, "out of bounds memory access"),
    ),
    case(
        "elements-outside-the-table",
        || b"(module (table 1 funcref) (func $f (export \"_start\")) (elem (i32.const 1) $f))".to_vec(),
        Ends(134, "out of bounds table access"),
    ),
    // Programs that do not end, or not as they should.
    case(
        "start-without-end",
        || b"(module (func $s (loop br 0)) (start $s) (func (export \"_start\")))".to_vec(),
        Runs,
    ),
    case("command-without-end", || b"(module (func (export \"_start\") (loop br 0)))".to_vec(), Runs),
    case("initialize-without-end", || b"(module (func (export \"_initialize\") (loop br 0)))".to_vec(), Runs),
    case(
        "start-traps",
        || b"(module (func $s unreachable) (start $s) (func (export \"_start\")))".to_vec(),
        Ends(134, "unreachable"),
    ),
    case(
        "recursion-without-end",
        || b"(module (func $r (export \"_start\") call $r))".to_vec(),
        Ends(134, "call stack exhausted"),
    ),
    case(
        "start-with-a-parameter",
        || b"(module (func (export \"_start\") (param i32)))".to_vec(),
        Refused("exports no function `_start`"),
    ),
    case(
        "start-is-a-memory",
        || b"(module (memory (export \"_start\") 1))".to_vec(),
        Refused("exports no function `_start`"),
    ),
    case(
        "type-mismatch",
        || b"(module (func (export \"_start\") (result i32) i64.const 1))".to_vec(),
        Refused("type mismatch"),
    ),
    case("unknown-opcode", || Command::of(&[0xff, 0xff]).bytes(), Refused("illegal opcode")),
    // Imports that are not what they are called.
    case(
        "import-of-another-type",
        || {
            b"(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64))) (func (export \"_start\")))"
                .to_vec()
        },
        Refused("proc_exit"),
    ),
    case(
        "import-of-a-memory",
        || b"(module (import \"wasi_snapshot_preview1\" \"memory\" (memory 1)) (func (export \"_start\")))".to_vec(),
        Refused("import `wasi_snapshot_preview1::memory` is not provided"),
    ),
    case(
        "import-of-threads",
        || {
            b"(module (import \"wasi\" \"thread-spawn\" (func (param i32) (result i32))) (func (export \"_start\")))"
                .to_vec()
        },
        Refused("threads are not supported"),
    ),
    case("wit-newer", || wit("wasi:cli/environment@0.9.0", ""), Refused("is wanted in version 0.9.0, offered is 0.2.")),
    case(
        "wit-of-another-type",
        || wit("wasi:cli/environment@0.2.0", "(export \"get-environment\" (func (result u32)))"),
        Refused("get-environment"),
    ),
    case(
        "wit-of-a-function-too-many",
        || wit("wasi:cli/environment@0.2.0", "(export \"set-environment\" (func))"),
        Refused("set-environment"),
    ),
    case(
        "wit-unknown",
        || wit("acme:billing/ledger@1.2.0", ""),
        Refused("import `acme:billing/ledger@1.2.0` is not provided"),
    ),
    case(
        "run-of-another-type",
        || {
            b"(component (core module $m (func (export \"f\") (result i32) i32.const 0)) (core instance $i (instantiate $m)) (func $f (result u32) (canon lift (core func $i \"f\"))) (instance $r (export \"run\" (func $f))) (export \"wasi:cli/run@0.2.0\" (instance $r)))".to_vec()
        },
        Refused("`run` of `wasi:cli/run` is not of the type"),
    ),
    case(
        "run-without-run",
        || b"(component (instance $r) (export \"wasi:cli/run@0.2.0\" (instance $r)))".to_vec(),
        Refused("run"),
    ),
    case(
        "handler-without-handle",
        || b"(component (instance $r) (export \"wasi:http/incoming-handler@0.2.0\" (instance $r)))".to_vec(),
        Refused("handle"),
    ),
    // Components beyond measure.
    case("components-nested-10", || nested(10), Refused("the component exports no `wasi:http")),
    case("components-nested-100000", || nested(MANY), Refused("")),
    case("component-types-nested-100000", || nested_types(MANY), Refused("")),
    case("component-imports-100000", component_imports, Refused("")),
    case("component-type-bomb", type_bomb, Refused("effective type size exceeds the limit")),
    case("component-instances-500", instances, Refused("")),
];

const CUT: Fate = Refused("the file is truncated or damaged");
const NATIVE: Fate = Refused("native or precompiled code, which is never accepted");
const FINE: Fate = Ends(0, "");

/// What wasmtime itself would load without a question.
fn precompiled() -> Vec<u8> {
    let engine = wasmtime::Engine::default();
    engine.precompile_module(b"(module (func (export \"_start\")))").expect("compiled")
}

fn branch_table(targets: usize) -> Vec<u8> {
    let body = [vec![0x02, 0x40, 0x41, 0, 0x0e], leb(targets as u64), vec![0; targets + 1], vec![0x0b]];
    Command::of(&body.concat()).bytes()
}

/// The compiler's time grows with the square of the depth; some tens of times as deep, its limit of processor
/// time is what ends it.
fn deep(opening: u8) -> Vec<u8> {
    const DEPTH: usize = 3_000;
    Command::of(&[[opening, 0x40].repeat(DEPTH), vec![0x0b; DEPTH]].concat()).bytes()
}

fn types() -> Vec<u8> {
    section(core::TYPE, &vector(1, |_| vec![0x60, 0, 0]))
}

fn with_custom(sections: &[(&[u8], &[u8])]) -> Vec<u8> {
    let customs: Vec<u8> = sections.iter().flat_map(|(name, content)| custom(name, content)).collect();
    // Before, between and behind what counts.
    let command = Command { middle: vec![customs.clone()], ..Command::of(&[NOP]) }.bytes();
    [MODULE.to_vec(), customs.clone(), command[MODULE.len()..].to_vec(), customs].concat()
}

fn imports() -> Vec<u8> {
    let import = |number: usize| [sized(b"env"), sized(format!("f{number}").as_bytes()), vec![0, 0]].concat();
    module(&[types(), section(core::IMPORT, &vector(MANY, import))])
}

fn data() -> Vec<u8> {
    let command = Command { middle: vec![section(core::MEMORY, &[1, 0, 1])], ..Command::of(&[NOP]) }.bytes();
    [command, section(core::DATA, &vector(MANY, |_| vec![0, 0x41, 0, 0x0b, 1, 7]))].concat()
}

/// A command that imports an instance with these exports.
fn wit(import: &str, exports: &str) -> Vec<u8> {
    format!(
        "(component (import \"{import}\" (instance {exports})) (core module $m (func (export \"f\") (result i32) i32.const 0)) \
         (core instance $i (instantiate $m)) (func $f (result (result)) (canon lift (core func $i \"f\"))) \
         (instance $r (export \"run\" (func $f))) (export \"wasi:cli/run@0.2.0\" (instance $r)))"
    )
    .into_bytes()
}

/// Functions of no type are enough: the names alone are too many.
fn component_imports() -> Vec<u8> {
    let function = section(super::bytes::COMPONENT_TYPE, &[1, 0x40, 0, 1, 0]);
    let import = |number: usize| [vec![0], sized(format!("f{number}").as_bytes()), vec![1, 0]].concat();
    component(&[function, section(COMPONENT_IMPORT, &vector(MANY, import))])
}

/// Each type is a tuple of ten of the one before.
fn type_bomb() -> Vec<u8> {
    let mut text = "(component (type $t0 u8)".to_owned();
    for number in 1..30 {
        let ten = format!(" $t{}", number - 1).repeat(10);
        text.push_str(&format!("(type $t{number} (tuple {ten}))"));
    }
    text.push_str("(import \"f\" (func (param \"p\" $t29))))");
    text.into_bytes()
}

fn instances() -> Vec<u8> {
    let many = "(core instance (instantiate $n))".repeat(500);
    format!(
        "(component (core module $n (memory 1)) {many} (core module $m (func (export \"f\") (result i32) i32.const 0)) \
         (core instance $i (instantiate $m)) (func $f (result (result)) (canon lift (core func $i \"f\"))) \
         (instance $r (export \"run\" (func $f))) (export \"wasi:cli/run@0.2.0\" (instance $r)))"
    )
    .into_bytes()
}
