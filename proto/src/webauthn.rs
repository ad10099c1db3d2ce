//! An approval by a passkey: a WebAuthn assertion (W3C Web Authentication Level 2, section 7.2)
//! over the bytes that an envelope signs (docs/grants.md, section "Approvals by passkey").
//!
//! Here is everything but the signature itself, which each caller verifies with its own code. A new
//! passkey is checked here too, as far as it is the same (section 7.1). The signature counter is
//! not looked at: hosts see some of a passkey's assertions, in any order, and again after a
//! restart, and passkeys that are copied between devices count nothing. What keeps an assertion
//! from being used twice is its challenge: it is good for one payload alone.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use sha2::{Digest as _, Sha256};

use crate::{printable::clean, v1};

/// Most bytes of authenticatorData. A plain one has 37; extensions make it longer.
pub const MAX_AUTHENTICATOR_DATA_BYTES: usize = 1024;
/// Most bytes of a new passkey's authenticatorData: its id has up to 1,023.
pub const MAX_NEW_AUTHENTICATOR_DATA_BYTES: usize = 2048;
/// Most bytes of clientDataJSON. Browsers write about 150.
pub const MAX_CLIENT_DATA_BYTES: usize = 2048;

/// rpIdHash, flags and signCount (section 6.1).
const HEADER_BYTES: usize = 37;
/// Bits of the flags.
const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 1 << 2;
const ATTESTED_DATA: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;
/// The type of client data of an assertion, and of a new passkey.
const GET: &str = "webauthn.get";
const CREATE: &str = "webauthn.create";
/// Bytes of an authenticator model's id (section 6.5.1).
const MODEL_BYTES: usize = 16;
/// Most bytes of a peer's text in a message.
const SHOWN: usize = 100;

/// For whom a passkey's assertions are, as a host or a person has pinned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelyingParty {
    id: String,
    id_hash: [u8; 32],
    origins: Vec<String>,
}

/// Why a relying party is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelyingPartyError {
    /// The id is no domain.
    #[error(
        "{0:?} is no domain; wanted: the rpId of the passkey, in lower case and without scheme or \
         port, for example \"jit.example.org\""
    )]
    Id(String),
    /// There is no origin.
    #[error("no origin; wanted: that of the page, for example \"https://jit.example.org\"")]
    NoOrigin,
    /// An origin is none, or no browser would let a page of it use the id.
    #[error(
        "{origin:?} is no origin of {id:?} or of a domain below it; wanted, for example: \
         \"https://{id}\" (https, lower case, a port only if it is not 443, nothing after it)"
    )]
    Origin {
        /// As it was written.
        origin: String,
        /// The relying party's id.
        id: String,
    },
}

/// Which check of an assertion failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// authenticatorData has not the form of section 6.1.
    #[error("authenticatorData: {0}")]
    AuthenticatorData(&'static str),
    /// The challenge is that of something else.
    #[error(
        "the challenge is not that of this payload (base64url of the SHA-256 of the signed bytes)"
    )]
    Challenge,
    /// clientDataJSON is not the JSON that it must be.
    #[error("clientDataJSON: {0}")]
    ClientData(String),
    /// The page was inside another one.
    #[error("crossOrigin: it was made in a page inside another page")]
    CrossOrigin,
    /// The page is another one.
    #[error("the origin \"{0}\" is not in `origins`")]
    Origin(String),
    /// It is for another relying party.
    #[error("rpIdHash is not that of the rpId {0:?}")]
    RpId(String),
    /// Something has too many bytes.
    #[error("{what} has {bytes} bytes; at most {most}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// It was made for something else: a new passkey is no assertion, and an assertion no new
    /// passkey.
    #[error("the type \"{is}\" is not \"{wanted}\"")]
    Type {
        /// What it is.
        is: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Nobody touched the authenticator.
    #[error("user presence: the authenticator does not say that somebody was there (flag UP)")]
    UserPresence,
    /// The authenticator did not look who it was.
    #[error("user verification: the authenticator asked for no PIN, finger or face (flag UV)")]
    UserVerification,
}

/// A new passkey, as its authenticator describes it (section 6.5.1). Nothing here is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPasskey<'d> {
    /// How often the authenticator has signed.
    pub sign_count: u32,
    /// Id of the credential.
    pub id: &'d [u8],
    /// The public key as a COSE_Key (RFC 9052 section 7). After it come extensions, if there are
    /// any.
    pub key: &'d [u8],
    /// There are extensions.
    pub has_extensions: bool,
}

