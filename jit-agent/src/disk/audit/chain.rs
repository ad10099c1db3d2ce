//! The chain: each record carries the SHA-256 of the whole line before it.
//!
//! `sed -n 5p audit.jsonl | tr -d '\n' | sha256sum` gives the `prev` of line 6: any tool can check it.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// SHA-256 of a line without its newline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineHash([u8; 32]);

impl LineHash {
    /// The value in the very first record: 32 zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash as bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of a line without its newline.
    pub fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }
}

/// A hash as 64 hex digits. (`hex::encode` makes one letter after the other.)
pub(super) fn hex_of<'t>(hash: &[u8; 32], text: &'t mut [u8; 64]) -> &'t str {
    hex::encode_to_slice(hash, text).expect("two digits for each byte");
    str::from_utf8(text).expect("hex digits are ASCII")
}

impl fmt::Display for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hex_of(&self.0, &mut [0; 64]))
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LineHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| format!("{text:?} is not a SHA-256 (64 hex digits)"))?;
        Ok(Self(bytes))
    }
}

/// The last record of a chain. The next record continues from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The record's number; the first record has 1.
    pub seq: u64,
    /// The hash of its line.
    pub hash: LineHash,
}

impl Tip {
    /// Before the first record.
    pub const START: Self = Self { seq: 0, hash: LineHash::ZERO };
}

/// `SEQ:HASH`, the form in which heads are kept outside of the host.
impl fmt::Display for Tip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Tip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once(':')
            .and_then(|(seq, hash)| Some(Self { seq: seq.parse().ok()?, hash: hash.parse().ok()? }))
            .ok_or_else(|| {
                format!("{text:?} is not a head; a head looks like 1234:0a1b... (SEQ:HASH)")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_one_of_sha256sum() {
        let hash = LineHash::of(b"hello");
        let text = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(hash.to_string(), text);
        let tip = Tip { seq: 7, hash };
        assert_eq!(tip.to_string().parse(), Ok(tip));
        assert!("7:xy".parse::<Tip>().is_err());
    }
}
