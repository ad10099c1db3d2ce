//! Secrets: 256 random bits as text, and those that stand in files of their own.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Random bytes of a secret.
const BYTES: usize = 32;
/// Letters of its text: base64url without padding (RFC 4648 section 5).
pub(crate) const LETTERS: usize = 43;

/// The text of a new one.
///
/// # Panics
/// The kernel has no random bytes (getrandom(2) fails only before the machine has any).
pub(crate) fn fresh() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0_u8; BYTES]);
    SystemRandom::new().fill(bytes.as_mut_slice()).expect("getrandom(2) answers");
    Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes))
}

/// Whether a text has the form of such a one.
pub(crate) fn is_text(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.len() == LETTERS && text.bytes().all(plain)
}

/// Reads a secret from its file, without the space around it.
///
/// # Errors
/// The file, and why it cannot be used.
pub(crate) fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    match text.trim() {
        "" => Err(format!("{}: it is empty", file.display())),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_secret_has_the_form_and_is_never_the_same() {
        let text = fresh();
        assert!(is_text(&text) && *text != *fresh());
        for bad in ["", &text[1..], &format!("{}x", *text), &format!("{}/", &text[1..])] {
            assert!(!is_text(bad), "{bad}");
        }
    }
}
