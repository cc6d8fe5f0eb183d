//! Reading archives.

use std::io::{self, Read, Write};

use rustix::fs::FileType;
use tar::{Archive, EntryType};

use super::super::view::{View, join, parts};
use super::super::{CHUNK, Session, explain};
use super::{Ends, Job};

/// Extracts or lists.
pub fn unpack(session: &mut Session, job: &Job, file: Option<&mut std::fs::File>) -> io::Result<i32> {
    // The view is needed while the archive holds the session's streams.
    let view = View::new(&session.sight.mounts);
    if job.action == Some('x') {
        match view.facts(&job.dir, true) {
            Ok(facts) if facts.kind == FileType::Directory => {}
            Ok(_) => return session.blame(&job.dir, &rustix::io::Errno::NOTDIR.into()),
            Err(error) => return session.blame(&job.dir, &error),
        }
    }
    let mut complaints = Vec::new();
    let mut shown = Vec::new();
    let mut archive = Archive::new(Ends { session, file });
    let walked = walk(&mut archive, &view, job, &mut complaints, &mut shown);
    let Ends { session, .. } = archive.into_inner();
    if job.action == Some('t') {
        session.stdout.write_all(&shown)?;
    } else {
        session.stderr.write_all(&shown)?;
    }
    let mut code = 0;
    for (name, error) in complaints {
        code = session.blame(&name, &error)?;
    }
    match walked {
        Ok(()) => Ok(code),
        Err(error) if session.stop.is_cancelled() => Err(error),
        Err(error) => session.complain(&format!("the archive cannot be read: {}", explain(&error))),
    }
}

/// What is told of one archive, names and complaints, in bytes and in number.
const MAX_TOLD: usize = 1 << 20;
const MAX_COMPLAINTS: usize = 100;

fn walk(
    archive: &mut Archive<Ends<'_>>,
    view: &View,
    job: &Job,
    complaints: &mut Vec<(String, io::Error)>,
    shown: &mut Vec<u8>,
) -> io::Result<()> {
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = parts(&String::from_utf8_lossy(&entry.path_bytes())).join("/");
        let wanted = |path: &String| {
            let path = parts(path).join("/");
            name == path || name.starts_with(&format!("{path}/"))
        };
        if !job.paths.is_empty() && !job.paths.iter().any(wanted) {
            continue;
        }
        if (job.action == Some('t') || job.verbose) && shown.len() < MAX_TOLD {
            shown.extend_from_slice(name.as_bytes());
            shown.push(b'\n');
        }
        if job.action == Some('x')
            && !name.is_empty()
            && let Err(error) = extract(&mut entry, view, &join(&job.dir, &name), job.touch)
        {
            complaints.push((name, error));
            if complaints.len() >= MAX_COMPLAINTS {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn extract<R: Read>(entry: &mut tar::Entry<'_, R>, view: &View, path: &str, touch: bool) -> io::Result<()> {
    let mode = entry.header().mode().unwrap_or(0o644);
    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
    match entry.header().entry_type() {
        EntryType::Directory => return view.make_dirs(path, mode | 0o700),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            view.make_dirs(parent, 0o755)?;
            let mut file = view.create(path, mode)?;
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = entry.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                file.write_all(buffer.get(..count).unwrap_or_default())?;
            }
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
            view.make_dirs(parent, 0o755)?;
            view.link(path, &target.unwrap_or_default())?;
        }
        EntryType::XGlobalHeader => return Ok(()),
        _ => return Err(io::Error::other("neither a file, a directory nor a symbolic link; left out")),
    }
    match entry.header().mtime() {
        Ok(at) if !touch => view.set_modified(path, i64::try_from(at).unwrap_or(0)),
        _ => Ok(()),
    }
}
