//! Reads a token: from the terminal, without showing it, or from standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use jit_client::controller::http::Token;
use rustix::{
    fd::AsFd,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};

use crate::failure::Failure;

/// The longest token that is read, bytes.
const MAX_BYTES: u64 = 4096;

/// Asks for a token.
pub(super) fn read_token(what: &str) -> Result<Token, Failure> {
    let stdin = io::stdin();
    let failed = |error: io::Error| Failure::usage(format!("cannot read the token: {error}"));
    let text = if stdin.is_terminal() {
        // First silent: who types at once would be seen.
        let silent = Silent::new(&stdin).map_err(failed)?;
        let _gone = write!(io::stderr(), "{what}: ");
        let text = typed(&mut stdin.lock());
        drop(silent);
        let _gone = writeln!(io::stderr());
        match text.map_err(failed)? {
            Some(text) => text,
            None => return Err(Failure::usage("no token was typed")),
        }
    } else {
        let mut line = String::new();
        stdin.lock().take(MAX_BYTES).read_line(&mut line).map_err(failed)?;
        line
    };
    Token::parse(&text).map_err(|why| {
        Failure::usage(format!(
            "{why}; type it, or give it on standard input: jitctl login ... < FILE"
        ))
    })
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

/// The letters until the end of the line; `None`: the person ended it (Ctrl-C, Ctrl-D, Ctrl-\).
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
