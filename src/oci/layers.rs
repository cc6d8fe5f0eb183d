//! Where in an image its module is: the one Wasm layer of an artifact, or a file in the archives of an
//! ordinary image.

use std::fs::File;
use std::io::{self, BufRead as _, Read, Seek as _};
use std::path::{Component, Path};

use oci_client::manifest::{OciDescriptor, OciImageManifest};
use serde::{Deserialize, Serialize};

use super::MAX_MODULE_BYTES;

/// Layers that are the module itself: the CNCF's type, and those that came before it.
const WASM_LAYERS: &[&str] =
    &[WASM_LAYER, "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.module.wasm.content.layer.v1+wasm"];
pub(super) const WASM_LAYER: &str = "application/wasm";
/// Unpacked bytes that are looked through in one layer: a small archive may unpack to anything.
const MAX_UNPACKED: u64 = 4 << 30;
/// Files named `.wasm` that are remembered of one layer.
const MAX_CANDIDATES: usize = 256;

/// What is to be fetched.
#[derive(Debug)]
pub(super) enum Plan<'a> {
    Module(&'a OciDescriptor),
    /// The archives, the uppermost first; the image's configuration says which file.
    Archives(Vec<&'a OciDescriptor>),
}

/// What a manifest offers, or in words why that is nothing that could run.
pub(super) fn plan(manifest: &OciImageManifest) -> Result<Plan<'_>, String> {
    let wasm: Vec<&OciDescriptor> =
        manifest.layers.iter().filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str())).collect();
    match wasm.as_slice() {
        [one] => return Ok(Plan::Module(one)),
        [] => {}
        many => return Err(format!("it has {} layers of WebAssembly; one is run: push each as an image", many.len())),
    }
    if let Some(other) = manifest.layers.iter().find(|layer| packing(&layer.media_type).is_none()) {
        return Err(format!(
            "it has a layer of the type {:?}; taken are {WASM_LAYER:?} and archives (tar, plain or with gzip or zstd)",
            other.media_type
        ));
    }
    if manifest.layers.is_empty() {
        return Err("it has no layers".to_owned());
    }
    Ok(Plan::Archives(manifest.layers.iter().rev().collect()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

fn packing(media_type: &str) -> Option<Packing> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Some(Packing::Plain)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Some(Packing::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => Some(Packing::Zstd),
        _ => None,
    }
}

/// An image's configuration, as far as it says what is run.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    config: Option<Process>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    env: Option<Vec<String>>,
}

/// How an image wants its module started, where the pod does not say otherwise. Empty if it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup {
    /// argv as far as a pod's `command` replaces it: the module's name, and what always follows it.
    pub entrypoint: Vec<String>,
    /// The rest of argv, which `args` or `command` replaces.
    pub cmd: Vec<String>,
    /// Names and values.
    pub env: Vec<(String, String)>,
}

impl ImageConfig {
    /// The file the entrypoint or else the command names, as archives name it; `None` if neither does.
    pub fn file(&self) -> Option<String> {
        let process = self.config.as_ref()?;
        let words = process.entrypoint.iter().chain(&process.cmd).flatten();
        let word = words.clone().find(|word| word.ends_with(".wasm")).or_else(|| words.clone().next())?;
        let directory = process.working_dir.as_deref().unwrap_or("/");
        normal(&Path::new("/").join(directory).join(word))
    }

    /// Words before the module (`wasmtime --dir=/ app.wasm`) were for another host and are dropped.
    pub fn startup(self) -> Startup {
        let Some(process) = self.config else { return Startup::default() };
        let (entrypoint, cmd) = (process.entrypoint.unwrap_or_default(), process.cmd.unwrap_or_default());
        let split = entrypoint.len();
        let mut words: Vec<String> = entrypoint.into_iter().chain(cmd).collect();
        let module = words.iter().position(|word| word.ends_with(".wasm")).unwrap_or(0);
        let cmd = words.split_off(split.max(module + 1).min(words.len()));
        let variables = process.env.into_iter().flatten();
        let env = variables.filter_map(|text| text.split_once('=').map(|(name, value)| (name.into(), value.into())));
        Startup { entrypoint: words.split_off(module.min(words.len())), cmd, env: env.collect() }
    }
}

