//! The ID token of a session, kept for the sign-out at the provider (OpenID Connect RP-Initiated
//! Logout 1.0, `id_token_hint`). It is encrypted with a key that follows from what only the browser
//! has: a thief of the database learns nothing of people.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

/// Longest token that is kept, bytes: it becomes a part of an address.
const LONGEST: usize = 4096;

/// Encrypts a token; empty: it is too long.
pub(super) fn seal(form_key: &str, token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    if bytes.len() > LONGEST {
        return String::new();
    }
    let sealed = key(form_key).and_then(|key| {
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut bytes).ok().map(|()| bytes)
    });
    sealed.map_or(String::new(), |bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// The token again.
pub(in crate::people) fn open(form_key: &str, sealed: &str) -> Option<String> {
    let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let opened = key(form_key)?.open_in_place(nonce(), Aad::empty(), &mut bytes).ok()?;
    String::from_utf8(opened.to_vec()).ok()
}

fn key(form_key: &str) -> Option<LessSafeKey> {
    let mut digest = Sha256::new();
    digest.update(b"jit-controller oidc hint\0");
    digest.update(form_key.as_bytes());
    UnboundKey::new(&AES_256_GCM, &digest.finalize()).ok().map(LessSafeKey::new)
}

/// Each key encrypts one text: a session has one token.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_session_itself_opens_it() {
        let sealed = seal("one", "a.b.c");
        assert!(!sealed.contains("a.b.c"));
        assert_eq!(open("one", &sealed).unwrap(), "a.b.c");
        assert_eq!(open("two", &sealed), None);
        assert_eq!(open("one", ""), None);
        assert_eq!(open("one", &sealed.replace(&sealed[..2], "__")), None);
        assert_eq!(seal("one", &"x".repeat(LONGEST + 1)), "");
    }
}
