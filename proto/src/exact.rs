//! A signed payload is decoded wholly or not at all.

use prost::Message;

/// Decodes a signed payload. It must be exactly what this version would encode: fields in the order
/// of their numbers, each in its shortest form, a true `bool` as 1, no field at its default.
///
/// A field that this version does not know could narrow a grant: to ignore it would open more than
/// was signed. And what has one encoding only cannot be signed once and come in two forms
/// (protobuf's own encoding is not canonical: <https://protobuf.dev/programming-guides/serialization-not-canonical/>).
/// `name` is the message's, `jit.v1.Grant`, for the error.
///
/// # Errors
/// It is no such message, or not in this encoding.
pub fn decode<M: Message + Default>(name: &str, payload: &[u8]) -> Result<M, String> {
    let message = M::decode(payload)
        .map_err(|error| format!("the signed payload is not a {name}: {error}"))?;
    if message.encode_to_vec() == payload {
        return Ok(message);
    }
    Err("the payload has fields that this version does not know, or is not encoded minimally, with its fields in the \
         order of their numbers"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Revocation;

    #[test]
    fn only_one_encoding_is_taken() {
        let (all, author) = ([0x28, 1], [0x42, 2, b'b', b'o']);
        let good = [all.as_slice(), &author].concat();
        let message: Revocation = decode("jit.v1.Revocation", &good).unwrap();
        assert!(message.all && message.author == "bo");
        let others: [(&str, Vec<u8>); 6] = [
            ("true as 9", [[0x28, 9].as_slice(), &author].concat()),
            ("a padded varint", [[0x28, 0x81, 0].as_slice(), &author].concat()),
            ("another order", [author.as_slice(), &all].concat()),
            ("twice", [all.as_slice(), &all, &author].concat()),
            ("a default", [all.as_slice(), &[0x38, 0], &author].concat()),
            ("an unknown field", [good.as_slice(), &[0x78, 1]].concat()),
        ];
        for (what, bytes) in others {
            let refused = decode::<Revocation>("jit.v1.Revocation", &bytes).unwrap_err();
            assert!(refused.contains("order of their numbers"), "{what}: {refused}");
        }
        let none = decode::<Revocation>("jit.v1.Revocation", &[0xff]).unwrap_err();
        assert!(none.contains("is not a jit.v1.Revocation"), "{none}");
    }
}