/// Whether an image with this configuration is there for a module: it says so, or what it starts is one.
pub(super) fn is_of_module(config: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    struct Platform {
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        os: String,
    }
    let platform: Platform = serde_json::from_slice(config).unwrap_or_default();
    let starts: ImageConfig = serde_json::from_slice(config).unwrap_or_default();
    platform.architecture.starts_with("wasm")
        || platform.os.starts_with("wasi")
        || starts.file().is_some_and(|file| file.ends_with(".wasm"))
}

/// Relative to the root, without `.` and `..`; `None` for the root itself.
fn normal(path: &Path) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What one archive has to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Files named `.wasm`, and the wanted one whatever its name.
    pub modules: Vec<String>,
    /// What lower layers have under these names is hidden: files and whole directories.
    pub hidden: Vec<String>,
}

/// Looks through an archive. Blocks.
pub(super) fn look(file: &Path, media_type: &str, wanted: Option<&str>) -> io::Result<Contents> {
    let mut contents = Contents::default();
    each_file(file, media_type, |name, _| {
        let (dir, last) = name.rsplit_once('/').unwrap_or(("", name));
        if last == ".wh..wh..opq" {
            contents.hidden.push(dir.to_owned());
        } else if let Some(gone) = last.strip_prefix(".wh.") {
            contents.hidden.push(if dir.is_empty() { gone.to_owned() } else { format!("{dir}/{gone}") });
        } else if (last.ends_with(".wasm") || wanted == Some(name)) && contents.modules.len() < MAX_CANDIDATES {
            contents.modules.push(name.to_owned());
        }
        Ok(true)
    })?;
    Ok(contents)
}

/// Copies the file `name` of an archive; bounded. Blocks.
pub(super) fn extract(file: &Path, media_type: &str, name: &str, out: &mut File) -> io::Result<()> {
    let mut found = false;
    each_file(file, media_type, |entry, content| {
        if entry != name {
            return Ok(true);
        }
        let copied = io::copy(&mut content.take(MAX_MODULE_BYTES + 1), out)?;
        if copied > MAX_MODULE_BYTES {
            return Err(io::Error::other(format!("{name} has more than the {MAX_MODULE_BYTES} bytes that are taken")));
        }
        found = true;
        Ok(false)
    })?;
    if found { Ok(()) } else { Err(io::Error::other(format!("{name} has gone from the archive"))) }
}

/// Calls `visit` with each file's name and content until it says `false`.
fn each_file(
    file: &Path,
    media_type: &str,
    mut visit: impl FnMut(&str, &mut dyn Read) -> io::Result<bool>,
) -> io::Result<()> {
    let file = io::BufReader::new(File::open(file)?);
    let unpacked: Box<dyn Read> = match packing(media_type) {
        Some(Packing::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some(Packing::Zstd) => Box::new(Frames::new(file)?),
        Some(Packing::Plain) | None => Box::new(file),
    };
    let mut archive = tar::Archive::new(unpacked.take(MAX_UNPACKED));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some(name) = normal(&entry.path()?) else { continue };
        if !visit(&name, &mut entry)? {
            break;
        }
    }
    Ok(())
}

/// Zstandard as writers of layers make it: one frame after the other, some of which are to be skipped
/// (RFC 8878, 3.1).
struct Frames {
    current: Option<Frame>,
}

type Frame = ruzstd::decoding::StreamingDecoder<io::BufReader<File>, ruzstd::decoding::FrameDecoder>;

impl Frames {
    fn new(file: io::BufReader<File>) -> io::Result<Frames> {
        Ok(Frames { current: next_frame(file)? })
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.current {
            let count = frame.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let ended = self.current.take().map(Frame::into_inner);
            self.current = ended.map(next_frame).transpose()?.flatten();
        }
        Ok(0)
    }
}

