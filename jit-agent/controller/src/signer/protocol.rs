//! What the controller and its signer say to each other: JSON after its length in four bytes, bounded.

use std::io::{self, Read, Write};

use jit_proto::v1;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    KeyInfo, SignRequest, authority::CertificateWish, base64_text, freshness::CheckpointWish,
    settings::Settings,
};
use crate::enrol::issue::Issued;

/// Largest message, bytes: 10,000 hosts with the longest ids, and what else belongs to them.
pub(super) const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// To the signer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ToSigner {
    /// Something to sign; the answer has the same number.
    Ask { number: u64, ask: Ask },
    /// The first message: what it may do.
    Open(Box<Settings>),
}

/// Something to sign.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// A certificate of a host.
    Certificate(Box<CertificateWish>),
    /// The next checkpoint.
    Checkpoint(CheckpointWish),
    /// A grant.
    Grant(Box<SignRequest>),
    /// An encoded policy.
    Policy {
        #[serde(with = "base64_text")]
        payload: Vec<u8>,
    },
    /// An encoded revocation.
    Revocation {
        #[serde(with = "base64_text")]
        payload: Vec<u8>,
    },
}

/// From the signer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromSigner {
    /// The answer to the ask with this number.
    Answer { number: u64, answer: Answer },
    /// It does not start; the reason.
    Failed(String),
    /// Its keys are open.
    Ready { keys: Vec<KeyInfo> },
}

/// What became of something to sign.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// A checkpoint: its payload, and one signature by its key.
    Checkpoint {
        #[serde(with = "base64_text")]
        payload: Vec<u8>,
        signatures: Vec<Signature>,
    },
    /// A certificate.
    Issued(Issued),
    /// Never.
    Refused { word: String, detail: String },
    /// One signature by each key.
    Signed(Vec<Signature>),
    /// Not now.
    Unavailable(String),
}

/// A signature in JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    key_id: String,
    #[serde(with = "base64_text")]
    signature: Vec<u8>,
}

impl From<v1::Signature> for Signature {
    fn from(v1::Signature { key_id, signature, .. }: v1::Signature) -> Self {
        Self { key_id, signature: signature.to_vec() }
    }
}

impl From<Signature> for v1::Signature {
    fn from(Signature { key_id, signature }: Signature) -> Self {
        Self { key_id, signature: signature.into(), ..Self::default() }
    }
}

/// A message with its length before it.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    Ok([&length.to_be_bytes(), json.as_slice()].concat())
}

/// The length that these bytes say, if a message may have it.
pub(super) fn length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("a message of {length} bytes is too long")));
    }
    Ok(length)
}

/// A message from its JSON.
pub(super) fn decode<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(io::Error::other)
}

/// Writes a message.
pub(super) fn write(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

/// Reads a message; `None`: the other side has closed the connection between two messages.
pub(super) fn read<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match from.read(&mut head[..1]) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    from.read_exact(&mut head[1..])?;
    let mut json = Vec::new();
    let length = length(head)?;
    // Grows with what comes: a length alone takes no memory.
    let most = u64::try_from(length).unwrap_or(0);
    if from.take(most).read_to_end(&mut json)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&json).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_whole_and_of_a_known_form() {
        let ready = encode(&FromSigner::Failed("x".into())).unwrap();
        assert!(matches!(read(ready.as_slice()), Ok(Some(FromSigner::Failed(why))) if why == "x"));
        assert!(matches!(read::<FromSigner>(&b""[..]), Ok(None)));
        for length in 1..ready.len() {
            assert!(read::<FromSigner>(&ready[..length]).is_err(), "{length}");
        }
        for bad in [
            &b"\xff\xff\xff\xff"[..],
            b"\x00\x80\x00\x01",
            b"\x00\x00\x00\x02{}",
            b"\x00\x00\x00\x0e{\"unknown\":1}x",
            b"GET / HTTP/1.1\r\n",
        ] {
            assert!(read::<FromSigner>(bad).is_err(), "{bad:?}");
        }
        let long = FromSigner::Failed("x".repeat(MAX_MESSAGE));
        assert!(encode(&long).is_err());
    }
}
