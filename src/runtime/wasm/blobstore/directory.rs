//! Containers and objects as directories and files.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};

use super::super::place::{Directory, Place};
use super::{MAX_VALUE_BYTES, Result};

/// As the system has it.
const MAX_FILE_NAME_BYTES: usize = 255;
/// Objects in one listing.
const MAX_LISTED: usize = 100_000;

/// What is known of a container or an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Seconds since 1970: when it last came to be as it is.
    pub created_at: u64,
    pub size: u64,
}

pub struct Blobs {
    place: Place,
}

impl Blobs {
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    pub fn create(&self, container: &str) -> Result<()> {
        if self.exists(container)? {
            return Err(format!("there is a container {container:?} already"));
        }
        let root = self.root()?;
        root.subdirectory(&file_name(container)?, true).map(drop).map_err(|error| failed("make", container, &error))
    }

    pub fn exists(&self, container: &str) -> Result<bool> {
        present(self.root()?.subdirectory(&file_name(container)?, false))
            .map(|found| found.is_some())
            .map_err(|error| failed("look for", container, &error))
    }

    pub fn container(&self, container: &str) -> Result<About> {
        let directory = self.open(container)?;
        let listed = listing(&directory).map_err(|error| failed("look at", container, &error))?;
        let stat = rustix::fs::fstat(listed.fd().map_err(|error| failed("look at", container, &error.into()))?);
        let stat = stat.map_err(|error| failed("look at", container, &error.into()))?;
        Ok(About { created_at: u64::try_from(stat.st_mtime).unwrap_or(0), size: 0 })
    }

    /// Removes it with all its objects; one that is not there is no failure.
    pub fn delete(&self, container: &str) -> Result<()> {
        if !self.exists(container)? {
            return Ok(());
        }
        self.clear(container)?;
        let removed = unlinkat(self.root()?.as_fd(), file_name(container)?, AtFlags::REMOVEDIR);
        removed.map_err(|error| failed("remove", container, &error.into()))
    }

    pub fn clear(&self, container: &str) -> Result<()> {
        let names = self.names(container)?;
        self.remove(container, &names)
    }

