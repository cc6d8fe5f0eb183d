//! Tools that need no files.

use std::io::{self, Write as _};
use std::time::Duration;

use super::Session;

/// The longest `sleep`; hooks and probes have limits of their own.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

pub fn echo(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let (words, end) = match args.split_first() {
        Some((flag, words)) if flag == "-n" => (words, ""),
        _ => (args, "\n"),
    };
    write!(session.stdout, "{}{end}", words.join(" "))?;
    Ok(0)
}

pub fn env(session: &mut Session, args: &[String]) -> io::Result<i32> {
    if !args.is_empty() {
        return session.misused("it only shows the variables; it starts nothing");
    }
    for (name, value) in session.sight.env.clone() {
        writeln!(session.stdout, "{name}={value}")?;
    }
    Ok(0)
}

pub fn yes(_: &mut Session, _: &[String]) -> io::Result<i32> {
    Ok(0)
}

pub fn no(_: &mut Session, _: &[String]) -> io::Result<i32> {
    Ok(1)
}

pub fn sleep(session: &mut Session, args: &[String]) -> io::Result<i32> {
    let seconds = args.first().and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let (Some(time), 1) = (time, args.len()) else { return session.misused("give one number of seconds") };
    let stop = session.stop.clone();
    let cut = session.handle.block_on(tokio::time::timeout(time.min(MAX_SLEEP), stop.cancelled())).is_ok();
    if cut { Err(io::ErrorKind::Interrupted.into()) } else { Ok(0) }
}
