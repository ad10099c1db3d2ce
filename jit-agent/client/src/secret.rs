//! One secret line: from the terminal, without showing it, or from standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use rustix::{
    fd::AsFd,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// The longest secret that is read, bytes.
const MAX_BYTES: u64 = 4096;

/// Reads a line of standard input; `None`: the person at the terminal ended it (Ctrl-C, Ctrl-D,
/// Ctrl-\).
///
/// `ask` writes the question; it is called for a terminal only, when nothing is shown any more.
///
/// # Errors
/// Those of the terminal or of standard input.
pub fn line(ask: impl FnOnce()) -> io::Result<Option<String>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin.lock().take(MAX_BYTES).read_line(&mut line)?;
        return Ok(Some(line));
    }
    // First silent: who types at once would be seen.
    let _silent = Silent::new(&stdin)?;
    ask();
    typed(&mut stdin.lock())
}

/// A terminal that shows nothing of what is typed. Dropped, it is as it was.
struct Silent<F: AsFd> {
    terminal: F,
    before: Termios,
}

impl<F: AsFd> Silent<F> {
    fn new(terminal: F) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        // Also without signals: one in the middle would leave the terminal silent.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl<F: AsFd> Drop for Silent<F> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _gone = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// The letters until the end of the line.
fn typed(keys: &mut impl io::BufRead) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    for key in keys.take(MAX_BYTES).bytes() {
        match key? {
            b'\r' | b'\n' => return Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            3 | 4 | 28 => return Ok(None),
            8 | 127 => {
                text.pop();
            }
            // Ctrl-U
            21 => text.clear(),
            letter => text.push(letter),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_can_be_mended_and_ended() {
        let read = |keys: &[u8]| typed(&mut &keys[..]).unwrap();
        assert_eq!(read(b"jit_abc\r"), Some("jit_abc".into()));
        assert_eq!(read(b"wrong\x15jit_x\x7fb\n"), Some("jit_b".into()));
        assert_eq!(read(b"\x7f\x7fa\n"), Some("a".into()));
        for end in [&b"jit\x03"[..], b"\x04", b"jit\x1c", b"jit"] {
            assert_eq!(read(end), None);
        }
    }
}