/// What a passkey signs for these signed bytes of an envelope: their SHA-256, as `challenge` of
/// `navigator.credentials.get`.
pub fn challenge(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

impl RelyingParty {
    /// A relying party of this id, for pages of these origins.
    ///
    /// # Errors
    /// No browser would make such an assertion.
    pub fn new(id: &str, origins: Vec<String>) -> Result<Self, RelyingPartyError> {
        if !is_domain(id) {
            return Err(RelyingPartyError::Id(id.to_owned()));
        }
        if origins.is_empty() {
            return Err(RelyingPartyError::NoOrigin);
        }
        if let Some(origin) = origins.iter().find(|origin| !is_origin_of(origin, id)) {
            return Err(RelyingPartyError::Origin { origin: origin.clone(), id: id.to_owned() });
        }
        let id_hash = Sha256::digest(id.as_bytes()).into();
        Ok(Self { id: id.to_owned(), id_hash, origins })
    }

    /// The rpId.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The origins of its pages.
    pub fn origins(&self) -> &[String] {
        &self.origins
    }

    /// Checks everything but the signature, in the order of section 7.2, and returns the bytes that
    /// the authenticator has signed.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(
        &self,
        challenge: &[u8; 32],
        assertion: &v1::Assertion,
    ) -> Result<Vec<u8>, AssertionError> {
        let v1::Assertion { authenticator_data, client_data_json } = assertion;
        at_most("authenticatorData", authenticator_data, MAX_AUTHENTICATOR_DATA_BYTES)?;
        self.check_client_data(GET, challenge, client_data_json)?;
        self.check_authenticator_data(authenticator_data)?;
        Ok([authenticator_data.as_ref(), &Sha256::digest(client_data_json)[..]].concat())
    }

    /// Checks what a browser and an authenticator say of a new passkey, in the order of section
    /// 7.1, but for its key.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_new<'d>(
        &self,
        challenge: &[u8; 32],
        client_data_json: &[u8],
        authenticator_data: &'d [u8],
    ) -> Result<NewPasskey<'d>, AssertionError> {
        let most = MAX_NEW_AUTHENTICATOR_DATA_BYTES;
        at_most("authenticatorData", authenticator_data, most)?;
        self.check_client_data(CREATE, challenge, client_data_json)?;
        let wrong = |why| AssertionError::AuthenticatorData(why);
        let (flags, sign_count, rest) = self.check_header(authenticator_data)?;
        if flags & ATTESTED_DATA == 0 {
            return Err(wrong("it has no attested credential data (flag AT)"));
        }
        let short = || wrong("its attested credential data breaks off");
        let (_model, rest) = rest.split_at_checked(MODEL_BYTES).ok_or_else(short)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (id, key) = rest.split_at_checked(length).ok_or_else(short)?;
        if id.is_empty() {
            return Err(wrong("the passkey has no id"));
        }
        Ok(NewPasskey { sign_count, id, key, has_extensions: flags & EXTENSIONS != 0 })
    }

    fn check_client_data(
        &self,
        wanted: &'static str,
        challenge: &[u8; 32],
        json: &[u8],
    ) -> Result<(), AssertionError> {
        let ClientData { kind, challenge: of, origin, cross_origin } = client_data(json)?;
        if kind != wanted {
            return Err(AssertionError::Type { is: clean(&kind, SHOWN), wanted });
        }
        // As text: every other text is refused, also one that decodes to the same bytes.
        if of != URL_SAFE_NO_PAD.encode(challenge) {
            return Err(AssertionError::Challenge);
        }
        if !self.origins.contains(&origin) {
            return Err(AssertionError::Origin(clean(&origin, SHOWN)));
        }
        if cross_origin {
            return Err(AssertionError::CrossOrigin);
        }
        Ok(())
    }

    fn check_authenticator_data(&self, data: &[u8]) -> Result<(), AssertionError> {
        let wrong = |why| Err(AssertionError::AuthenticatorData(why));
        let (flags, _sign_count, rest) = self.check_header(data)?;
        let is_set = |flag: u8| flags & flag != 0;
        if is_set(ATTESTED_DATA) {
            return wrong("it has attested credential data: that is no assertion (flag AT)");
        }
        match (is_set(EXTENSIONS), rest) {
            (true, []) => wrong("no extensions, and flag ED is set"),
            (false, [_, ..]) => wrong("bytes after its 37, and flag ED is not set"),
            (true, [_, ..]) | (false, []) => Ok(()),
        }
    }

    /// Checks what both kinds of authenticatorData begin with: for whom, and that it was a person.
    /// Returns the flags, the counter and what comes after.
    fn check_header<'d>(&self, data: &'d [u8]) -> Result<(u8, u32, &'d [u8]), AssertionError> {
        let short = || AssertionError::AuthenticatorData("fewer than 37 bytes");
        let (header, rest) = data.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
        let (id_hash, [flags, count @ ..]) = header.split_last_chunk::<5>().ok_or_else(short)?;
        if id_hash != self.id_hash {
            return Err(AssertionError::RpId(self.id.clone()));
        }
        if flags & USER_PRESENT == 0 {
            return Err(AssertionError::UserPresence);
        }
        if flags & USER_VERIFIED == 0 {
            return Err(AssertionError::UserVerification);
        }
        Ok((*flags, u32::from_be_bytes(*count), rest))
    }
}

