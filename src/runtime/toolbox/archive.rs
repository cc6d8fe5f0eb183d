//! `tar`, as much of it as `kubectl cp` and people need: create, extract, list; files, directories, links.

mod pack;
mod unpack;

use std::io::{self, Read, Write};

use super::Session;
use super::view::join;
use pack::create;
use unpack::unpack;

#[derive(Debug, Default, PartialEq, Eq)]
struct Job {
    action: Option<char>,
    verbose: bool,
    /// Files get the present time rather than the archive's.
    touch: bool,
    archive: Option<String>,
    dir: String,
    paths: Vec<String>,
}

impl Job {
    fn parse(args: &[String]) -> Result<Job, String> {
        let mut job = Job { dir: "/".to_owned(), ..Job::default() };
        let mut rest = args.iter();
        let mut first = true;
        while let Some(arg) = rest.next() {
            let letters = match arg.strip_prefix('-') {
                Some(long) if long.starts_with('-') => {
                    job.long(arg)?;
                    continue;
                }
                Some(letters) if !letters.is_empty() => letters,
                // The oldest form has its letters first, and no dash.
                _ if first => arg.as_str(),
                _ => {
                    job.paths.push(arg.clone());
                    continue;
                }
            };
            first = false;
            for letter in letters.chars() {
                job.letter(letter, &mut rest)?;
            }
        }
        if job.action.is_none() {
            return Err("say c (create), x (extract) or t (list)".to_owned());
        }
        Ok(job)
    }

    fn long(&mut self, arg: &str) -> Result<(), String> {
        match arg {
            // Ownership is never kept: all that a Wasm pod writes belongs to its node.
            "--no-same-permissions" | "--no-same-owner" | "--" => Ok(()),
            "--create" => self.act('c'),
            "--extract" => self.act('x'),
            "--list" => self.act('t'),
            other => Err(format!("there is no option {other}")),
        }
    }

    fn letter<'a>(&mut self, letter: char, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), String> {
        let mut value = |what: &str| rest.next().cloned().ok_or_else(|| format!("-{letter} wants {what}"));
        match letter {
            'c' | 'x' | 't' => self.act(letter),
            'v' | 'm' | 'p' | 'o' => {
                self.verbose |= letter == 'v';
                self.touch |= letter == 'm';
                Ok(())
            }
            'f' => value("an archive").map(|path| self.archive = Some(path)),
            'C' => value("a directory").map(|dir| self.dir = join(&self.dir, &dir)),
            'z' | 'j' | 'J' => Err("archives are neither compressed nor expanded here".to_owned()),
            other => Err(format!("there is no flag -{other}")),
        }
    }

    fn act(&mut self, action: char) -> Result<(), String> {
        match self.action.replace(action) {
            None => Ok(()),
            Some(before) => Err(format!("either {before} or {action}, not both")),
        }
    }

    fn is_stream(&self) -> bool {
        self.archive.as_deref().is_none_or(|path| path == "-")
    }

    fn path(&self, name: &str) -> String {
        if name.starts_with('/') { name.to_owned() } else { join(&self.dir, name) }
    }
}

pub fn tar(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let job = match Job::parse(args) {
        Ok(job) => job,
        Err(why) => return session.misused(&why),
    };
    let archive = job.archive.clone().unwrap_or_default();
    if job.action == Some('c') {
        if job.paths.is_empty() {
            return session.misused("give the paths to put into the archive");
        }
        if job.is_stream() {
            return create(session, &job, None);
        }
        return match session.view.create(&job.path(&archive), 0o644) {
            Ok(mut file) => create(session, &job, Some(&mut file)),
            Err(error) => session.blame(&archive, &error),
        };
    }
    if job.is_stream() {
        return unpack(session, &job, None);
    }
    match session.view.open(&job.path(&archive)) {
        Ok(mut file) => unpack(session, &job, Some(&mut file)),
        Err(error) => session.blame(&archive, &error),
    }
}

/// Where an archive is written to, or read from; counts nothing and keeps nothing.
struct Ends<'a> {
    session: &'a mut Session,
    file: Option<&'a mut std::fs::File>,
}

impl Write for Ends<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.session.check()?;
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.session.stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush(),
            None => self.session.stdout.flush(),
        }
    }
}

impl Read for Ends<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.session.check()?;
        match &mut self.file {
            Some(file) => file.read(buffer),
            None => self.session.stdin.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(args: &[&str]) -> Result<Job, String> {
        Job::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn what_kubectl_cp_says_is_understood() {
        let copy_out = job(&["cf", "-", "/data/x"]).unwrap();
        assert_eq!(
            (copy_out.action, copy_out.is_stream(), copy_out.paths),
            (Some('c'), true, vec!["/data/x".to_owned()])
        );
        let copy_in = job(&["-xmf", "-", "-C", "/data"]).unwrap();
        assert_eq!((copy_in.action, copy_in.touch, copy_in.dir.as_str()), (Some('x'), true, "//data"));
        let unowned = job(&["--no-same-permissions", "--no-same-owner", "-xmf", "-"]).unwrap();
        assert_eq!((unowned.action, unowned.dir.as_str()), (Some('x'), "/"));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (args, wanted) in [
            (&["-f", "-"][..], "say c (create)"),
            (&["czf", "-", "x"], "compressed"),
            (&["cxf", "-"], "not both"),
            (&["-x", "-C"], "wants a directory"),
            (&["--wildcards", "-x"], "no option"),
        ] {
            let why = job(args).unwrap_err();
            assert!(why.contains(wanted), "{args:?}: {why}");
        }
    }
}
