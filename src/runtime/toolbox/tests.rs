use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::wire::{CallTimeouts, HttpBody, OutboundError};

/// Answers with what was asked.
struct Echo;

#[async_trait::async_trait]
impl Outbound for Echo {
    async fn send(
        &self,
        caller: &Caller,
        request: Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        if request.uri().host() == Some("nowhere") {
            return Err(OutboundError::UnknownHost("nowhere".to_owned()));
        }
        let text = format!("{} asked {}", caller.pod, request.uri());
        Ok(Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()))
    }
}

/// A container with a writable and a read-only mount, and a host beside it that holds a secret.
struct Container {
    dir: tempfile::TempDir,
    sight: Sight,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for mount in ["data", "fixed"] {
            std::fs::create_dir(dir.path().join(mount)).unwrap();
        }
        std::fs::write(dir.path().join("secret"), "the host's own").unwrap();
        std::fs::write(dir.path().join("fixed/config"), "colour=blue\n").unwrap();
        let mount = |name: &str, guest: &str, read_only| Mount::new(dir.path().join(name), guest, read_only);
        let caller = Caller { namespace: "shop".into(), pod: "cart".into(), ip: [127, 64, 0, 1].into() };
        let sight = Sight {
            mounts: vec![mount("data", "/data", false), mount("fixed", "/etc/app", true)],
            env: vec![("COLOUR".into(), "blue".into())],
            caller: Arc::new(caller),
            outbound: Arc::new(Echo),
        };
        Self { dir, sight }
    }

    fn host(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    async fn run(&self, command: &[&str]) -> (i32, String, String) {
        let (code, out, err) = self.feed(command, b"").await;
        (code, String::from_utf8(out).unwrap(), err)
    }

    async fn feed(&self, command: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
        let (stdout, mut out) = tokio::io::duplex(1024);
        let (stderr, mut err) = tokio::io::duplex(1024);
        let stdin = Box::new(std::io::Cursor::new(input.to_vec()));
        let streams = ExecStreams { stdin, stdout: Box::new(stdout), stderr: Box::new(stderr), terminal: None };
        let args: Vec<String> = command.iter().map(ToString::to_string).collect();
        let (sight, stop, handle) = (self.sight.clone(), CancellationToken::new(), Handle::current());
        let work = tokio::task::spawn_blocking(move || run(sight, &args, streams, stop, handle));
        let (mut output, mut errors) = (Vec::new(), String::new());
        let (code, read, complained) =
            tokio::join!(work, out.read_to_end(&mut output), err.read_to_string(&mut errors));
        (read.and(complained).and(Ok(code.unwrap())).unwrap(), output, errors)
    }
}

#[tokio::test]
async fn a_container_sees_its_mounts_and_nothing_else() {
    let container = Container::new();
    std::fs::write(container.host("data/file"), "hello").unwrap();
    let ok = |text: &str| (0, text.to_owned(), String::new());
    assert_eq!(container.run(&["ls"]).await, ok("data\netc\n"));
    assert_eq!(container.run(&["ls", "/etc"]).await, ok("app\n"));
    assert_eq!(container.run(&["/bin/ls", "/data/../etc/app"]).await, ok("config\n"));
    assert_eq!(container.run(&["cat", "/data/file", "etc/app/config"]).await, ok("hellocolour=blue\n"));
    assert_eq!(container.run(&["env"]).await, ok("COLOUR=blue\n"));
    assert_eq!(container.run(&["echo", "-n", "a", "b"]).await, ok("a b"));
    let (code, _, complaint) = container.run(&["cat", "/etc/passwd"]).await;
    assert_eq!(
        (code, complaint.as_str()),
        (1, "cat: /etc/passwd: No such file or directory (this container sees /data, /etc/app)\n")
    );
    assert_eq!(container.run(&["cat", "/data"]).await.2, "cat: /data: Is a directory\n");
}

#[tokio::test]
async fn links_and_dots_do_not_lead_out() {
    let container = Container::new();
    std::fs::write(container.host("data/inside"), "fine").unwrap();
    for (name, target) in [("up", "../secret"), ("absolute", "/etc/passwd"), ("parent", ".."), ("near", "inside")] {
        std::os::unix::fs::symlink(target, container.host("data").join(name)).unwrap();
    }
    assert_eq!(container.run(&["cat", "/data/near"]).await.1, "fine");
    for path in ["/data/up", "/data/absolute", "/data/parent/secret", "/data/../../secret", "/data/../secret"] {
        let (code, out, complaint) = container.run(&["cat", path]).await;
        assert!(code == 1 && out.is_empty() && !complaint.is_empty(), "{path}: {out:?} {complaint:?}");
    }
    // Nor does writing: a link in the way is replaced, a linked directory refused.
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["up", "parent/planted"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &b"mine"[..]).unwrap();
    }
    let (code, _, complaint) = container.feed(&["tar", "xf", "-", "-C", "/data"], &archive.into_inner().unwrap()).await;
    assert!(code == 1 && complaint.contains("leads out of the mounted directory"), "{complaint}");
    assert_eq!(std::fs::read_to_string(container.host("secret")).unwrap(), "the host's own");
    assert_eq!(std::fs::read_to_string(container.host("data/up")).unwrap(), "mine");
    assert!(!container.host("planted").exists());
}

