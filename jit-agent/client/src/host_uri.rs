//! The URI by which a certificate names a host: `spiffe://TRUST-DOMAIN/host/HOST-ID`. A hub knows by it
//! who has dialled. Pure.
//!
//! Every byte of the id that is no ASCII letter or digit and none of `-._` is written as `%XX`, with
//! capital digits. An id has one spelling only: another one of the same id is none.

use std::{fmt, fmt::Write as _, str::FromStr};

use jit_proto::text;

const SCHEME: &str = "spiffe://";
const PATH: &str = "host";
/// Longest trust domain (SPIFFE-ID, section 2.1), bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// A host, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostUri {
    trust_domain: String,
    host: String,
}

/// Why a text is no such URI, or a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostUriError {
    /// The host's id.
    #[error("{0:?} is no id of a host: it is empty, too long, or has spaces in it")]
    Host(String),
    /// Another form.
    #[error("{0:?} is no spiffe://TRUST-DOMAIN/host/HOST-ID")]
    Form(String),
    /// The trust domain.
    #[error("{0:?} is no trust domain: small letters, digits, `-`, `_` and `.`")]
    TrustDomain(String),
}

impl HostUri {
    /// Of a host with this id.
    ///
    /// # Errors
    /// A trust domain or id that is none.
    pub fn new(trust_domain: &str, host: &str) -> Result<Self, HostUriError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if !(1..=MAX_TRUST_DOMAIN).contains(&trust_domain.len()) || !trust_domain.bytes().all(plain)
        {
            return Err(HostUriError::TrustDomain(trust_domain.to_owned()));
        }
        let blank = |c: char| c.is_control() || c.is_whitespace();
        if text::check("", host, text::MAX_NAME_BYTES).is_err() || host.chars().any(blank) {
            return Err(HostUriError::Host(host.to_owned()));
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), host: host.to_owned() })
    }

    /// The host's id, as grants name it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whose names these are.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
}

impl fmt::Display for HostUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{PATH}/", self.trust_domain)?;
        for byte in self.host.bytes() {
            match byte {
                b'-' | b'.' | b'_' => f.write_char(char::from(byte))?,
                byte if byte.is_ascii_alphanumeric() => f.write_char(char::from(byte))?,
                byte => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for HostUri {
    type Err = HostUriError;

    fn from_str(uri: &str) -> Result<Self, HostUriError> {
        let form = || HostUriError::Form(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let (trust_domain, path) = rest.split_once('/').ok_or_else(form)?;
        let (PATH, id) = path.split_once('/').ok_or_else(form)? else { return Err(form()) };
        let found = Self::new(trust_domain, &decoded(id).ok_or_else(form)?)?;
        // One spelling of each id: no two names of certificates mean the same host.
        if found.to_string() == uri { Ok(found) } else { Err(form()) }
    }
}

fn decoded(id: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(id.len());
    let mut rest = id.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        for (id, expected) in [
            ("web-1.example.org", "spiffe://example.org/host/web-1.example.org"),
            ("a/b%c", "spiffe://example.org/host/a%2Fb%25c"),
            ("søster", "spiffe://example.org/host/s%C3%B8ster"),
        ] {
            let uri = HostUri::new("example.org", id).unwrap();
            assert_eq!(uri.to_string(), expected);
            assert_eq!(expected.parse(), Ok(uri));
        }
    }

    #[test]
    fn another_spelling_form_or_name_is_none() {
        for uri in [
            "spiffe://example.org/host/",
            "spiffe://example.org/host/a/b",
            "spiffe://example.org/host/a%2fb",
            "spiffe://example.org/host/%61",
            "spiffe://example.org/host/a%2",
            "spiffe://example.org/host/%FF",
            "spiffe://example.org/host/a%20b",
            "spiffe://example.org/hosts/a",
            "spiffe://example.org/jit-controller",
            "spiffe://Example.org/host/a",
            "spiffe:///host/a",
            "https://example.org/host/a",
            "",
        ] {
            assert!(uri.parse::<HostUri>().is_err(), "{uri}");
        }
        assert!(matches!(HostUri::new("example.org", ""), Err(HostUriError::Host(_))));
        assert!(matches!(HostUri::new("a:b", "a"), Err(HostUriError::TrustDomain(_))));
    }
}