    /// In the order of their names.
    pub fn names(&self, container: &str) -> Result<Vec<String>> {
        let directory = self.open(container)?;
        let mut names = Vec::new();
        for entry in listing(&directory).map_err(|error| failed("list", container, &error))? {
            let entry = entry.map_err(|error| failed("list", container, &error.into()))?;
            // A name that stands for no object is a file of somebody else's.
            let name = entry.file_name().to_str().ok().and_then(object_name);
            names.extend(name.filter(|_| entry.file_type() == rustix::fs::FileType::RegularFile));
            if names.len() > MAX_LISTED {
                return Err(format!("container {container:?} has more than {MAX_LISTED} objects"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// `None`: there is no such object.
    pub fn object(&self, container: &str, object: &str) -> Result<Option<About>> {
        let file = present(self.open(container)?.file(&file_name(object)?, OFlags::RDONLY));
        let about = file.and_then(|file| file.map(|file| file.metadata()).transpose());
        let about = about.map_err(|error| failed("look at", object, &error))?;
        Ok(about.map(|about| {
            let changed = about.modified().unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH);
            About { created_at: changed.map_or(0, |since| since.as_secs()), size: about.len() }
        }))
    }

    /// The bytes from `start` to `end`, both included, as far as there are any.
    pub fn read(&self, container: &str, object: &str, start: u64, end: u64) -> Result<Vec<u8>> {
        let mut file = self.file(container, object)?;
        let size = file.metadata().map_err(|error| failed("read", object, &error))?.len();
        let length = end.saturating_add(1).min(size).saturating_sub(start);
        if length > MAX_VALUE_BYTES as u64 {
            return Err(format!(
                "{length} bytes of {object:?} are too many: at most {MAX_VALUE_BYTES} are read at a time"
            ));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.take(length).read_to_end(&mut bytes));
        read.map_err(|error| failed("read", object, &error))?;
        Ok(bytes)
    }

    /// Whole when this returns, in the place of what was there.
    pub fn write(&self, container: &str, object: &str, bytes: &[u8]) -> Result<()> {
        self.put(container, object, |file| file.write_all(bytes))
    }

    /// Those that are not there are no failure.
    pub fn remove(&self, container: &str, objects: &[String]) -> Result<()> {
        let directory = self.open(container)?;
        for object in objects {
            match unlinkat(directory.as_fd(), file_name(object)?, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(failed("remove", object, &error.into())),
            }
        }
        Ok(())
    }

    /// From a container and object to another.
    pub fn copy(&self, from: (&str, &str), to: (&str, &str)) -> Result<()> {
        let mut source = self.file(from.0, from.1)?;
        self.put(to.0, to.1, |file| io::copy(&mut source, file).map(drop))
    }

    pub fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<()> {
        let (source, target) = (self.open(from.0)?, self.open(to.0)?);
        let renamed = renameat(source.as_fd(), file_name(from.1)?, target.as_fd(), file_name(to.1)?);
        renamed.map_err(|error| failed("move", from.1, &error.into()))
    }

    fn root(&self) -> Result<Directory> {
        self.place.directory().map_err(|error| format!("cannot open the blob store's directory: {error}"))
    }

    fn open(&self, container: &str) -> Result<Directory> {
        match present(self.root()?.subdirectory(&file_name(container)?, false)) {
            Ok(Some(directory)) => Ok(directory),
            Ok(None) => Err(format!("there is no container {container:?}")),
            Err(error) => Err(failed("open", container, &error)),
        }
    }

    fn file(&self, container: &str, object: &str) -> Result<File> {
        match present(self.open(container)?.file(&file_name(object)?, OFlags::RDONLY)) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(format!("container {container:?} has no object {object:?}")),
            Err(error) => Err(failed("read", object, &error)),
        }
    }

    fn put(&self, container: &str, object: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let directory = self.open(container)?;
        let name = file_name(object)?;
        // No object's file begins with a dot.
        let temporary = format!(".writing-{}", uuid::Uuid::new_v4());
        let written = directory
            .file(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .and_then(|mut file| fill(&mut file).and_then(|()| file.sync_data()))
            .and_then(|()| Ok(renameat(directory.as_fd(), &temporary, directory.as_fd(), &name)?));
        written.map_err(|error| {
            let _ = unlinkat(directory.as_fd(), &temporary, AtFlags::empty());
            failed("write", object, &error)
        })
    }
}

fn listing(directory: &Directory) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(openat(directory.as_fd(), ".", flags, Mode::empty())?)?)
}

fn failed(what: &str, name: &str, error: &io::Error) -> String {
    format!("cannot {what} {name:?}: {error}")
}

/// What is not there is `None`.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file of a container or an object: its name, but for what a file's name cannot have, and for a dot in
/// front, which could lead up or hide it.
fn file_name(name: &str) -> Result<String> {
    let mut file = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        match letter {
            '/' | '%' | '\0'..='\x1f' | '\x7f' => file.push_str(&format!("%{:02X}", u32::from(letter))),
            '.' if at == 0 => file.push_str("%2E"),
            letter => file.push(letter),
        }
    }
    match file.len() {
        0 => Err("a name must not be empty".to_owned()),
        1..=MAX_FILE_NAME_BYTES => Ok(file),
        _ => Err(format!("the name {name:?} is too long for a file's")),
    }
}

/// `None`: no object has such a file.
fn object_name(file: &str) -> Option<String> {
    let name = percent_decode_str(file).decode_utf8().ok()?.into_owned();
    (file_name(&name).as_deref() == Ok(file)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::super::super::Mount;
    use super::*;

    fn store(dir: &tempfile::TempDir) -> Blobs {
        let mount = Mount::new(dir.path(), "/data", false);
        Blobs::new(Place::of("blob store", "/data/blobs", &[mount]).expect("a place"))
    }

    #[test]
    fn objects_come_and_go_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = store(&dir);
        assert_eq!((blobs.exists("a"), blobs.delete("a")), (Ok(false), Ok(())));
        assert!(blobs.names("a").is_err_and(|why| why.contains("no container \"a\"")));
        blobs.create("a").expect("made");
        assert!(blobs.create("a").is_err_and(|why| why.contains("already")));
        for (name, bytes) in [("z/../x", "one"), ("..", "two"), ("plain.txt", "hello there")] {
            blobs.write("a", name, bytes.as_bytes()).expect("written");
        }
        assert_eq!(blobs.names("a").expect("names"), ["..", "plain.txt", "z/../x"]);
        assert_eq!(std::fs::read(dir.path().join("blobs/a/plain.txt")).expect("a file"), b"hello there");
        assert_eq!(blobs.read("a", "plain.txt", 6, 8).as_deref(), Ok(&b"the"[..]));
        assert_eq!(blobs.read("a", "plain.txt", 6, u64::MAX).as_deref(), Ok(&b"there"[..]));
        assert_eq!(blobs.read("a", "plain.txt", 99, 100).as_deref(), Ok(&b""[..]));
        assert!(blobs.read("a", "none", 0, 1).is_err_and(|why| why.contains("no object \"none\"")));
        let about = blobs.object("a", "plain.txt").expect("looked").expect("there");
        assert!(about.size == 11 && about.created_at > 1_500_000_000 && blobs.container("a").is_ok());
        assert_eq!(blobs.object("a", "none"), Ok(None));

        blobs.create("b").expect("made");
        blobs.copy(("a", "plain.txt"), ("b", "copy")).expect("copied");
        blobs.rename(("a", ".."), ("b", "moved")).expect("moved");
        assert_eq!(blobs.names("b").expect("names"), ["copy", "moved"]);
        assert_eq!(blobs.names("a").expect("names"), ["plain.txt", "z/../x"]);
        assert!(blobs.copy(("a", "plain.txt"), ("c", "x")).is_err());
        blobs.remove("b", &["copy".to_owned(), "never".to_owned()]).expect("removed");
        blobs.delete("b").expect("removed");
        assert_eq!(blobs.exists("b"), Ok(false));
    }

    #[test]
    fn a_guests_own_links_and_files_lead_nowhere() {
        let (dir, outside) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let blobs = store(&dir);
        blobs.create("a").expect("made");
        std::fs::write(outside.path().join("secret"), "s").expect("written");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("blobs/out")).expect("a link");
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("blobs/a/s")).expect("a link");
        assert!(blobs.names("out").is_err() && blobs.write("out", "x", b"x").is_err());
        assert!(blobs.read("a", "s", 0, 9).is_err() && blobs.names("a") == Ok(Vec::new()));
        blobs.write("a", "s", b"new").expect("in the place of the link");
        assert_eq!(std::fs::read(outside.path().join("secret")).expect("still there"), b"s");
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn every_name_has_a_file_of_its_own(name in ".{1,20}") {
            let file = file_name(&name).expect("short enough");
            proptest::prop_assert!(!file.contains('/') && !file.starts_with('.'));
            proptest::prop_assert_eq!(object_name(&file), Some(name));
        }
    }
}