#[tokio::test]
async fn a_pipe_in_a_volume_holds_nobody() {
    let container = Container::new();
    rustix::fs::mknodat(rustix::fs::CWD, container.host("data/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let (code, _, complaint) = container.run(&["cat", "/data/pipe"]).await;
    assert_eq!((code, complaint.as_str()), (1, "cat: /data/pipe: not a regular file\n"));
}

#[tokio::test]
async fn an_archive_goes_out_and_comes_in_the_same() {
    let container = Container::new();
    let tree = container.host("data/tree/deep");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("big"), vec![7; 100_000]).unwrap();
    std::fs::write(tree.join("n".repeat(150)), "a long name").unwrap();
    std::os::unix::fs::symlink("big", tree.join("link")).unwrap();
    let (code, archive, complaint) = container.feed(&["tar", "cf", "-", "/data/tree"], b"").await;
    assert_eq!((code, complaint.as_str()), (0, ""));
    let names = container.feed(&["tar", "-tf", "-"], &archive).await.1;
    assert!(String::from_utf8(names).unwrap().starts_with("data/tree\ndata/tree/deep\ndata/tree/deep/big\n"));
    std::fs::create_dir(container.host("data/copy")).unwrap();
    let (code, _, complaint) = container.feed(&["tar", "-xmf", "-", "-C", "/data/copy"], &archive).await;
    assert_eq!((code, complaint.as_str()), (0, ""));
    let copy = container.host("data/copy/data/tree/deep");
    assert_eq!(std::fs::read(copy.join("big")).unwrap(), vec![7; 100_000]);
    assert_eq!(std::fs::read_to_string(copy.join("n".repeat(150))).unwrap(), "a long name");
    assert_eq!(std::fs::read_link(copy.join("link")).unwrap(), Path::new("big"));
    let refused = container.feed(&["tar", "-xf", "-", "-C", "/etc/app"], &archive).await;
    assert!(refused.0 == 1 && refused.2.contains("Read-only file system"), "{}", refused.2);
    let cut = container.feed(&["tar", "-tf", "-"], archive.get(..700).unwrap()).await;
    assert!(cut.0 == 1 && cut.2.contains("the archive cannot be read"), "{}", cut.2);
}

#[tokio::test]
async fn files_are_told_about() {
    let container = Container::new();
    let (code, text, _) = container.run(&["stat", "-c", "%n %s %F %%", "/etc/app/config"]).await;
    assert_eq!((code, text.as_str()), (0, "/etc/app/config 12 regular file %\n"));
    assert!(container.run(&["stat", "/data"]).await.1.contains("directory"));
    let long = container.run(&["ls", "-l", "/etc/app"]).await.1;
    assert!(long.starts_with("-rw") && long.ends_with(" config\n"), "{long}");
    for (question, path, code) in
        [("-d", "/data", 0), ("-d", "/etc", 0), ("-f", "/data", 1), ("-e", "/none", 1), ("-x", "/data", 2)]
    {
        assert_eq!(container.run(&["test", question, path]).await.0, code, "{question} {path}");
    }
}

#[tokio::test]
async fn wget_goes_the_pods_own_way_out() {
    let container = Container::new();
    assert_eq!(container.run(&["wget", "-qO-", "cart/items"]).await.1, "cart asked http://cart/items");
    assert_eq!(container.run(&["wget", "-O", "/data/page", "http://cart/"]).await.0, 0);
    assert_eq!(std::fs::read_to_string(container.host("data/page")).unwrap(), "cart asked http://cart/");
    let (code, _, complaint) = container.run(&["wget", "http://nowhere/"]).await;
    assert_eq!((code, complaint.as_str()), (1, "wget: http://nowhere/: no such host: nowhere\n"));
}

#[tokio::test]
async fn a_command_ends_when_nobody_takes_its_output_or_it_is_stopped() {
    let container = Container::new();
    std::fs::write(container.host("data/big"), vec![b'x'; 100_000]).unwrap();
    let start = |command: &[&str], stop: &CancellationToken| {
        let (stdout, out) = tokio::io::duplex(64);
        let (stdin, feed) = tokio::io::duplex(64);
        let streams = ExecStreams {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::sink()),
            terminal: None,
        };
        let args: Vec<String> = command.iter().map(ToString::to_string).collect();
        let (sight, stop, handle) = (container.sight.clone(), stop.clone(), Handle::current());
        (tokio::task::spawn_blocking(move || run(sight, &args, streams, stop, handle)), out, feed)
    };
    let (work, out, _feed) = start(&["cat", "/data/big"], &CancellationToken::new());
    drop(out);
    assert_eq!(work.await.unwrap(), BROKEN_PIPE);
    for command in [&["cat"][..], &["sleep", "1000"]] {
        let stop = CancellationToken::new();
        let (work, _out, _feed) = start(command, &stop);
        stop.cancel();
        assert_eq!(work.await.unwrap(), KILLED, "{command:?}");
    }
}

#[test]
fn what_there_is_not_is_explained() {
    let shell = unknown("/bin/sh", Some("worker"));
    assert!(shell.contains("has no shell") && shell.contains("(worker)") && shell.contains("wget"), "{shell}");
    let other = unknown("vim", None);
    assert!(other.starts_with("vim: not found; what can be run in a Wasm pod is one of: cat, echo"), "{other}");
}
