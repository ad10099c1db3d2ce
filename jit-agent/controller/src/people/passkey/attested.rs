//! The CBOR of a new passkey (RFC 8949): the attestation object around authenticatorData, and the
//! public key in it as a COSE_Key (RFC 9052 section 7). What the attestation says of the maker is
//! not looked at.

use std::collections::BTreeMap;

use ciborium::Value;
use jit_client::public_key::PublicKey;

/// Deepest nesting: a certificate chain in an attestation has two.
const DEPTH: usize = 8;
/// Labels of a COSE_Key, and their values (RFC 9053 sections 2 and 7).
const KEY_TYPE: i64 = 1;
const ALGORITHM: i64 = 3;
const CURVE: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;
const OKP: i64 = 1;
const EC2: i64 = 2;
const ED25519: i64 = 6;
const P256: i64 = 1;
/// Algorithms (IANA, COSE Algorithms).
pub(super) const EDDSA: i64 = -8;
pub(super) const ES256: i64 = -7;

/// The authenticatorData in an attestation object.
///
/// # Errors
/// It is none, in words.
pub(super) fn authenticator_data(object: &[u8]) -> Result<Vec<u8>, String> {
    let mut rest = object;
    let Value::Map(entries) = next(&mut rest)? else { return Err("it is no map of CBOR".into()) };
    if !rest.is_empty() {
        return Err(format!("{} bytes after its end", rest.len()));
    }
    let mut found = None;
    for (key, value) in entries {
        if key.as_text() == Some("authData") && found.replace(value).is_some() {
            return Err("authData is there twice".into());
        }
    }
    match found {
        Some(Value::Bytes(bytes)) => Ok(bytes),
        _ => Err("it has no bytes as authData".into()),
    }
}

/// The public key, and nothing else but extensions after it.
///
/// # Errors
/// It is no key of Ed25519 or P-256, in words.
pub(super) fn public_key(cose: &[u8], has_extensions: bool) -> Result<PublicKey, String> {
    let mut rest = cose;
    let Value::Map(entries) = next(&mut rest)? else { return Err("it is no map of CBOR".into()) };
    if has_extensions && !next(&mut rest)?.is_map() {
        return Err("the extensions after it are no map of CBOR".into());
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes after its end", rest.len()));
    }
    let mut key = BTreeMap::new();
    for (label, value) in entries {
        // Labels may be texts too: none that is looked at.
        let Some(label) = label.as_integer().and_then(|label| i64::try_from(label).ok()) else {
            continue;
        };
        if key.insert(label, value).is_some() {
            return Err(format!("the label {label} is there twice"));
        }
    }
    let number = |label: i64| {
        let value = key.get(&label).and_then(Value::as_integer);
        value.and_then(|value| i64::try_from(value).ok())
    };
    let bytes = |label: i64| {
        let bytes = key.get(&label).and_then(Value::as_bytes);
        let bytes = bytes.filter(|bytes| bytes.len() == 32);
        bytes.ok_or_else(|| format!("it has no 32 bytes at the label {label}"))
    };
    match (number(KEY_TYPE), number(ALGORITHM), number(CURVE)) {
        (Some(EC2), Some(ES256), Some(P256)) => {
            PublicKey::from_p256_point(&[&[4][..], bytes(X)?.as_slice(), bytes(Y)?].concat())
        }
        (Some(OKP), Some(EDDSA), Some(ED25519)) => PublicKey::from_ed25519(bytes(X)?),
        _ => Err("it is neither ES256 with P-256 nor EdDSA with Ed25519".into()),
    }
}

