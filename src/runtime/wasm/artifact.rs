//! From a file's bytes to what they are, with a plain word for everything they might be instead.
//!
//! The first bytes tell modules from components, and what a component does with its functions whether it
//! is one of WASI 0.3; whether the code is valid is the compiler's to say. Code that was compiled ahead
//! of time is never accepted from outside: loading it means trusting it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest, Sha256};
use wasmparser::{CanonicalFunction, CanonicalOption, Parser, Payload};

use super::super::{ImageError, ImageSource};
use super::engine::Calls;
use super::life::bounded;
use super::snapshot;

/// The largest module read. Real ones have a few MiB; compiling takes memory of many times the size.
pub const MAX_MODULE_BYTES: u64 = 128 << 20;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// A core module (WASI 0.1).
    Module,
    /// A component (WASI 0.2).
    Component,
    /// A component whose calls may be suspended for each other (WASI 0.3).
    Concurrent,
}

impl Form {
    /// The engine that it is for.
    pub fn calls(self) -> Calls {
        match self {
            Self::Module | Self::Component => Calls::Alone,
            Self::Concurrent => Calls::Concurrent,
        }
    }
}

/// Reads the file, checks that it is the one that was named, and says what it is.
pub fn read(path: &Path, reference: &str, digest: &str) -> Result<(Vec<u8>, Form), ImageError> {
    let unreadable = |source| ImageError::Unreadable { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut bytes = Vec::new();
    if length <= MAX_MODULE_BYTES {
        // The file may grow while it is read; the bound holds all the same.
        file.by_ref().take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if length.max(bytes.len() as u64) > MAX_MODULE_BYTES {
        return Err(invalid(reference, format!("it has {length} bytes; at most {MAX_MODULE_BYTES} are taken")));
    }
    let found = digest_of(&bytes);
    if digest != found {
        return Err(invalid(reference, format!("the file changed: expected digest {digest}, found {found}")));
    }
    let form = form_of(&bytes).map_err(|why| invalid(reference, why))?;
    Ok((bytes, form))
}

/// What is compiled for this source: the module as it is, or as its initialisation leaves it.
pub fn read_to_run(source: &ImageSource) -> Result<(Vec<u8>, Form), ImageError> {
    let (bytes, form) = read(&source.path, &source.reference, &source.digest)?;
    if !source.snapshot {
        return Ok((bytes, form));
    }
    let bytes = snapshot::initialised(&bytes, form).map_err(|why| invalid(&source.reference, why))?;
    Ok((bytes, form))
}

/// As [`classify`], and components of WASI 0.3 told apart.
pub fn form_of(bytes: &[u8]) -> Result<Form, String> {
    let form = classify(bytes)?;
    if form == Form::Module {
        return Ok(form);
    }
    // What cannot be read the compiler will complain about, in its own words.
    let concurrent = wat::parse_bytes(bytes).is_ok_and(|binary| is_concurrent(&binary).unwrap_or(false));
    Ok(if concurrent { Form::Concurrent } else { form })
}

/// Whether a component, or one within it, speaks of WASI 0.3 or uses what only that has: functions that
/// are lifted or lowered as asynchronous, streams, futures, tasks.
fn is_concurrent(binary: &[u8]) -> wasmparser::Result<bool> {
    let of_wasi_3 = |name: &str| name.starts_with("wasi:") && name.contains("@0.3.");
    for payload in Parser::new(0).parse_all(binary) {
        let found = match payload? {
            Payload::ComponentImportSection(section) => {
                section.into_iter().any(|import| import.is_ok_and(|import| of_wasi_3(import.name.name)))
            }
            Payload::ComponentExportSection(section) => {
                section.into_iter().any(|export| export.is_ok_and(|export| of_wasi_3(export.name.name)))
            }
            Payload::ComponentCanonicalSection(section) => {
                section.into_iter().any(|function| function.is_ok_and(|function| suspends(&function)))
            }
            _ => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn suspends(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(|option| matches!(option, CanonicalOption::Async))
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

/// `sha256:…` of some bytes, as images are named.
pub fn digest_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The error for an image that is no use, naming it. A module may have names of any length.
pub fn invalid(reference: &str, why: impl std::fmt::Display) -> ImageError {
    ImageError::Invalid(bounded(format!("image {reference:?} cannot run: {why}")))
}

/// What the bytes are, or in plain words why they are not WebAssembly.
pub fn classify(bytes: &[u8]) -> Result<Form, String> {
    if let Some(binary) = bytes.strip_prefix(b"\0asm") {
        return classify_binary(binary);
    }
    if let Some(form) = text_form(bytes) {
        return Ok(form);
    }
    Err(match bytes {
        [] => "the file is empty".to_owned(),
        _ if b"\0asm".starts_with(bytes) => truncated(bytes.len()),
        [0x7f, b'E', b'L', b'F', ..] => {
            "it is native or precompiled code, which is never accepted; give the .wasm file it was made from".to_owned()
        }
        [0x1f, 0x8b, ..] => "it is gzip-compressed; give the .wasm file itself".to_owned(),
        [b'P', b'K', 3, 4, ..] => "it is a zip archive; give the .wasm file itself".to_owned(),
        [b'#', b'!', ..] => "it is a script, not WebAssembly".to_owned(),
        _ => {
            let head: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("it is not WebAssembly: it begins with {}, not with 00 61 73 6d (\"\\0asm\")", head.join(" "))
        }
    })
}

/// After the magic number come a version and, in components, a layer.
fn classify_binary(rest: &[u8]) -> Result<Form, String> {
    match rest {
        [1, 0, 0, 0, ..] => Ok(Form::Module),
        [0x0d, 0, 1, 0, ..] => Ok(Form::Component),
        [version, _, 1, 0, ..] => {
            Err(format!("it is a component of the unreleased format {version}; rebuild it with current tools"))
        }
        [version, ..] if rest.len() >= 4 => Err(format!("it is WebAssembly of the unknown version {version}")),
        _ => Err(truncated(rest.len() + 4)),
    }
}

fn truncated(length: usize) -> String {
    format!("the file is truncated: it ends after {length} bytes")
}

/// The text format: its first form, past blanks and comments, is a module or a component.
fn text_form(bytes: &[u8]) -> Option<Form> {
    let mut text = std::str::from_utf8(bytes).ok()?;
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix(";;") {
            text = comment.split_once('\n')?.1;
        } else if let Some(comment) = text.strip_prefix("(;") {
            text = comment.split_once(";)")?.1;
        } else {
            break;
        }
    }
    let form = text.strip_prefix('(')?.trim_start();
    if form.starts_with("component") {
        return Some(Form::Component);
    }
    form.starts_with("module").then_some(Form::Module)
}

/// The compiler's complaint in fewer words, the truncated file singled out.
pub fn explain_compile_error(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    if text.contains("unexpected end") || text.contains("is out of bounds (bound") {
        return format!("the file is truncated or damaged: {text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_recognised_or_explained() {
        let ok: &[(&[u8], Form)] = &[
            (b"\0asm\x01\0\0\0", Form::Module),
            (b"\0asm\x0d\0\x01\0", Form::Component),
            (b"  ;; comment\n (; block ;) (module)", Form::Module),
            (b"( component )", Form::Component),
        ];
        for (bytes, form) in ok {
            assert_eq!(classify(bytes), Ok(*form), "{bytes:?}");
        }
        let bad: &[(&[u8], &str)] = &[
            (b"", "the file is empty"),
            (b"\0as", "the file is truncated: it ends after 3 bytes"),
            (b"\0asm\x01", "the file is truncated: it ends after 5 bytes"),
            (b"\0asm\x02\0\0\0", "unknown version 2"),
            (b"\0asm\x0a\0\x01\0", "unreleased format 10"),
            (b"\x7fELF\x02", "precompiled code, which is never accepted"),
            (b"\x1f\x8b\x08", "gzip-compressed"),
            (b"PK\x03\x04", "zip archive"),
            (b"#!/bin/sh\n", "a script"),
            (b"<html>", "it begins with 3c 68 74 6d"),
            (b";; only a comment", "not WebAssembly"),
        ];
        for (bytes, part) in bad {
            let why = classify(bytes).unwrap_err();
            assert!(why.contains(part), "{bytes:?}: {why}");
        }
    }

    #[test]
    fn components_of_wasi_3_are_told_apart() {
        let forms = [
            ("(module)", Form::Module),
            ("(component)", Form::Component),
            ("(component (import \"wasi:cli/stdin@0.2.3\" (instance)))", Form::Component),
            ("(component (import \"wasi:cli/stdin@0.3.0\" (instance)))", Form::Concurrent),
            ("(component (component (instance $i) (export \"wasi:cli/run@0.3.0\" (instance $i))))", Form::Concurrent),
            ("(component (core func (canon task.cancel)))", Form::Concurrent),
            ("(component (this is an error))", Form::Component),
        ];
        for (text, form) in forms {
            assert_eq!(form_of(text.as_bytes()), Ok(form), "{text}");
        }
        assert_eq!((Form::Module.calls(), Form::Concurrent.calls()), (Calls::Alone, Calls::Concurrent));
    }

    #[test]
    fn a_file_that_is_not_the_one_named_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.wat");
        std::fs::write(&path, "(module)").unwrap();
        assert!(read(&path, "m:1", &digest_of(b"(module)")).is_ok());
        let error = read(&path, "m:1", "sha256:00").unwrap_err().to_string();
        assert!(error.contains("image \"m:1\" cannot run: the file changed"), "{error}");
        assert!(matches!(read(&dir.path().join("no"), "m:1", ""), Err(ImageError::Unreadable { .. })));

        let huge = dir.path().join("huge.wasm");
        File::create(&huge).unwrap().set_len(MAX_MODULE_BYTES + 1).unwrap();
        let error = read(&huge, "m:1", "").unwrap_err().to_string();
        assert!(error.contains("at most 134217728 are taken"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = classify(&bytes);
        }
    }
}
