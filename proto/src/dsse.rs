//! DSSE (<https://github.com/secure-systems-lab/dsse>, protocol.md): the bytes that are signed, and
//! the limits of an envelope.

/// Largest encoded envelope, bytes.
pub const MAX_ENVELOPE_BYTES: usize = 256 * 1024;
/// Most signatures on one envelope.
pub const MAX_SIGNATURES: usize = 8;

/// DSSE's pre-authentication encoding: the bytes that are signed (docs/grants.md, section
/// "Envelope").
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of DSSE's protocol.md.
    #[test]
    fn encoding_is_the_one_of_the_specification() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
