//! Keys that sign, wherever they are: a file, an ssh-agent, a PKCS#11 module. Each signature is verified
//! before it is given away.

use jit_proto::{
    dsse::{MAX_SIGNATURES, pre_authentication_encoding},
    v1,
};

pub use crate::key_spec::{KeySpec, Pkcs11Spec};
#[cfg(feature = "pkcs11")]
use crate::pkcs11::Pkcs11Key;
use crate::{
    files::read_text,
    public_key::PublicKey,
    signing::SigningKey,
    ssh_agent::{SshAgent, SshAgentKey},
};

/// A key that can sign.
#[derive(Debug)]
pub enum Key {
    /// From a file.
    Pem(SigningKey),
    /// In a module.
    #[cfg(feature = "pkcs11")]
    Pkcs11(Pkcs11Key),
    /// In an ssh-agent.
    SshAgent(SshAgentKey),
}

/// Why a key cannot be used, in words: which, why, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign with {key}: {why}")]
pub struct KeyTrouble {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl Key {
    /// Opens the key.
    ///
    /// # Errors
    /// It is not there, or does not fit.
    pub fn open(spec: &KeySpec) -> Result<Self, KeyTrouble> {
        let opened = match spec {
            KeySpec::Pem(path) => read_text(path, "the signing key")
                .map_err(|error| error.to_string())
                .and_then(|pem| SigningKey::from_pem(&pem).map_err(|error| error.to_string()))
                .map(Self::Pem),
            KeySpec::Pkcs11(spec) => Self::of_module(spec),
            KeySpec::SshAgent(which) => {
                SshAgent::connect(None).and_then(|agent| agent.key(which)).map(Self::SshAgent)
            }
        };
        opened.map_err(|why| KeyTrouble { key: spec.to_string(), why })
    }

    #[cfg(feature = "pkcs11")]
    fn of_module(spec: &Pkcs11Spec) -> Result<Self, String> {
        Pkcs11Key::open(spec).map(Self::Pkcs11)
    }

    #[cfg(not(feature = "pkcs11"))]
    fn of_module(_spec: &Pkcs11Spec) -> Result<Self, String> {
        Err("this program was built without the feature `pkcs11`".to_owned())
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Pem(key) => key.public(),
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(key) => key.public().clone(),
            Self::SshAgent(key) => key.public().clone(),
        }
    }

    /// Signs these bytes, and verifies the signature.
    ///
    /// # Errors
    /// The agent or the module refuses, is gone, or has signed something else.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let raw = match self {
            Self::Pem(key) => key.sign(message),
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(key) => key.sign(message)?,
            Self::SshAgent(key) => key.sign(message)?,
        };
        self.public().finished(message, &raw)
    }

    /// The signature of a payload, as an envelope has it.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn signature(
        &self,
        payload_type: &str,
        payload: &[u8],
    ) -> Result<v1::Signature, KeyTrouble> {
        let key_id = self.public().key_id();
        let message = pre_authentication_encoding(payload_type, payload);
        match self.sign(&message) {
            Ok(signature) => Ok(v1::Signature {
                key_id,
                signature: signature.into(),
                ..v1::Signature::default()
            }),
            Err(why) => Err(KeyTrouble { key: format!("the key {key_id}"), why }),
        }
    }
}

/// Makes an envelope of exactly these bytes, with a signature by each key.
///
/// # Errors
/// A key does not sign.
pub fn seal(
    payload_type: &str,
    payload: Vec<u8>,
    keys: &[Key],
) -> Result<v1::Envelope, KeyTrouble> {
    let sign = |key: &Key| key.signature(payload_type, &payload);
    let signatures = keys.iter().map(sign).collect::<Result<Vec<_>, _>>()?;
    Ok(v1::Envelope { payload_type: payload_type.to_owned(), payload: payload.into(), signatures })
}

/// Adds a signature to an envelope.
///
/// # Errors
/// The key does not sign, has signed it before, or the envelope has no room.
pub fn add_signature(envelope: &mut v1::Envelope, key: &Key) -> Result<(), KeyTrouble> {
    let public = key.public();
    let refuse = |why: &str| {
        Err(KeyTrouble { key: format!("the key {}", public.key_id()), why: why.to_owned() })
    };
    if envelope.signatures.len() >= MAX_SIGNATURES {
        return refuse("an envelope has at most 8 signatures, and this one has them");
    }
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let is_own = |one: &v1::Signature| public.verifies(&message, &one.signature);
    if envelope.signatures.iter().any(is_own) {
        return refuse("it has signed this envelope already; a second signature does not count");
    }
    let signature = key.signature(&envelope.payload_type, &envelope.payload)?;
    envelope.signatures.push(signature);
    Ok(())
}

#[cfg(test)]
mod tests {
    use jit_proto::payload_type::GRANT_TYPE;

    use super::*;
    use crate::signing::Algorithm;

    fn fresh() -> Key {
        let provider = rustls::crypto::ring::default_provider();
        Key::Pem(SigningKey::generate(Algorithm::P256, provider.secure_random).unwrap())
    }

    #[test]
    fn a_signature_is_added_once_for_each_key() {
        let (one, other) = (fresh(), fresh());
        let mut envelope = seal(GRANT_TYPE, b"payload".to_vec(), &[one]).unwrap();
        add_signature(&mut envelope, &other).unwrap();
        let error = add_signature(&mut envelope, &other).unwrap_err().to_string();
        assert!(error.contains("signed this envelope already"), "{error}");
        assert_eq!(envelope.signatures.len(), 2);
        while envelope.signatures.len() < MAX_SIGNATURES {
            add_signature(&mut envelope, &fresh()).unwrap();
        }
        assert!(add_signature(&mut envelope, &fresh()).is_err());
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let error = Key::open(&KeySpec::Pem("/nonexistent/x.key".into())).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.key"), "{error}");
    }
}
