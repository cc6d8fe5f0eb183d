//! Compiled code on disk, so that a node that starts again compiles nothing.
//!
//! Loading compiled code means running it unchecked, so a file counts only if this cache wrote it: the
//! directory is private (0700), each file (0400) carries a MAC under a key that never leaves the
//! directory, and its name and MAC bind it to the module's digest, the engine's version and settings,
//! and the processor. A file is written under a temporary name, synced and renamed: after a crash it
//! is there whole or not at all. What fails a check is removed and compiled anew; no failure of the
//! cache ever fails an image.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::artifact::Form;

const MAGIC: &[u8; 8] = b"CRCLAOT1";
const MAC_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 1 + MAC_BYTES;
const KEY_BYTES: usize = 32;
/// What the cache keeps on disk; the least recently used files go first.
const MAX_BYTES: u64 = 2 << 30;

/// A directory of compiled code.
pub struct AotCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// Engine version, settings and processor.
    engine: [u8; 32],
}

impl AotCache {
    /// Opens the cache in `dir`, creating directory and key if need be.
    pub fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let mut fingerprint = Fingerprint(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut fingerprint);
        let key = load_or_create_key(&dir.join("key"))?;
        Ok(Self { dir: dir.to_owned(), key, engine: fingerprint.0.finalize().into() })
    }

    /// The compiled code of the module with this digest, if it is here and genuine.
    pub fn load(&self, digest: &str) -> Option<(Form, Vec<u8>)> {
        let path = self.path(digest);
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "cannot read compiled code: {error}");
                return None;
            }
        };
        match self.check(digest, &bytes) {
            Some(form) => {
                let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                if let Err(error) = touched {
                    tracing::debug!(path = %path.display(), "cannot note the use of compiled code: {error}");
                }
                Some((form, bytes.split_off(HEADER_BYTES)))
            }
            None => {
                tracing::warn!(path = %path.display(), "compiled code fails its check; removed");
                self.remove(digest);
                None
            }
        }
    }

    /// Keeps compiled code. Failure is logged: the next start compiles again.
    pub fn store(&self, digest: &str, form: Form, code: &[u8]) {
        if let Err(error) = self.keep(digest, form, code) {
            tracing::warn!(dir = %self.dir.display(), "cannot keep compiled code: {error}");
        }
    }

    /// Keeps compiled code, or says why not.
    pub fn keep(&self, digest: &str, form: Form, code: &[u8]) -> io::Result<()> {
        self.write(digest, form, code).and_then(|()| self.prune(MAX_BYTES))
    }

    /// Notes that the code of this digest is another engine's, in whose cache it is.
    pub fn point_elsewhere(&self, digest: &str, form: Form) -> io::Result<()> {
        self.keep(digest, form, &[])
    }

    /// Drops what is kept for this digest.
    pub fn remove(&self, digest: &str) {
        let _ = fs::remove_file(self.path(digest));
    }

    fn write(&self, digest: &str, form: Form, code: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".writing-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&self.dir)?;
        file.write_all(MAGIC)?;
        file.write_all(&[form_byte(form)])?;
        file.write_all(&self.mac(digest, form, code).finalize().into_bytes())?;
        file.write_all(code)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400))?;
        file.as_file().sync_all()?;
        file.persist(self.path(digest)).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()
    }

    fn check(&self, digest: &str, bytes: &[u8]) -> Option<Form> {
        let (header, code) = bytes.split_at_checked(HEADER_BYTES)?;
        let (magic, rest) = header.split_at_checked(MAGIC.len())?;
        let (&kind, mac) = rest.split_first()?;
        let form =
            [Form::Module, Form::Component, Form::Concurrent].into_iter().find(|&form| form_byte(form) == kind)?;
        self.mac(digest, form, code).verify_slice(mac).ok()?;
        (magic == MAGIC).then_some(form)
    }

    fn mac(&self, digest: &str, form: Form, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&self.engine);
        mac.update(&(digest.len() as u64).to_le_bytes());
        mac.update(digest.as_bytes());
        mac.update(&[form_byte(form)]);
        mac.update(code);
        mac
    }

    fn path(&self, digest: &str) -> PathBuf {
        let name = Sha256::new().chain_update(self.engine).chain_update(digest.as_bytes()).finalize();
        self.dir.join(format!("{name:x}.aot"))
    }

    /// Removes the least recently used files until at most `most` bytes are left.
    fn prune(&self, most: u64) -> io::Result<()> {
        let total: u64 = self.files()?.iter().map(|file| file.bytes).sum();
        self.reclaim(&[], total.saturating_sub(most)).map(drop)
    }

    /// The files of these digests, whether they are there or not.
    pub fn files_of<'a>(&'a self, digests: &'a [String]) -> impl Iterator<Item = PathBuf> + 'a {
        digests.iter().map(|digest| self.path(digest))
    }

    /// Removes the least recently used files, of whichever engine, until `bytes` are freed or nothing is
    /// left to go but those in `keep`. Returns the bytes freed.
    pub fn reclaim(&self, keep: &[PathBuf], bytes: u64) -> io::Result<u64> {
        let mut files = self.files()?;
        files.retain(|file| !keep.contains(&file.path));
        files.sort_by_key(|file| file.used);
        let mut freed = 0;
        for file in files {
            if freed >= bytes {
                break;
            }
            fs::remove_file(file.path)?;
            freed += file.bytes;
        }
        Ok(freed)
    }

    fn files(&self) -> io::Result<Vec<Kept>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "aot") {
                let about = fs::metadata(&path)?;
                files.push(Kept { used: about.modified()?, bytes: about.len(), path });
            }
        }
        Ok(files)
    }
}

