//! SPDY/3.1 as far as a server of exec, attach and port-forward needs it: bytes to frames and back, nothing
//! else.
//!
//! ```text
//! control  1 | version:15 | type:16 | flags:8 | length:24 | …     data  0 | stream:31 | flags:8 | length:24 | …
//! ```
//!
//! Names and values of a stream's headers come compressed, all headers of a connection by one compressor,
//! with the dictionary of the protocol's draft. There is no flow control by windows here, for the only
//! clients (client-go's `spdystream`) send no window updates and look at none: what holds a sender back
//! is the transport. Every length is bounded before anything is kept or allocated for it.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const HEAD: usize = 8;
/// A client copies at most 32 KiB at a time.
const MAX_DATA: usize = 1 << 20;
/// The headers of a stream have some hundred bytes.
const MAX_CONTROL: usize = 16 << 10;
const MAX_HEADER_BLOCK: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;

/// Why a stream is refused.
pub const REFUSED_STREAM: u32 = 3;
/// The number of our pings; those of servers are even.
pub const OWN_PING: u32 = 2;

/// Whether a ping is the client's, which wants an answer, and not its answer to ours.
pub fn is_clients_ping(id: u32) -> bool {
    !id.is_multiple_of(2)
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `headers` have their names in lower case.
    Open {
        stream: u32,
        fin: bool,
        headers: Vec<(String, String)>,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping(u32),
    GoAway,
    /// Settings, window updates, late headers: nothing that would change what is done.
    Other,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("a frame of {0} bytes, more than are taken")]
    TooLong(usize),
    #[error("a frame of type {0} that is shorter than its parts")]
    Short(u16),
    #[error("stream 0, or a stream that only this side may open")]
    Stream,
    #[error("headers that cannot be expanded or read")]
    Headers,
}

/// From bytes to frames.
pub struct Decoder {
    pending: BytesMut,
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { pending: BytesMut::new(), inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes in what has come. Frames are to be taken out before more comes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has come.
    pub fn frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        let Some(mut head) = self.pending.get(..HEAD) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let length = (second & 0x00ff_ffff) as usize;
        let is_control = first & CONTROL != 0;
        if length > if is_control { MAX_CONTROL } else { MAX_DATA } {
            return Err(SpdyError::TooLong(length));
        }
        if is_control && (first >> 16 & 0x7fff) as u16 != VERSION {
            return Err(SpdyError::Version((first >> 16 & 0x7fff) as u16));
        }
        if self.pending.len() < HEAD + length {
            return Ok(None);
        }
        let mut frame = self.pending.split_to(HEAD + length).freeze();
        frame.advance(HEAD);
        let fin = (second >> 24) as u8 & FIN != 0;
        match is_control {
            true => self.control((first & 0xffff) as u16, fin, frame).map(Some),
            false if first == 0 => Err(SpdyError::Stream),
            false => Ok(Some(Frame::Data { stream: first, fin, bytes: frame })),
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut frame: Bytes) -> Result<Frame, SpdyError> {
        let mut word = || if frame.len() < 4 { Err(SpdyError::Short(kind)) } else { Ok(frame.get_u32()) };
        Ok(match kind {
            SYN_STREAM => {
                let stream = word()? & !CONTROL;
                let _associated = word()?;
                if frame.len() < 2 {
                    return Err(SpdyError::Short(kind));
                }
                frame.advance(2);
                // Streams that clients open have odd numbers.
                if stream.is_multiple_of(2) {
                    return Err(SpdyError::Stream);
                }
                Frame::Open { stream, fin, headers: self.headers(&frame)? }
            }
            // The headers say nothing here, but all that comes after them was compressed with them.
            SYN_REPLY | HEADERS => {
                word()?;
                self.headers(&frame)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: word()? & !CONTROL },
            PING => Frame::Ping(word()?),
            GOAWAY => Frame::GoAway,
            SETTINGS | WINDOW_UPDATE => Frame::Other,
            // As the protocol wants it, what is not known is passed over.
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let block = self.expand(compressed)?;
        let mut block = block.as_slice();
        let count = take_word(&mut block)?;
        if count > MAX_HEADERS {
            return Err(SpdyError::Headers);
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            headers.push((take_text(&mut block)?.to_lowercase(), take_text(&mut block)?));
        }
        Ok(headers)
    }

    fn expand(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut block = vec![0; MAX_HEADER_BLOCK];
        let mut filled = 0;
        while !compressed.is_empty() {
            let room = block.get_mut(filled..).filter(|room| !room.is_empty()).ok_or(SpdyError::Headers)?;
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress(compressed, room, FlushDecompress::Sync);
            let (read, written) = (self.inflate.total_in() - read, self.inflate.total_out() - written);
            compressed =
                usize::try_from(read).ok().and_then(|read| compressed.get(read..)).ok_or(SpdyError::Headers)?;
            filled += usize::try_from(written).map_err(|_| SpdyError::Headers)?;
            match done {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers),
                Ok(_) if read == 0 && written == 0 => return Err(SpdyError::Headers),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Headers)?;
                }
                Err(_) => return Err(SpdyError::Headers),
            }
        }
        block.truncate(filled);
        Ok(block)
    }
}

