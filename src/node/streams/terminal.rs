//! A terminal that is played to a client: what its keys mean, and what it shows. Pure.
//!
//! Programs of WASI have none to set up, so it is always in the kernel's canonical mode (termios(3) with ICANON,
//! ECHO, ECHOCTL, ICRNL and ONLCR): keys are shown, a line is the program's when it is ended, and until then
//! it can be corrected. There is nobody to whom a signal could be sent: the key that interrupts ends the command.

use bytes::{BufMut, Bytes, BytesMut};

/// The longest line that can be typed, as the kernel has it.
const MAX_LINE_BYTES: usize = 4095;

const BELL: u8 = 7;
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const CTRL_W: u8 = 23;
const ESCAPED_BY: u8 = 64;
const DELETE: u8 = 127;

/// What some keys come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the program.
    pub bytes: BytesMut,
    /// For the screen.
    pub echo: BytesMut,
    /// The program's input is at its end.
    pub ends: bool,
    /// The program is to end.
    pub interrupts: bool,
}

/// A keyboard, and the line that is being typed.
#[derive(Default)]
pub struct Keyboard {
    line: Vec<u8>,
}

impl Keyboard {
    /// Takes keys as a client's terminal sends them. What comes behind a key that ends or interrupts is lost.
    pub fn press(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for &key in keys {
            self.key(key, &mut typed);
            if typed.ends || typed.interrupts {
                break;
            }
        }
        typed
    }

    fn key(&mut self, key: u8, typed: &mut Typed) {
        match key {
            b'\r' | b'\n' => {
                typed.echo.put_slice(b"\r\n");
                self.line.push(b'\n');
                self.hand_over(typed);
            }
            CTRL_C => {
                self.line.clear();
                typed.interrupts = true;
            }
            // What has been typed goes as it is; nothing is the end.
            CTRL_D if self.line.is_empty() => typed.ends = true,
            CTRL_D => self.hand_over(typed),
            BACKSPACE | DELETE => self.erase(typed),
            CTRL_U => {
                while !self.line.is_empty() {
                    self.erase(typed);
                }
            }
            CTRL_W => {
                for part in [u8::is_ascii_whitespace, is_word] {
                    while self.line.last().is_some_and(part) {
                        self.erase(typed);
                    }
                }
            }
            _ if self.line.len() >= MAX_LINE_BYTES => typed.echo.put_u8(BELL),
            key => {
                self.line.push(key);
                if is_shown_by_name(key) {
                    typed.echo.put_slice(&[b'^', key ^ ESCAPED_BY]);
                } else {
                    typed.echo.put_u8(key);
                }
            }
        }
    }

    fn hand_over(&mut self, typed: &mut Typed) {
        typed.bytes.put_slice(&self.line);
        self.line.clear();
    }

    /// Takes the last character back, on the screen too.
    fn erase(&mut self, typed: &mut Typed) {
        let Some(mut last) = self.line.pop() else { return };
        // The rest of a character of UTF-8.
        while last & 0b1100_0000 == 0b1000_0000 {
            let Some(before) = self.line.pop() else { break };
            last = before;
        }
        let columns = if is_shown_by_name(last) { 2 } else { 1 };
        for _ in 0..columns {
            typed.echo.put_slice(b"\x08 \x08");
        }
    }
}

fn is_word(byte: &u8) -> bool {
    !byte.is_ascii_whitespace()
}

/// Whether the screen shows `^X` for it.
fn is_shown_by_name(key: u8) -> bool {
    key.is_ascii_control() && !matches!(key, b'\t' | b'\n' | b'\r')
}

/// A program's output as a terminal shows it: each line's end takes the cursor back to the left.
pub fn shown(bytes: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if *byte == b'\n' {
            text.put_u8(b'\r');
        }
        text.put_u8(*byte);
    }
    text.freeze()
}

/// Told to a client whose keys cannot be taken: the program reads none, and enough wait already.
pub fn refused() -> Bytes {
    Bytes::from_static(&[BELL])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn press(keys: &[u8]) -> (String, String, bool, bool) {
        let Typed { bytes, echo, ends, interrupts } = Keyboard::default().press(keys);
        let text = |bytes: BytesMut| String::from_utf8_lossy(&bytes).into_owned();
        (text(bytes), text(echo), ends, interrupts)
    }

    #[test]
    fn lines_are_shown_and_handed_over_when_they_end() {
        let cases: &[(&[u8], &str, &str)] = &[
            (b"ab", "", "ab"),
            (b"ab\r", "ab\n", "ab\r\n"),
            (b"a\nb\r", "a\nb\n", "a\r\nb\r\n"),
            (b"ab\x7fc\r", "ac\n", "ab\x08 \x08c\r\n"),
            (b"\x08\x7f\r", "\n", "\r\n"),
            ("ü€\x7f\x7fo\r".as_bytes(), "o\n", "ü€\x08 \x08\x08 \x08o\r\n"),
            (b"x y  \x17z\r", "x z\n", "x y  \x08 \x08\x08 \x08\x08 \x08z\r\n"),
            (b"ab\x15c\r", "c\n", "ab\x08 \x08\x08 \x08c\r\n"),
            (b"\x1b[A\x7f\x7f\x7f\r", "\n", "^[[A\x08 \x08\x08 \x08\x08 \x08\x08 \x08\r\n"),
            (b"a\tb\r", "a\tb\n", "a\tb\r\n"),
            (b"ab\x04", "ab", "ab"),
        ];
        for (keys, line, echo) in cases {
            assert_eq!(press(keys), ((*line).to_owned(), (*echo).to_owned(), false, false), "{keys:?}");
        }
    }

    #[test]
    fn keys_end_the_input_and_the_command() {
        assert_eq!(press(b"a\r\x04b"), ("a\n".to_owned(), "a\r\n".to_owned(), true, false));
        assert_eq!(press(b"ab\x03c"), (String::new(), "ab".to_owned(), false, true));
    }

    #[test]
    fn a_line_that_is_too_long_takes_no_more_keys() {
        let (line, echo, ..) = press(&[vec![b'x'; MAX_LINE_BYTES + 2], vec![b'\r']].concat());
        assert_eq!(line.len(), MAX_LINE_BYTES + 1);
        assert!(echo.ends_with("x\x07\x07\r\n"));
    }

    #[test]
    fn each_line_of_output_begins_at_the_left() {
        assert_eq!(shown(b"a\nb"), Bytes::from_static(b"a\r\nb"));
    }

    proptest! {
        #[test]
        fn any_keys_are_taken_however_they_are_cut(keys in proptest::collection::vec(any::<u8>(), 0..64)) {
            let whole = Keyboard::default().press(&keys);
            let (mut keyboard, mut parts) = (Keyboard::default(), Typed::default());
            for key in &keys {
                if parts.ends || parts.interrupts {
                    break;
                }
                let Typed { bytes, echo, ends, interrupts } = keyboard.press(&[*key]);
                parts.bytes.put_slice(&bytes);
                parts.echo.put_slice(&echo);
                (parts.ends, parts.interrupts) = (ends, interrupts);
            }
            prop_assert_eq!(whole, parts);
        }
    }
}
