//! Holds the rooms of `src/` against the table of what each may import, and finds files that no module
//! declaration reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may name. `src/lib.rs` shows the same table to readers.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("cel", &[]),
    ("kinds", &["cel"]),
    ("store", &[]),
    ("oci", &[]),
    ("telemetry", &[]),
    ("client", &[]),
    ("apiserver", &["cel", "kinds", "store", "telemetry"]),
    ("reconcile", &["client", "telemetry"]),
    ("controllers", &["reconcile", "kinds"]),
    ("scheduler", &["reconcile", "kinds"]),
    ("runtime", &["wire"]),
    ("network", &["wire", "kinds"]),
    ("node", &["reconcile", "runtime", "network", "kinds", "wire", "client", "oci", "telemetry"]),
    ("app", EVERY_ROOM),
    ("cli", EVERY_ROOM),
];

const EVERY_ROOM: &[&str] = &[
    "wire",
    "cel",
    "kinds",
    "store",
    "oci",
    "telemetry",
    "client",
    "apiserver",
    "reconcile",
    "controllers",
    "scheduler",
    "runtime",
    "network",
    "node",
    "app",
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The room that a file belongs to: the first part of its path below `src`.
fn room_of(file: &Path) -> String {
    let below = file.strip_prefix(sources()).expect("a file below src");
    let first = below.components().next().expect("a path").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The part of a file that is the program: test modules may use what they like from below `app`.
fn program(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// Every room that a text names by `crate::`, also in `use crate::{a, b}`.
fn named_rooms(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    for part in code.split("crate::").skip(1) {
        let names = part.strip_prefix('{').map_or(part, |list| list.split('}').next().unwrap_or_default());
        let take = if part.starts_with('{') { usize::MAX } else { 1 };
        for name in names.split(',').take(take) {
            let word: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            rooms.insert(word);
        }
    }
    rooms
}

#[test]
fn rooms_import_only_what_their_row_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut violations = Vec::new();
    for file in rust_files(&sources()) {
        let room = room_of(&file);
        if room == "lib" || room == "main" || file.ends_with("tests.rs") {
            continue;
        }
        let allowed = table.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no row in MAY_IMPORT"));
        let text = fs::read_to_string(&file).expect("a readable file");
        for named in named_rooms(program(&text)) {
            let is_room = table.contains_key(named.as_str());
            if is_room && named != room && !allowed.contains(&named.as_str()) {
                violations.push(format!("{}: {room} may not import {named}", file.display()));
            }
        }
    }
    assert!(violations.is_empty(), "move the code or change the table in lib.rs and here:\n{}", violations.join("\n"));
}

#[test]
fn every_file_is_reached_by_a_mod_declaration() {
    let mut orphans = Vec::new();
    for file in rust_files(&sources()) {
        let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
        if stem == "lib" || stem == "main" {
            continue;
        }
        let dir = file.parent().expect("a directory");
        let (name, owner_dir) = if stem == "mod" {
            (dir.file_name().expect("a name").to_string_lossy().into_owned(), dir.parent().expect("a parent"))
        } else {
            (stem, dir)
        };
        let owners = [owner_dir.join("mod.rs"), owner_dir.join("lib.rs"), owner_dir.with_extension("rs")];
        let declared = owners.iter().filter_map(|owner| fs::read_to_string(owner).ok()).any(|text| {
            text.lines().any(|line| {
                let line = line.trim();
                line.ends_with(&format!("mod {name};")) && !line.starts_with("//")
            })
        });
        if !declared {
            orphans.push(file.display().to_string());
        }
    }
    assert!(orphans.is_empty(), "nothing declares these files:\n{}", orphans.join("\n"));
}

#[test]
fn every_room_opens_with_an_essay() {
    for (room, _) in MAY_IMPORT {
        let dir = sources().join(room);
        let file = if dir.is_dir() { dir.join("mod.rs") } else { dir.with_extension("rs") };
        let text = fs::read_to_string(&file).expect("a readable file");
        let essay = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(essay >= 4, "{} opens with {essay} lines of essay; say what the room owns and refuses", file.display());
    }
}