fn take_word(block: &mut &[u8]) -> Result<usize, SpdyError> {
    if block.len() < 4 {
        return Err(SpdyError::Headers);
    }
    usize::try_from(block.get_u32()).map_err(|_| SpdyError::Headers)
}

fn take_text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_word(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(SpdyError::Headers)?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The server's replies to opened streams; they alone carry headers.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        // It is refused only after something was compressed.
        let _ = deflate.set_dictionary(&DICTIONARY);
        Self { deflate }
    }
}

impl Encoder {
    /// Agrees to a stream, without headers.
    pub fn reply(&mut self, stream: u32) -> Bytes {
        let mut block = [0; 128];
        let before = self.deflate.total_out();
        // Four bytes come out as some ten, so that one call is enough.
        let _ = self.deflate.compress(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync);
        let length = usize::try_from(self.deflate.total_out() - before).unwrap_or(0);
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(block.get(..length).unwrap_or_default());
        control(SYN_REPLY, &payload)
    }
}

/// Bytes of a stream; with `fin` the last.
pub fn data(stream: u32, fin: bool, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(stream & !CONTROL);
    frame.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | bytes.len() as u32 & 0x00ff_ffff);
    frame.put_slice(bytes);
    frame.freeze()
}

pub fn reset(stream: u32, status: u32) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    payload.put_u32(status);
    control(RST_STREAM, &payload)
}

pub fn ping(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + payload.len());
    frame.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

/// The compressor's dictionary, of the draft's section 2.6.10.1: words, each after its length, then text.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.iter().flat_map(|line| line.split('|')) {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(TEXT.concat().as_bytes());
    dictionary
});

const WORDS: &[&str] = &[
    "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges",
    "age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language",
    "content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host",
    "if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards",
    "pragma|proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer",
    "transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version",
    "HTTP/1.1|url|public|set-cookie|keep-alive|origin",
];

