//! Bytes in JSON as base64: `#[serde(with = "base64_text")]`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Writes the bytes.
pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Reads the bytes.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(|_| D::Error::custom("it is not base64"))
}

/// The same for bytes that may be missing.
pub(super) mod option {
    use super::*;

    /// Writes the bytes, or null.
    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(in crate::signer) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the bytes, or null.
    pub(in crate::signer) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let read = |text| STANDARD.decode(text).map_err(|_| D::Error::custom("it is not base64"));
        text.map(read).transpose()
    }
}