/// A file of the cache; its time of change is when it was last used.
struct Kept {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

fn form_byte(form: Form) -> u8 {
    match form {
        Form::Module => b'm',
        Form::Component => b'c',
        Form::Concurrent => b'a',
    }
}

/// Two processes may open the cache at once: whoever links the name first has made the key.
fn load_or_create_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    for _ in 0..2 {
        match fs::read(path) {
            Ok(bytes) => {
                if let Ok(key) = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
                    return Ok(key);
                }
                fs::remove_file(path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let temporary = path.with_extension(format!("new-{}", uuid::Uuid::new_v4()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        file.write_all(&rand::random::<[u8; KEY_BYTES]>())?;
        file.sync_all()?;
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = fs::read(path)?;
    bytes
        .as_slice()
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the cache key has the wrong length"))
}

/// Collects what the engine hashes into a digest that is the same in every process.
struct Fingerprint(Sha256);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path) -> AotCache {
        AotCache::open(dir, &Engine::default()).unwrap()
    }

    #[test]
    fn what_was_stored_is_found_again_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        cache(dir.path()).store("sha256:aa", Form::Component, b"code");
        assert_eq!(cache(dir.path()).load("sha256:aa"), Some((Form::Component, b"code".to_vec())));
        assert_eq!(cache(dir.path()).load("sha256:bb"), None);
    }

    #[test]
    fn files_and_directory_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        let cache = cache(&dir);
        cache.store("sha256:aa", Form::Module, b"code");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("key")), 0o400);
        assert_eq!(mode(&cache.path("sha256:aa")), 0o400);
    }

    #[test]
    fn a_changed_byte_anywhere_makes_the_file_worthless() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.store("sha256:aa", Form::Module, b"code");
        let path = cache.path("sha256:aa");
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert_eq!(cache.check("sha256:aa", &bad), None, "byte {index}");
        }
        for length in 0..good.len() {
            assert_eq!(cache.check("sha256:aa", &good[..length]), None, "first {length} bytes");
        }
        assert_eq!(cache.check("sha256:bb", &good), None, "another module's file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"junk").unwrap();
        assert_eq!(cache.load("sha256:aa"), None);
        assert!(!path.exists(), "what fails the check is removed");
    }

    #[test]
    fn another_key_or_engine_does_not_accept_the_file() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (cache(one.path()), cache(two.path()));
        first.store("sha256:aa", Form::Module, b"code");
        fs::copy(first.path("sha256:aa"), second.path("sha256:aa")).unwrap();
        assert_eq!(second.load("sha256:aa"), None);

        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let other = AotCache::open(one.path(), &Engine::new(&config).unwrap()).unwrap();
        assert_eq!(other.load("sha256:aa"), None);
    }

    fn aged(cache: &AotCache, digest: &str, seconds: u64) {
        cache.store(digest, Form::Module, &[0; 100]);
        let file = File::open(cache.path(digest)).unwrap();
        file.set_modified(SystemTime::now() - std::time::Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn the_least_recently_used_files_go_when_the_cache_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for (digest, age) in [("sha256:used", 90), ("sha256:old", 60), ("sha256:new", 0)] {
            aged(&cache, digest, age);
        }
        assert!(cache.load("sha256:used").is_some());
        cache.prune(2 * (100 + HEADER_BYTES as u64)).unwrap();
        assert_eq!(cache.load("sha256:old"), None);
        assert!(cache.load("sha256:new").is_some() && cache.load("sha256:used").is_some());
    }

    #[test]
    fn what_is_used_is_never_reclaimed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for (digest, age) in [("sha256:kept", 90), ("sha256:old", 60), ("sha256:new", 0)] {
            aged(&cache, digest, age);
        }
        let keep: Vec<PathBuf> = cache.files_of(&["sha256:kept".to_owned()]).collect();
        let one = 100 + HEADER_BYTES as u64;
        assert_eq!(cache.reclaim(&keep, 1).unwrap(), one);
        assert!(cache.path("sha256:new").exists() && !cache.path("sha256:old").exists());
        assert_eq!(cache.reclaim(&keep, u64::MAX).unwrap(), one);
        assert!(cache.path("sha256:kept").exists());
    }
}
