//! A grant's id: 16 bytes, shown and read as a ULID.

use std::{fmt, str::FromStr};

/// A grant's id: 16 bytes, shown and read as a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub [u8; 16]);

impl GrantId {
    /// From the bytes of a message; `None` unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(ulid::Ulid::from_bytes(self.0).array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

impl FromStr for GrantId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ulid::Ulid::from_string(text)
            .map(|ulid| Self(ulid.to_bytes()))
            .map_err(|error| format!("`{text}` is not a grant id (a ULID, 26 letters): {error}"))
    }
}
