//! Tools that look at files.

use std::io::{self, Read, Write as _};

use jiff::Timestamp;
use rustix::fs::FileType;

use super::view::{Facts, join};
use super::{CHUNK, Session};

pub fn cat(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let mut code = 0;
    let stdin = ["-".to_owned()];
    let paths = if args.is_empty() { &stdin[..] } else { args };
    for path in paths {
        if path == "-" {
            pour(session, None)?;
            continue;
        }
        match session.view.open(path) {
            Ok(mut file) => pour(session, Some(&mut file))?,
            Err(error) => code = session.blame(path, &error)?,
        }
    }
    Ok(code)
}

/// Copies a file, or standard input, to standard output.
fn pour(session: &mut Session, file: Option<&mut dyn Read>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut file = file;
    loop {
        let count = match &mut file {
            Some(file) => file.read(&mut buffer)?,
            None => session.stdin.read(&mut buffer)?,
        };
        if count == 0 {
            return Ok(());
        }
        session.stdout.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

pub fn ls(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let (mut all, mut long, mut itself) = (false, false, false);
    let mut paths = Vec::new();
    for arg in args {
        let Some(flags) = arg.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            paths.push(arg.as_str());
            continue;
        };
        for flag in flags.chars() {
            match flag {
                'a' | 'A' => all = true,
                'l' => long = true,
                'd' => itself = true,
                '1' => {}
                other => return session.misused(&format!("there is no flag -{other}")),
            }
        }
    }
    if paths.is_empty() {
        paths.push("/");
    }
    let mut code = 0;
    for (number, path) in paths.iter().enumerate() {
        let facts = match session.view.facts(path, !long || path.ends_with('/')) {
            Ok(facts) => facts,
            Err(error) => {
                code = session.blame(path, &error)?;
                continue;
            }
        };
        if itself || facts.kind != FileType::Directory {
            line(session, path, path, long)?;
            continue;
        }
        if paths.len() > 1 {
            writeln!(session.stdout, "{}{path}:", if number > 0 { "\n" } else { "" })?;
        }
        match session.view.list(path) {
            Ok(names) => {
                for name in names.iter().filter(|name| all || !name.starts_with('.')) {
                    line(session, &join(path, name), name, long)?;
                }
            }
            Err(error) => code = session.blame(path, &error)?,
        }
    }
    Ok(code)
}

fn line(session: &mut Session, path: &str, shown: &str, long: bool) -> io::Result<()> {
    if !long {
        return writeln!(session.stdout, "{shown}");
    }
    // What has gone since it was listed is left out.
    let Ok(facts) = session.view.facts(path, false) else { return Ok(()) };
    let time = time(&facts);
    let link = match facts.kind {
        FileType::Symlink => session.view.read_link(path).map(|to| format!(" -> {to}")).unwrap_or_default(),
        _ => String::new(),
    };
    writeln!(session.stdout, "{} {:>10} {time} {shown}{link}", mode(&facts), facts.size)
}

fn time(facts: &Facts) -> String {
    let at = Timestamp::from_second(facts.modified).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `drwxr-xr-x`
fn mode(facts: &Facts) -> String {
    let kind = match facts.kind {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::RegularFile => '-',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unknown => '?',
    };
    let bit = |shift: u32, letter: char| if facts.mode >> shift & 1 == 1 { letter } else { '-' };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars()).map(|(shift, letter)| bit(shift, letter));
    std::iter::once(kind).chain(bits).collect()
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character special file",
        FileType::BlockDevice => "block special file",
        FileType::Unknown => "unknown",
    }
}

pub fn stat(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let (format, paths) = match args {
        [flag, format, paths @ ..] if flag == "-c" => (Some(format), paths),
        paths => (None, paths),
    };
    if paths.is_empty() {
        return session.misused("give a path");
    }
    let mut code = 0;
    for path in paths {
        match session.view.facts(path, false) {
            Ok(facts) => {
                let text = match format {
                    Some(format) => formatted(format, path, &facts),
                    None => described(path, &facts),
                };
                writeln!(session.stdout, "{text}")?;
            }
            Err(error) => code = session.blame(path, &error)?,
        }
    }
    Ok(code)
}

fn described(path: &str, facts: &Facts) -> String {
    format!(
        "  File: {path}\n  Size: {}\t{}\nAccess: ({:04o}/{})\nModify: {} +0000",
        facts.size,
        kind_name(facts.kind),
        facts.mode,
        mode(facts),
        time(facts),
    )
}

/// The part of GNU's formats that says something here; other letters stay as they are.
fn formatted(format: &str, path: &str, facts: &Facts) -> String {
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => text.push_str(path),
            Some('s') => text.push_str(&facts.size.to_string()),
            Some('a') => text.push_str(&format!("{:o}", facts.mode)),
            Some('A') => text.push_str(&mode(facts)),
            Some('F') => text.push_str(kind_name(facts.kind)),
            Some('Y') => text.push_str(&facts.modified.to_string()),
            Some('y') => text.push_str(&format!("{} +0000", time(facts))),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
    text
}

/// `kubectl cp` asks `test -d` before it copies.
pub fn test(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let [flag, path] = args else { return session.misused("give one question and one path") };
    let facts = session.view.facts(path, true);
    let answer = match flag.as_str() {
        "-e" => facts.is_ok(),
        "-d" => facts.is_ok_and(|facts| facts.kind == FileType::Directory),
        "-f" => facts.is_ok_and(|facts| facts.kind == FileType::RegularFile),
        "-s" => facts.is_ok_and(|facts| facts.size > 0),
        other => return session.misused(&format!("there is no question {other}")),
    };
    Ok(i32::from(!answer))
}
