//! Which key signs, as a command line says it.

use std::{fmt, path::PathBuf, str::FromStr};

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
    use super::*;

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
}
