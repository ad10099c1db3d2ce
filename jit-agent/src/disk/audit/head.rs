//! Heads: the end of the chain, signed with the host's key.
//!
//! A chain alone does not show that its end was cut off, or that all of it was made anew. A signed
//! head shows it. There is one in `audit.head` beside the files, one in the first record of the
//! next file, and there may be copies outside of the host.

use jit_proto::{WallTime, dsse::pre_authentication_encoding, printable::escape_json};
use serde::{Deserialize, Serialize};

use crate::disk::{
    audit::{chain::Tip, record::rfc3339},
    host_key::{HostPublicKey, HostSigningKey},
};

/// DSSE payload type of a head; it is part of the signed bytes.
const HEAD_TYPE: &str = "application/vnd.jit-agent.audit-head.v1";

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The host's id.
    pub host: String,
    /// Number of the file with the last record.
    pub file: u64,
    /// The last record.
    pub tip: Tip,
    /// When the head was signed.
    pub time: WallTime,
}

/// A head with its signature, as in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    host: String,
    file: u64,
    seq: u64,
    hash: String,
    time_ms: i64,
    time: String,
    key: String,
    signature: String,
}

impl Head {
    /// Signs a head.
    pub fn sign(&self, key: &HostSigningKey) -> SignedHead {
        let Self { host, file, tip, time } = self;
        SignedHead {
            host: host.clone(),
            file: *file,
            seq: tip.seq,
            hash: tip.hash.to_string(),
            time_ms: time.0,
            time: rfc3339(*time),
            key: key.id().to_owned(),
            signature: hex::encode(key.sign(&self.message())),
        }
    }

    /// The bytes that are signed: DSSE's encoding of host, file, number, hash and time, a line each.
    /// The host's id comes last, so that none can pretend to be several fields.
    fn message(&self) -> Vec<u8> {
        let Self { host, file, tip, time } = self;
        let text = format!("{file}\n{}\n{}\n{}\n{host}", tip.seq, tip.hash, time.0);
        pre_authentication_encoding(HEAD_TYPE, text.as_bytes())
    }
}

impl SignedHead {
    /// Reads a signed head; spaces around it are allowed. The signature is not checked.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text.trim()).ok()
    }

    /// The record that it names. The signature is not checked.
    pub fn tip(&self) -> Option<Tip> {
        Some(Tip { seq: self.seq, hash: self.hash.parse().ok()? })
    }

    /// One line of JSON.
    pub fn to_line(&self) -> String {
        escape_json(serde_json::to_string(self).unwrap_or_default())
    }

    /// The head, if one of these keys has signed it.
    pub fn verify(&self, keys: &[HostPublicKey]) -> Result<Head, String> {
        let Self { host, file, seq, hash, time_ms, time, key, signature } = self;
        // The signature covers `time_ms`; people read `time`.
        if *time != rfc3339(WallTime(*time_ms)) {
            return Err("its time is not the one that is signed".to_owned());
        }
        let head = Head {
            host: host.clone(),
            file: *file,
            tip: Tip { seq: *seq, hash: hash.parse()? },
            time: WallTime(*time_ms),
        };
        let mut bytes = [0; 64];
        hex::decode_to_slice(signature, &mut bytes)
            .map_err(|_| "its signature is not 128 hex digits".to_owned())?;
        let message = head.message();
        let named: Vec<_> = keys.iter().filter(|known| known.id() == key).collect();
        if named.is_empty() {
            return Err(format!("it is signed with a key that is not known here ({key:?})"));
        }
        if named.iter().any(|known| known.verifies(&message, &bytes)) {
            Ok(head)
        } else {
            Err("its signature is not good".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::audit::chain::LineHash;

    fn signed() -> (SignedHead, Head, Vec<HostPublicKey>) {
        let state = tempfile::tempdir().unwrap();
        let (key, _) = HostSigningKey::open(state.path()).unwrap();
        let tip = Tip { seq: 42, hash: LineHash::of(b"last") };
        let head = Head { host: "web\n1".into(), file: 3, tip, time: WallTime(1_000) };
        (head.sign(&key), head, vec![key.public()])
    }

    #[test]
    fn a_head_reads_back_and_is_good() {
        let (signed, head, keys) = signed();
        let line = signed.to_line();
        assert!(!line.contains('\n'));
        let read = SignedHead::parse(&format!("{line}    \n")).unwrap();
        assert_eq!(read.verify(&keys), Ok(head));
        assert!(read.verify(&[]).unwrap_err().contains("not known"));
    }

    #[test]
    fn no_field_of_a_head_can_be_changed() {
        let (signed, _, keys) = signed();
        let hash = LineHash::of(b"other").to_string();
        let (first, rest) = signed.signature.split_at(1);
        let signature = [if first == "0" { "1" } else { "0" }, rest].concat();
        for changed in [
            SignedHead { host: "web-2".into(), ..signed.clone() },
            SignedHead { file: 4, ..signed.clone() },
            SignedHead { seq: 41, ..signed.clone() },
            SignedHead { hash, ..signed.clone() },
            SignedHead { time_ms: 1_001, ..signed.clone() },
            SignedHead { time: "1970-01-01T00:00:01.001Z".into(), ..signed.clone() },
            SignedHead { key: "0123456789abcdef".into(), ..signed.clone() },
            SignedHead { signature, ..signed.clone() },
        ] {
            assert_ne!(changed, signed);
            assert!(changed.verify(&keys).is_err(), "{changed:?}");
        }
    }
}