/// The next item.
fn next(rest: &mut &[u8]) -> Result<Value, String> {
    ciborium::de::from_reader_with_recursion_limit(rest, DEPTH).map_err(|error| match error {
        ciborium::de::Error::Io(_) => "the CBOR breaks off".to_owned(),
        ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
        ciborium::de::Error::Semantic(_, why) => format!("no CBOR that is read here: {why}"),
        ciborium::de::Error::RecursionLimitExceeded => "the CBOR is nested too deeply".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    }

    fn map(entries: &[(i64, Value)]) -> Vec<u8> {
        let entry = |(label, value): &(i64, Value)| (Value::from(*label), value.clone());
        written(&Value::Map(entries.iter().map(entry).collect()))
    }

    fn ed25519() -> Vec<(i64, Value)> {
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let x = Value::Bytes(key.to_bytes().to_vec());
        vec![(1, 1.into()), (3, (-8).into()), (-1, 6.into()), (-2, x)]
    }

    fn p256() -> Vec<(i64, Value)> {
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let part = |part: Option<&[u8]>| Value::Bytes(part.unwrap().to_vec());
        vec![
            (1, 2.into()),
            (3, (-7).into()),
            (-1, 1.into()),
            (-2, part(point.x().map(|x| x.as_slice()))),
            (-3, part(point.y().map(|y| y.as_slice()))),
        ]
    }

    #[test]
    fn keys_of_both_algorithms_are_read_and_nothing_after_them() {
        for entries in [ed25519(), p256()] {
            let bytes = map(&entries);
            let key = public_key(&bytes, false).unwrap();
            let with = |more: &[u8]| [bytes.as_slice(), more].concat();
            assert_eq!(public_key(&with(b"\xa0"), true).unwrap(), key);
            for (more, extensions) in [(&b"\xa0"[..], false), (b"", true), (b"\x01", true)] {
                assert!(public_key(&with(more), extensions).is_err(), "{more:?}");
            }
            for cut in 0..bytes.len() {
                assert!(public_key(&bytes[..cut], false).is_err(), "{cut}");
            }
            // What has the algorithm of the other, or a field less or twice.
            for place in 0..entries.len() {
                let mut less = entries.clone();
                let one = less.remove(place);
                assert!(public_key(&map(&less), false).is_err(), "{one:?}");
                let twice = [entries.clone(), vec![one.clone()]].concat();
                assert!(public_key(&map(&twice), false).is_err(), "{one:?}");
                let other = [less, vec![(one.0, Value::from(99))]].concat();
                assert!(public_key(&map(&other), false).is_err(), "{one:?}");
            }
        }
    }

    #[test]
    fn a_point_that_is_none_is_refused() {
        let mut entries = p256();
        entries[4].1 = Value::Bytes(vec![1; 32]);
        assert!(public_key(&map(&entries), false).is_err());
        let mut weak = ed25519();
        let mut small = vec![0; 32];
        small[0] = 1;
        weak[3].1 = Value::Bytes(small);
        assert!(public_key(&map(&weak), false).is_err());
    }

    #[test]
    fn an_attestation_object_is_one_map_with_one_authenticator_data() {
        let text = |text: &str| Value::Text(text.into());
        let data = (text("authData"), Value::Bytes(vec![1, 2]));
        let rest =
            [(text("fmt"), text("none")), (text("attStmt"), Value::Map(Vec::new()))].to_vec();
        let object = |more: &[(Value, Value)]| written(&Value::Map([&rest[..], more].concat()));
        let good = object(std::slice::from_ref(&data));
        assert_eq!(authenticator_data(&good), Ok(vec![1, 2]));
        let mut deep = vec![0x81; 10_000];
        deep.push(0);
        // A length that no memory has.
        let huge = b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
        let bytes = b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
        for bad in [
            Vec::new(),
            vec![0],
            object(&[]),
            object(&[data.clone(), data.clone()]),
            object(&[(text("authData"), text("x"))]),
            [good.as_slice(), &[0]].concat(),
            good[..good.len() - 1].to_vec(),
            deep,
            huge,
            bytes,
        ] {
            assert!(authenticator_data(&bad).is_err(), "{:?}", bad.get(..20));
        }
    }
}