/// How often the authenticator has signed; `None`: this is no authenticatorData.
pub fn sign_count(authenticator_data: &[u8]) -> Option<u32> {
    let header = authenticator_data.get(..HEADER_BYTES)?;
    header.last_chunk().copied().map(u32::from_be_bytes)
}

/// The challenge that client data names, before anything of it is checked.
///
/// # Errors
/// It is not what browsers write, or names none of 32 bytes.
pub fn named_challenge(client_data_json: &[u8]) -> Result<[u8; 32], AssertionError> {
    let ClientData { challenge, .. } = client_data(client_data_json)?;
    let bytes = URL_SAFE_NO_PAD.decode(challenge).unwrap_or_default();
    bytes.try_into().map_err(|_| AssertionError::Challenge)
}

fn at_most(what: &'static str, bytes: &[u8], most: usize) -> Result<(), AssertionError> {
    let bytes = bytes.len();
    if bytes > most { Err(AssertionError::TooLarge { what, bytes, most }) } else { Ok(()) }
}

fn client_data(json: &[u8]) -> Result<ClientData, AssertionError> {
    at_most("clientDataJSON", json, MAX_CLIENT_DATA_BYTES)?;
    serde_json::from_slice(json)
        .map_err(|error| AssertionError::ClientData(clean(&error.to_string(), SHOWN)))
}

/// Whether this is a domain as browsers write it. An address is none: a passkey has no rpId there.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err()
}

/// Whether this is an origin, as browsers write it, whose pages may use the rpId.
fn is_origin_of(text: &str, id: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let (host, port) = match rest.split_once(':') {
        None => (rest, None),
        Some((host, port)) => (host, Some(port)),
    };
    let good_port = |text: &str| {
        let port = text.parse::<u16>();
        port.is_ok_and(|port| port > 0 && port != 443 && port.to_string() == text)
    };
    let below = host.strip_suffix(id).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    is_domain(host) && below && port.is_none_or(good_port)
}

/// What is looked at in clientDataJSON (section 5.8.1). Browsers add keys that nobody knows yet.
struct ClientData {
    kind: String,
    challenge: String,
    origin: String,
    cross_origin: bool,
}

impl<'de> Deserialize<'de> for ClientData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClientDataVisitor)
    }
}

struct ClientDataVisitor;

impl<'de> Visitor<'de> for ClientDataVisitor {
    type Value = ClientData;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with type, challenge and origin")
    }

    /// No key may be there twice, known or not: readers differ in which one they take.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClientData, A::Error> {
        let (mut kind, mut challenge, mut origin, mut cross_origin) = (None, None, None, false);
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => kind = Some(map.next_value()?),
                "challenge" => challenge = Some(map.next_value()?),
                "origin" => origin = Some(map.next_value()?),
                "crossOrigin" => cross_origin |= map.next_value::<bool>()?,
                // The page around, which Level 3 names for a page inside another one.
                "topOrigin" => {
                    map.next_value::<IgnoredAny>()?;
                    cross_origin = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format!("the key {twice:?} is there twice")));
            }
        }
        let missing = A::Error::missing_field;
        Ok(ClientData {
            kind: kind.ok_or_else(|| missing("type"))?,
            challenge: challenge.ok_or_else(|| missing("challenge"))?,
            origin: origin.ok_or_else(|| missing("origin"))?,
            cross_origin,
        })
    }
}

#[cfg(test)]
mod tests;