/// The next frame that has content; `None` at the end of the file.
fn next_frame(mut file: io::BufReader<File>) -> io::Result<Option<Frame>> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
    loop {
        if file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let place = file.stream_position()?;
        match StreamingDecoder::new(&mut file) {
            Ok(_) => {
                file.seek(io::SeekFrom::Start(place))?;
                return StreamingDecoder::new(file).map(Some).map_err(io::Error::other);
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                file.seek_relative(i64::from(length))?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Which archive (0 is the uppermost) has the module, and under which name. `layers` may be the upper
/// ones only; then `None` means that the next one must be looked at.
pub(super) fn choose(layers: &[Contents], wanted: Option<&str>, all: bool) -> Result<Option<(usize, String)>, String> {
    let visible = |index: usize, name: &str| !layers[..index].iter().any(|upper| hides(upper, name));
    let files = || layers.iter().enumerate().flat_map(|(index, layer)| layer.modules.iter().map(move |n| (index, n)));
    if let Some((index, name)) = files().find(|(_, name)| wanted == Some(name.as_str()))
        && visible(index, name)
    {
        return Ok(Some((index, name.clone())));
    }
    if !all {
        return Ok(None);
    }
    let mut seen: Vec<(usize, &String)> = Vec::new();
    for (index, name) in files() {
        if visible(index, name) && !seen.iter().any(|(_, other)| *other == name) {
            seen.push((index, name));
        }
    }
    let wants = wanted.map_or_else(|| "names no file".to_owned(), |name| format!("names /{name}, which it lacks"));
    match seen.as_slice() {
        [(index, name)] => Ok(Some((*index, (*name).clone()))),
        [] => Err(format!("there is no .wasm file in it, and its entrypoint {wants}: it is no image for WebAssembly")),
        many => {
            let names: Vec<String> = many.iter().take(5).map(|(_, name)| format!("/{name}")).collect();
            Err(format!(
                "its entrypoint {wants}, and it has {} .wasm files ({}): let ENTRYPOINT name one",
                many.len(),
                names.join(", ")
            ))
        }
    }
}

fn hides(layer: &Contents, name: &str) -> bool {
    layer.hidden.iter().any(|gone| {
        gone.is_empty() || name == gone || name.strip_prefix(gone.as_str()).is_some_and(|rest| rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(types: &[&str]) -> OciImageManifest {
        let layer = |media_type: &&str| OciDescriptor { media_type: (*media_type).into(), ..OciDescriptor::default() };
        OciImageManifest { layers: types.iter().map(layer).collect(), ..OciImageManifest::default() }
    }

    #[test]
    fn an_image_says_what_it_is_for() {
        for (config, module) in [
            (r#"{"architecture": "wasm", "os": "wasip1"}"#, true),
            (r#"{"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/app.wasm"]}}"#, true),
            (r#"{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]}}"#, false),
            ("nonsense", false),
        ] {
            assert_eq!(is_of_module(config.as_bytes()), module, "{config}");
        }
    }

    #[test]
    fn manifests_are_read_or_refused_with_a_reason() {
        const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert!(matches!(plan(&manifest(&["application/wasm"])), Ok(Plan::Module(_))));
        assert!(matches!(plan(&manifest(&[TAR, TAR])), Ok(Plan::Archives(layers)) if layers.len() == 2));
        let refused = [
            (vec!["application/wasm", "application/wasm"], "2 layers of WebAssembly"),
            (vec!["application/vnd.oci.image.layer.v1.tar+xz"], "tar+xz"),
            (vec![], "no layers"),
        ];
        for (types, words) in refused {
            let why = plan(&manifest(&types)).expect_err("refused");
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn the_entrypoint_names_a_file() {
        let cases = [
            (r#"{"config":{"Entrypoint":["/app.wasm"]}}"#, Some("app.wasm")),
            (r#"{"config":{"Entrypoint":["app.wasm"],"WorkingDir":"/srv/x/.."}}"#, Some("srv/app.wasm")),
            (r#"{"config":{"Entrypoint":null,"Cmd":["./bin/run","a"]}}"#, Some("bin/run")),
            (r#"{"config":{"Entrypoint":["wasmtime","/m.wasm"]}}"#, Some("m.wasm")),
            (r#"{"config":{"Entrypoint":["/../../etc/passwd"]}}"#, Some("etc/passwd")),
            (r#"{"config":{}}"#, None),
            ("{}", None),
        ];
        for (json, file) in cases {
            let config: ImageConfig = serde_json::from_str(json).expect("a configuration");
            assert_eq!(config.file().as_deref(), file, "{json}");
        }
    }

    #[test]
    fn an_image_says_how_its_module_is_started() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                r#"{"config":{"Entrypoint":["/app.wasm","--fast"],"Cmd":["serve"]}}"#,
                &["/app.wasm", "--fast"],
                &["serve"],
            ),
            (r#"{"config":{"Cmd":["/app.wasm","a","b"]}}"#, &["/app.wasm"], &["a", "b"]),
            (r#"{"config":{"Entrypoint":["wasmtime","--dir=/"],"Cmd":["/app.wasm","a"]}}"#, &["/app.wasm"], &["a"]),
            (r#"{"config":{"Entrypoint":["wasmtime","/app.wasm","x"],"Cmd":["a"]}}"#, &["/app.wasm", "x"], &["a"]),
            (r#"{"config":{"Entrypoint":["app"]}}"#, &["app"], &[]),
            (r#"{"config":{}}"#, &[], &[]),
            ("{}", &[], &[]),
        ];
        for (json, entrypoint, cmd) in cases {
            let config: ImageConfig = serde_json::from_str(json).expect("a configuration");
            let startup = Startup { entrypoint: words(entrypoint), cmd: words(cmd), env: Vec::new() };
            assert_eq!(config.startup(), startup, "{json}");
        }
        let config: ImageConfig =
            serde_json::from_str(r#"{"config":{"Env":["A=1","B=x=y","odd"]}}"#).expect("a configuration");
        assert_eq!(config.startup().env, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
    }

    fn layer(modules: &[&str], hidden: &[&str]) -> Contents {
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Contents { modules: owned(modules), hidden: owned(hidden) }
    }

    #[test]
    fn the_uppermost_visible_file_is_the_module() {
        let layers = [layer(&["b.wasm"], &["old"]), layer(&["a.wasm", "old/c.wasm"], &[])];
        assert_eq!(choose(&layers, Some("a.wasm"), true), Ok(Some((1, "a.wasm".into()))));
        assert!(choose(&layers, Some("old/c.wasm"), true).is_err_and(|why| why.contains("2 .wasm files")));
        assert_eq!(choose(&layers[..1], Some("a.wasm"), false), Ok(None));
        assert_eq!(choose(&[layer(&["x.wasm"], &[])], Some("bin/sh"), true), Ok(Some((0, "x.wasm".into()))));
        assert!(choose(&[layer(&[], &[])], None, true).is_err_and(|why| why.contains("no .wasm file")));
    }

    #[test]
    fn archives_are_looked_through_and_unpacked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("layer");
        let gzip = flate2::write::GzEncoder::new(File::create(&path).expect("a file"), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (name, bytes) in [("./app/m.wasm", "code"), ("app/.wh.gone.wasm", ""), ("etc/x", "x")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes.as_bytes()).expect("added");
        }
        archive.into_inner().and_then(flate2::write::GzEncoder::finish).expect("written");
        const TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(
            look(&path, TYPE, Some("etc/x")).expect("read"),
            layer(&["app/m.wasm", "etc/x"], &["app/gone.wasm"])
        );
        let out = dir.path().join("out");
        extract(&path, TYPE, "app/m.wasm", &mut File::create(&out).expect("a file")).expect("unpacked");
        assert_eq!(std::fs::read(&out).expect("read"), b"code");
        assert!(look(&path, "application/vnd.oci.image.layer.v1.tar", None).is_err(), "not a plain archive");
    }

    #[test]
    fn zstandard_is_unpacked_over_all_its_frames() {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "m.wasm", &b"code"[..]).expect("added");
        let bytes = archive.into_inner().expect("written");
        let (head, tail) = bytes.split_at(300);
        let frame = |part| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let packed = [&skipped[..], &frame(head), &skipped, &frame(tail), &skipped].concat();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("layer");
        const TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
        std::fs::write(&path, &packed).expect("written");
        assert_eq!(look(&path, TYPE, None).expect("read"), layer(&["m.wasm"], &[]));
        let out = dir.path().join("out");
        extract(&path, TYPE, "m.wasm", &mut File::create(&out).expect("a file")).expect("unpacked");
        assert_eq!(std::fs::read(&out).expect("read"), b"code");
        std::fs::write(&path, &packed[..packed.len() / 2]).expect("written");
        assert!(look(&path, TYPE, None).is_err(), "it is cut off");
    }
}
