//! Redis's protocol (RESP 2), as much of it as a store needs: commands out, replies in.

use std::io::{self, BufRead, Read, Write};

/// Bytes that all replies to one question may have together: the host holds them.
const MAX_REPLY_BYTES: usize = 64 << 20;
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Lists within lists; the replies that are asked for here have two.
const MAX_DEPTH: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `OK`, `QUEUED`.
    Said(String),
    /// The server's words for what it will not do.
    Refused(String),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Reply>),
    Nil,
}

/// A command as it is sent.
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Sends commands in one go and reads the reply to each.
pub fn ask(stream: &mut (impl BufRead + Duplex), commands: &[Vec<u8>]) -> io::Result<Vec<Reply>> {
    stream.writer().write_all(&commands.concat())?;
    let mut budget = MAX_REPLY_BYTES;
    commands.iter().map(|_| read(stream, MAX_DEPTH, &mut budget)).collect()
}

/// A buffered reader whose other direction can be written to.
pub trait Duplex {
    fn writer(&mut self) -> &mut impl Write;
}

fn read(stream: &mut impl BufRead, depth: usize, budget: &mut usize) -> io::Result<Reply> {
    let line = line(stream)?;
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "what answers is no Redis server");
    let (kind, rest) = line.split_at_checked(1).ok_or_else(strange)?;
    let number = || rest.parse::<i64>().map_err(|_| strange());
    match kind {
        "+" => Ok(Reply::Said(rest.to_owned())),
        "-" => Ok(Reply::Refused(rest.to_owned())),
        ":" => Ok(Reply::Number(number()?)),
        "$" => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(length) => {
                *budget = budget.checked_sub(length).ok_or_else(too_long)?;
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Reply::Bytes(bytes))
            }
        },
        "*" => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(length) => {
                let depth = depth.checked_sub(1).ok_or_else(strange)?;
                *budget = length
                    .checked_mul(size_of::<Reply>())
                    .and_then(|size| budget.checked_sub(size))
                    .ok_or_else(too_long)?;
                (0..length).map(|_| read(stream, depth, budget)).collect::<io::Result<_>>().map(Reply::List)
            }
        },
        _ => Err(strange()),
    }
}

fn too_long() -> io::Error {
    io::Error::other(format!("the answer has more than {MAX_REPLY_BYTES} bytes"))
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no Redis server")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(text: &str) -> io::Result<Reply> {
        read(&mut text.as_bytes(), MAX_DEPTH, &mut { MAX_REPLY_BYTES })
    }

    #[test]
    fn commands_are_written_and_replies_read() {
        assert_eq!(command(&[b"GET", b"a b"]), b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
        for (text, reply) in [
            ("+OK\r\n", Reply::Said("OK".to_owned())),
            ("-ERR no\r\n", Reply::Refused("ERR no".to_owned())),
            (":-7\r\n", Reply::Number(-7)),
            ("$3\r\na\r\n\r\n", Reply::Bytes(b"a\r\n".to_vec())),
            ("$-1\r\n", Reply::Nil),
            ("*-1\r\n", Reply::Nil),
            (
                "*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
                Reply::List(vec![Reply::Number(1), Reply::List(vec![Reply::Bytes(vec![])])]),
            ),
        ] {
            assert_eq!(replies(text).expect(text), reply);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_before_it_takes_memory() {
        for text in ["", "HTTP/1.1 200 OK\r\n", "$x\r\n", "+OK", "$99999999999\r\n", "*99999999999\r\n", "$5\r\nab"] {
            assert!(replies(text).is_err(), "{text:?}");
        }
        assert!(replies(&"*1\r\n".repeat(9)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = read(&mut bytes.as_slice(), MAX_DEPTH, &mut { MAX_REPLY_BYTES });
        }
    }
}
