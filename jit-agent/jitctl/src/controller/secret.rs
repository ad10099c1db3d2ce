//! Asks for a token or a password, without showing it.

use std::io::{self, Write as _};

use jit_client::{controller::http::Token, secret};

use crate::failure::Failure;

/// Asks for a token.
pub(super) fn read_token(what: &str) -> Result<Token, Failure> {
    Token::parse(&read(what, "token")?).map_err(|why| {
        Failure::usage(format!(
            "{why}; type it, or give it on standard input: jitctl login ... < FILE"
        ))
    })
}

/// Asks for a password.
pub(super) fn read_password(what: &str) -> Result<String, Failure> {
    let line = read(what, "password")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    Ok(password.strip_suffix('\r').unwrap_or(password).to_owned())
}

/// One line. `kind`: what it is, for messages.
fn read(what: &str, kind: &str) -> Result<String, Failure> {
    let mut asked = false;
    let line = secret::line(|| {
        asked = true;
        let _gone = write!(io::stderr(), "{what}: ");
    });
    if asked {
        let _gone = writeln!(io::stderr());
    }
    let line = line.map_err(|error| Failure::usage(format!("cannot read the {kind}: {error}")))?;
    line.ok_or_else(|| Failure::usage(format!("no {kind} was typed")))
}
