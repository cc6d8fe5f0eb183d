//! Making archives.

use std::io::{self, Read, Write};

use rustix::fs::FileType;
use tar::{Builder, EntryType, Header};

use super::super::Session;
use super::super::view::{Facts, join, parts};
use super::{Ends, Job};

/// Directories in directories that are followed; what a guest can nest deeper is left out, with a word.
const MAX_DEPTH: usize = 128;

/// Puts the job's paths into an archive.
pub fn create(session: &mut Session, job: &Job, file: Option<&mut std::fs::File>) -> io::Result<i32> {
    let mut packer = Packer { builder: Builder::new(Ends { session, file }), job, code: 0 };
    for path in &job.paths {
        // As everywhere, names in an archive are relative.
        let name = parts(path).join("/");
        packer.add(&job.path(path), if name.is_empty() { "." } else { &name }, 0)?;
    }
    packer.builder.finish()?;
    Ok(packer.code)
}

struct Packer<'a> {
    builder: Builder<Ends<'a>>,
    job: &'a Job,
    code: i32,
}

impl Packer<'_> {
    fn session(&mut self) -> &mut Session {
        self.builder.get_mut().session
    }

    fn blame(&mut self, path: &str, error: &io::Error) -> io::Result<()> {
        self.code = self.session().blame(path, error)?;
        Ok(())
    }

    fn add(&mut self, path: &str, name: &str, depth: usize) -> io::Result<()> {
        // A link that is named itself is followed: files of ConfigMaps are links, and to copy one is to want what
        // is behind it.
        let facts = match self.session().view.facts(path, depth == 0) {
            Ok(facts) => facts,
            Err(error) => return self.blame(path, &error),
        };
        if self.job.verbose {
            writeln!(self.session().stderr, "{name}")?;
        }
        match facts.kind {
            FileType::Directory => self.add_dir(path, name, &facts, depth),
            FileType::RegularFile => match self.session().view.open(path) {
                Ok(file) => self.add_file(file, name, &facts),
                Err(error) => self.blame(path, &error),
            },
            FileType::Symlink => match self.session().view.read_link(path) {
                Ok(target) => {
                    let mut header = header(EntryType::Symlink, &facts, 0);
                    self.builder.append_link(&mut header, name, target)
                }
                Err(error) => self.blame(path, &error),
            },
            _ => self.blame(path, &io::Error::other("neither a file, a directory nor a link; left out")),
        }
    }

    fn add_dir(&mut self, path: &str, name: &str, facts: &Facts, depth: usize) -> io::Result<()> {
        if depth >= MAX_DEPTH {
            return self.blame(path, &io::Error::other(format!("nested deeper than {MAX_DEPTH}; left out")));
        }
        let mut header = header(EntryType::Directory, facts, 0);
        self.builder.append_data(&mut header, format!("{name}/"), io::empty())?;
        let names = match self.session().view.list(path) {
            Ok(names) => names,
            Err(error) => return self.blame(path, &error),
        };
        for child in names {
            self.add(&join(path, &child), &join(name, &child), depth + 1)?;
        }
        Ok(())
    }

    fn add_file(&mut self, file: std::fs::File, name: &str, facts: &Facts) -> io::Result<()> {
        let size = file.metadata().map_or(facts.size, |metadata| metadata.len());
        let mut header = header(EntryType::Regular, facts, size);
        // The header has promised a length: a file that shrinks meanwhile is filled up, one that grows is cut.
        let exactly = file.take(size).chain(io::repeat(0)).take(size);
        self.builder.append_data(&mut header, name, exactly)
    }
}

fn header(kind: EntryType, facts: &Facts, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(facts.mode & 0o777);
    header.set_mtime(u64::try_from(facts.modified).unwrap_or(0));
    header
}
