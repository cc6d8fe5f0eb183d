//! Images that are files of this machine: which file a reference means, and what may have been meant by
//! one that means none.

use std::path::{Path, PathBuf};

use super::reference::{Reference, near_misses};

/// How many files are looked at for a near miss; the directory may be anything.
const MAX_LISTED: usize = 2000;

/// The images directories.
pub struct LocalImages {
    /// Looked through in order; the first that has the file wins.
    dirs: Vec<PathBuf>,
}

impl LocalImages {
    pub fn new(dirs: Vec<PathBuf>) -> LocalImages {
        LocalImages { dirs }
    }

    /// The file that the reference means.
    pub fn find(&self, reference: &Reference) -> Option<PathBuf> {
        let candidates = reference.candidates();
        let mut paths = self.dirs.iter().flat_map(|dir| candidates.iter().map(|relative| dir.join(relative)));
        paths.find(|path| path.is_file())
    }

    /// That there is no such file, where it was looked for, and what there is instead.
    pub fn missing(&self, reference: &Reference) -> String {
        let hint = self.near(reference).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let looked = reference.candidates().into_iter().rev().find(|path| path.ends_with(last_file(reference)));
        let example = looked.unwrap_or_default();
        let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        format!("no such file below {} (for example {}){hint}", dirs.join(" or "), example.display())
    }

    /// Images whose names are nearly the wanted one.
    pub fn near(&self, reference: &Reference) -> Option<String> {
        let known: Vec<String> = self.dirs.iter().flat_map(|dir| listed(dir)).collect();
        let near = near_misses(reference, &known);
        (!near.is_empty()).then(|| near.join(" or "))
    }
}

fn last_file(reference: &Reference) -> PathBuf {
    let short = reference.name.rsplit('/').next().unwrap_or_default();
    PathBuf::from(format!("{short}/{}.wasm", reference.tag))
}

/// The images of the directory, as `name:tag`.
fn listed(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut dirs = vec![(dir.to_owned(), String::new())];
    while let Some((dir, prefix)) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && prefix.matches('/').count() < 3 {
                dirs.push((entry.path(), format!("{prefix}{name}/")));
            } else if let Some(stem) = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".wat")) {
                names.push(match prefix.strip_suffix('/') {
                    Some(image) => format!("{image}:{stem}"),
                    None => format!("{stem}:latest"),
                });
            }
            if names.len() >= MAX_LISTED {
                return names;
            }
        }
    }
    names
}
