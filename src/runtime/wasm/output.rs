//! A guest's standard output and error, line by line.
//!
//! Each instance has a buffer a stream, so that the lines of two instances of a container never mix.
//! A line longer than [`MAX_LINE_BYTES`] is passed on in pieces: the buffer is bounded whatever a guest
//! writes. What is left without a line's end is passed on when the instance ends; of a terminal, at once.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamResult};

use super::super::{Output, Stream};

/// The longest line kept together; as container runtimes cut it.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Bytes a guest may write at a time.
const WRITE_PERMIT: usize = 64 << 10;

/// One of an instance's two output streams.
#[derive(Clone)]
pub struct Lines {
    buffer: Arc<Mutex<LineBuffer>>,
    terminal: bool,
}

impl Lines {
    /// Of a `terminal` somebody sees also what is no whole line yet.
    pub fn new(output: Arc<dyn Output>, stream: Stream, terminal: bool) -> Self {
        Self { buffer: Arc::new(Mutex::new(LineBuffer { output, stream, pending: Vec::new() })), terminal }
    }

    fn push(&self, bytes: &[u8]) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.push(bytes);
        if self.terminal {
            buffer.flush();
        }
    }
}

struct LineBuffer {
    output: Arc<dyn Output>,
    stream: Stream,
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
}

impl LineBuffer {
    fn push(&mut self, mut bytes: &[u8]) {
        if !self.pending.is_empty() {
            let rest_of_line = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
            let (rest, after) = bytes.split_at(rest_of_line);
            self.pending.extend_from_slice(rest);
            bytes = after;
            if self.pending.ends_with(b"\n") || self.pending.len() >= MAX_LINE_BYTES {
                self.flush();
            }
        }
        let complete = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (lines, rest) = bytes.split_at(complete);
        if !lines.is_empty() {
            self.output.write(self.stream, lines);
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() >= MAX_LINE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.output.write(self.stream, &self.pending);
            self.pending.clear();
        }
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

/// A stream of a terminal's.
pub struct OnTerminal<S>(pub S);

impl<S> IsTerminal for OnTerminal<S> {
    fn is_terminal(&self) -> bool {
        true
    }
}

impl<S: StdinStream> StdinStream for OnTerminal<S> {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.0.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.0.p2_stream()
    }
}

impl<S: StdoutStream> StdoutStream for OnTerminal<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        self.0.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        self.0.p2_stream()
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Output for Recorder {
        fn write(&self, _: Stream, bytes: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    fn written(chunks: &[&str]) -> Vec<String> {
        let recorder = Arc::new(Recorder::default());
        let lines = Lines::new(recorder.clone(), Stream::Stdout, false);
        for chunk in chunks {
            lines.push(chunk.as_bytes());
        }
        drop(lines);
        let written = recorder.0.lock().unwrap();
        written.clone()
    }

    #[test]
    fn lines_are_passed_on_whole() {
        assert_eq!(written(&["a\nb\n"]), ["a\nb\n"]);
        assert_eq!(written(&["he", "llo\nwor", "ld\n"]), ["hello\n", "world\n"]);
        assert_eq!(written(&["no end"]), ["no end"]);
        assert_eq!(written(&["a", "\n", "", "b\nc\nd"]), ["a\n", "b\nc\n", "d"]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let long = "x".repeat(MAX_LINE_BYTES - 1);
        assert_eq!(written(&[&long, "yz", "\n"]), [format!("{long}yz"), "\n".to_owned()]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_reordered(chunks in proptest::collection::vec("[ab\n]{0,6}", 0..20)) {
            let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(written(&chunks).concat(), chunks.concat());
        }
    }
}
