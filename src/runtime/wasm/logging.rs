//! `wasi:logging/logging`: lines in the container's log, with their level.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::super::Stream;
use super::guest::Guest;

/// The draft that is offered.
pub const VERSION: &str = "0.1.0-draft";
/// A message is cut to the longest line that the log keeps together.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "guests make them")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

/// Defines the interface; older programs import it without a version.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in [&format!("wasi:logging/logging@{VERSION}"), "wasi:logging/logging"] {
        linker.instance(name)?.func_wrap(
            "log",
            |store: StoreContextMut<'_, Guest>, (level, context, message): (Level, String, String)| {
                store.data().log(Stream::Stderr, &line(level, &context, &message));
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// One line, whatever the message has in it: nobody writes lines that seem another's.
fn line(level: Level, context: &str, message: &str) -> String {
    let level = format!("{level:?}").to_uppercase();
    let separator = if context.is_empty() { "" } else { ": " };
    let mut line = format!("{level} {context}{separator}{message}");
    line.truncate(line.floor_char_boundary(MAX_MESSAGE_BYTES));
    let mut line = line.trim_end().replace('\r', "\\r").replace('\n', "\\n");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(line(Level::Warn, "cart", "is empty"), "WARN cart: is empty\n");
        assert_eq!(line(Level::Critical, "", "two\nlines\n"), "CRITICAL two\\nlines\n");
        assert!(line(Level::Info, "", &"é".repeat(MAX_MESSAGE_BYTES)).len() <= MAX_MESSAGE_BYTES + 1);
    }
}