const TEXT: &[&str] = &[
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
];

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's frames.
    pub struct Client(Compress);

    impl Default for Client {
        fn default() -> Self {
            let mut deflate = Compress::new(Compression::best(), true);
            // RFC 1950's checksum of the draft's dictionary.
            assert_eq!(deflate.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
            Self(deflate)
        }
    }

    impl Client {
        fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut block = BytesMut::new();
            block.put_u32(headers.len() as u32);
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                block.put_u32(text.len() as u32);
                block.put_slice(text.as_bytes());
            }
            let mut out = vec![0; 64 << 10];
            let before = self.0.total_out();
            self.0.compress(&block, &mut out, FlushCompress::Sync).unwrap();
            out.truncate((self.0.total_out() - before) as usize);
            out
        }

        pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
            let mut payload = BytesMut::new();
            payload.put_u32(stream);
            payload.put_u32(0);
            payload.put_u16(0);
            payload.put_slice(&self.block(headers));
            control(SYN_STREAM, &payload)
        }
    }

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut client = Client::default();
        let mut sent = BytesMut::new();
        sent.put(client.open(1, &[("streamType", "error"), ("port", "80"), ("requestID", "0")]));
        sent.put(data(1, true, b""));
        sent.put(client.open(3, &[("streamType", "data"), ("port", "80"), ("requestID", "0")]));
        sent.put(data(3, false, b"hello"));
        sent.put(ping(7));
        sent.put(control(SETTINGS, &[0; 4]));
        sent.put(control(WINDOW_UPDATE, &[0; 8]));
        sent.put(reset(3, REFUSED_STREAM));
        sent.put(control(GOAWAY, &[0; 8]));
        let open = |stream, kind: &str| {
            let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let headers = vec![text("streamtype", kind), text("port", "80"), text("requestid", "0")];
            Frame::Open { stream, fin: false, headers }
        };
        let wanted = [
            open(1, "error"),
            Frame::Data { stream: 1, fin: true, bytes: Bytes::new() },
            open(3, "data"),
            Frame::Data { stream: 3, fin: false, bytes: Bytes::from_static(b"hello") },
            Frame::Ping(7),
            Frame::Other,
            Frame::Other,
            Frame::Reset { stream: 3 },
            Frame::GoAway,
        ];
        assert_eq!(frames(&sent).unwrap(), wanted);
        let mut decoder = Decoder::default();
        let mut one_by_one = Vec::new();
        for byte in &sent {
            decoder.push(&[*byte]);
            one_by_one.extend(decoder.frame().unwrap());
        }
        assert_eq!(one_by_one, wanted);
    }

    #[test]
    fn replies_are_read_with_the_same_dictionary() {
        let mut encoder = Encoder::default();
        let mut reader = Decoder::default();
        for stream in [1, 3, 5] {
            let reply = encoder.reply(stream);
            assert_eq!(reader.headers(reply.get(HEAD + 4..).unwrap()), Ok(Vec::new()));
        }
    }

    #[test]
    fn what_is_too_long_or_wrong_ends_the_connection() {
        let mut long = BytesMut::new();
        long.put_u32(1);
        long.put_u32(MAX_DATA as u32 + 1);
        assert_eq!(frames(&long), Err(SpdyError::TooLong(MAX_DATA + 1)));
        assert_eq!(frames(&data(0, false, b"")), Err(SpdyError::Stream));
        assert_eq!(frames(&Client::default().open(2, &[])), Err(SpdyError::Stream));
        assert_eq!(frames(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        assert_eq!(frames(&control(SYN_STREAM, &[0, 0, 0, 1])), Err(SpdyError::Short(SYN_STREAM)));
        let not_compressed = control(SYN_STREAM, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(frames(&not_compressed), Err(SpdyError::Headers));
        // Few bytes that expand to many.
        let bomb = Client::default().open(1, &[("a", &"x".repeat(40_000))]);
        assert!(bomb.len() < 1000);
        assert_eq!(frames(&bomb), Err(SpdyError::Headers));
        let many: Vec<(&str, &str)> = (0..MAX_HEADERS + 1).map(|_| ("a", "b")).collect();
        assert_eq!(frames(&Client::default().open(1, &many)), Err(SpdyError::Headers));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u16..12) {
            let _ = frames(&bytes);
            let _ = frames(&control(kind, &bytes));
        }

        #[test]
        fn a_changed_header_block_is_read_or_refused(at in 0_usize..60, with in any::<u8>()) {
            let mut sent = Client::default().open(1, &[("streamType", "data"), ("port", "80")]).to_vec();
            if let Some(byte) = sent.get_mut(HEAD + 10 + at) {
                *byte = with;
            }
            let _ = frames(&sent);
        }
    }
}
