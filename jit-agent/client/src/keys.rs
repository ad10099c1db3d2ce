//! Keys that sign, wherever they are: a file, an ssh-agent, a PKCS#11 module. Each signature is verified
//! before it is given away.

use std::{fmt, path::PathBuf, str::FromStr};

use jit_proto::{
    dsse::{MAX_SIGNATURES, pre_authentication_encoding},
    v1,
};

#[cfg(feature = "pkcs11")]
use crate::pkcs11::Pkcs11Key;
use crate::{
    files::read_text,
    public_key::PublicKey,
    signing::SigningKey,
    ssh_agent::{SshAgent, SshAgentKey},
};

/// What comes before the name of a key of an ssh-agent.
const SSH_AGENT: &str = "ssh-agent:";
/// The scheme of RFC 7512.
const PKCS11: &str = "pkcs11:";

/// Which key signs, as a command line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// A PKCS#8 PEM file.
    Pem(PathBuf),
    /// `pkcs11:token=NAME;object=LABEL?module-path=FILE&pin-source=FILE` (RFC 7512).
    Pkcs11(Pkcs11Spec),
    /// `ssh-agent:COMMENT` or `ssh-agent:SHA256:...`, of the agent that `SSH_AUTH_SOCK` names.
    SshAgent(String),
}

/// A key in a PKCS#11 module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Spec {
    /// The module: a shared library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the key pair.
    pub key: String,
    /// File with the PIN on its first line.
    pub pin_file: Option<PathBuf>,
}

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
            Ok(signature) => Ok(v1::Signature { key_id, signature: signature.into() }),
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

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(path) => write!(f, "{}", path.display()),
            Self::Pkcs11(Pkcs11Spec { token, key, .. }) => {
                write!(f, "{PKCS11}token={token};object={key}")
            }
            Self::SshAgent(which) => write!(f, "{SSH_AGENT}{which}"),
        }
    }
}

impl FromStr for KeySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(which) = text.strip_prefix(SSH_AGENT) {
            return match which {
                "" => Err("name the key: ssh-agent:COMMENT or ssh-agent:SHA256:...".to_owned()),
                _ => Ok(Self::SshAgent(which.to_owned())),
            };
        }
        match text.strip_prefix(PKCS11) {
            Some(rest) => rest.parse().map(Self::Pkcs11),
            None if text.is_empty() => Err("it is empty; name a file".to_owned()),
            None => Ok(Self::Pem(text.into())),
        }
    }
}

/// What follows `pkcs11:`.
impl FromStr for Pkcs11Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example =
            "pkcs11:token=NAME;object=LABEL?module-path=/usr/lib/x.so&pin-source=file:/etc/x.pin";
        let (mut token, mut key, mut module, mut pin_file) = (None, None, None, None);
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        for part in path.split(';').chain(query.split('&')).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = unescaped(value)?;
            let place = match name {
                "token" => &mut token,
                "object" => &mut key,
                "module-path" => &mut module,
                "pin-source" => &mut pin_file,
                "type" => continue,
                "pin-value" => {
                    return Err(
                        "a PIN on a command line is seen by everybody on the machine; put \
                                it into a file that only you can read, and name that: pin-source"
                            .to_owned(),
                    );
                }
                _ => return Err(format!("`{name}` is not known here; write {example}")),
            };
            *place = Some(value);
        }
        let needed = |value: Option<String>, name: &str| {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("{name} is missing; write {example}"))
        };
        let file = |value: String| PathBuf::from(value.strip_prefix("file:").unwrap_or(&value));
        Ok(Self {
            module: needed(module, "module-path")?.into(),
            token: needed(token, "token")?,
            key: needed(key, "object")?,
            pin_file: pin_file.map(file),
        })
    }
}

/// Undoes `%20`.
fn unescaped(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}`: after % come two hex digits");
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(wrong)?;
        bytes.extend(hex::decode(digits).map_err(|_| wrong())?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
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
    fn a_key_is_named_by_a_file_an_agent_or_a_module() {
        let spec = |text: &str| text.parse::<KeySpec>();
        assert_eq!(spec("prod.key"), Ok(KeySpec::Pem("prod.key".into())));
        assert_eq!(spec("ssh-agent:li@desk"), Ok(KeySpec::SshAgent("li@desk".into())));
        let module = spec("pkcs11:token=my%20hsm;object=jit?module-path=/x.so&pin-source=file:/p");
        let expected = Pkcs11Spec {
            module: "/x.so".into(),
            token: "my hsm".into(),
            key: "jit".into(),
            pin_file: Some("/p".into()),
        };
        assert_eq!(module, Ok(KeySpec::Pkcs11(expected)));
        for (bad, says) in [
            ("", "empty"),
            ("ssh-agent:", "COMMENT"),
            ("pkcs11:token=x", "missing"),
            ("pkcs11:token=x;object=y?module-path=z&pin-value=1", "pin-source"),
            ("pkcs11:slot=1", "not known"),
            ("pkcs11:token=%2", "hex digits"),
        ] {
            let error = spec(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
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
