//! The last line of a configuration that `init` wrote: by it `init` knows its own text again.

use sha2::{Digest as _, Sha256};

/// Before the checksum of everything above it.
const MARK: &str = "# jit-agent init, unedited, sha256 ";

/// The text with its last line.
pub(super) fn marked(text: String) -> String {
    let sum = hex::encode(Sha256::digest(&text));
    text + MARK + &sum + "\n"
}

/// Whether `init` wrote this, and nobody edited it.
pub(super) fn is_ours(text: &str) -> bool {
    let Some((above, sum)) = text.rsplit_once(MARK) else { return false };
    sum.trim_end() == hex::encode(Sha256::digest(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_text_is_known_again_until_somebody_edits_it() {
        let text = marked("port = 22\nmax_duration = \"3h\"\n".into());
        assert!(is_ours(&text));
        for edited in [text.replace("22", "23"), text.replace("3h", "4h"), text.replace(MARK, "#")]
        {
            assert!(!is_ours(&edited));
        }
        assert!(!is_ours(""));
    }
}
