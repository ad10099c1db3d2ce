//! The text of a token: 32 random bytes that only its holder knows.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret;

/// How a token begins, so that scanners for secrets find it.
pub const PREFIX: &str = "jit_";

/// The text of a token. It is printed nowhere by accident: it has no `Debug` or `Display` of the text.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one.
    ///
    /// # Panics
    /// The kernel has no random bytes (getrandom(2) fails only before the machine has any).
    pub fn generate() -> Self {
        Self(Zeroizing::new(format!("{PREFIX}{}", *secret::fresh())))
    }

    /// The one with this text, if it has the form of a token.
    pub fn of_text(text: &str) -> Option<Self> {
        let letters = text.strip_prefix(PREFIX)?;
        secret::is_text(letters).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the store keeps: SHA-256, 64 hex digits. A token has 256 random bits, so that nothing slower
    /// is needed.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    /// The text, to be shown to its holder once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_form_and_hides_its_text() {
        let secret = Secret::generate();
        assert_eq!(secret.expose().len(), PREFIX.len() + secret::LETTERS);
        assert_eq!(Secret::of_text(secret.expose()).unwrap().hash(), secret.hash());
        assert_ne!(Secret::generate().hash(), secret.hash());
        assert!(!format!("{secret:?}").contains(secret.expose()));
        for bad in ["", "jit_", "jit_x", &secret.expose()[4..], &format!("{}x", secret.expose())] {
            assert!(Secret::of_text(bad).is_none(), "{bad}");
        }
        assert!(Secret::of_text(&secret.expose().replace('_', "/")).is_none());
    }
}
