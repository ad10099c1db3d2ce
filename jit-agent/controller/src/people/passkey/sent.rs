//! What browsers send of a passkey: `PublicKeyCredential` as JSON (Web Authentication Level 3,
//! section 5.1, `RegistrationResponseJSON` and `AuthenticationResponseJSON`). Bytes are base64url.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jit_proto::v1;
use serde::Deserialize;

/// base64url; browsers write it without padding, programs with.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Most bytes of the JSON.
const LONGEST: usize = 32 * 1024;
/// Ways to reach an authenticator that are kept (section 5.8.4).
const TRANSPORTS: [&str; 6] = ["ble", "hybrid", "internal", "nfc", "smart-card", "usb"];

#[derive(Deserialize)]
struct Credential<R> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    response: R,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewResponse {
    #[serde(rename = "clientDataJSON")]
    client_data_json: String,
    attestation_object: String,
    #[serde(default)]
    transports: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(rename = "clientDataJSON")]
    client_data_json: String,
    authenticator_data: String,
    signature: String,
    #[serde(default)]
    user_handle: Option<String>,
}

/// A new passkey.
#[derive(Debug)]
pub(super) struct Created {
    /// Id of the credential.
    pub(super) id: Vec<u8>,
    pub(super) client_data_json: Vec<u8>,
    pub(super) attestation_object: Vec<u8>,
    /// With blanks between them.
    pub(super) transports: String,
}

/// What a passkey has signed.
#[derive(Debug)]
pub struct Asserted {
    /// Id of the credential.
    id: Vec<u8>,
    assertion: v1::Assertion,
    signature: Vec<u8>,
    user_handle: Option<Vec<u8>>,
}

impl Created {
    /// Reads it.
    ///
    /// # Errors
    /// It is none, in words.
    pub(super) fn of_json(text: &str) -> Result<Self, String> {
        let Credential { id, response, .. } = credential::<NewResponse>(text)?;
        let mut transports = response.transports;
        transports.retain(|one| TRANSPORTS.contains(&one.as_str()));
        transports.sort();
        transports.dedup();
        Ok(Self {
            id: bytes("id", &id)?,
            client_data_json: bytes("clientDataJSON", &response.client_data_json)?,
            attestation_object: bytes("attestationObject", &response.attestation_object)?,
            transports: transports.join(" "),
        })
    }
}

impl Asserted {
    /// Reads it.
    ///
    /// # Errors
    /// It is none, in words.
    pub fn of_json(text: &str) -> Result<Self, String> {
        let Credential { id, response, .. } = credential::<Response>(text)?;
        let handle = response.user_handle.filter(|handle| !handle.is_empty());
        Ok(Self {
            id: bytes("id", &id)?,
            assertion: v1::Assertion {
                authenticator_data: bytes("authenticatorData", &response.authenticator_data)?
                    .into(),
                client_data_json: bytes("clientDataJSON", &response.client_data_json)?.into(),
            },
            signature: bytes("signature", &response.signature)?,
            user_handle: handle.map(|handle| bytes("userHandle", &handle)).transpose()?,
        })
    }

    /// Id of the credential, as it is stored.
    pub fn id(&self) -> String {
        written(&self.id)
    }

    /// What browser and authenticator say.
    pub(super) const fn assertion(&self) -> &v1::Assertion {
        &self.assertion
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Whose passkey the authenticator takes it for; `None`: it does not say.
    pub(super) fn user_handle(&self) -> Option<&[u8]> {
        self.user_handle.as_deref()
    }

    /// The same as a signature of an envelope, by this key.
    pub fn into_signature(self, key_id: &str) -> v1::Signature {
        v1::Signature {
            key_id: key_id.to_owned(),
            signature: self.signature.into(),
            assertion: Some(Box::new(self.assertion)),
        }
    }
}

/// Bytes as browsers write them.
pub(super) fn written(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn credential<R: for<'de> Deserialize<'de>>(text: &str) -> Result<Credential<R>, String> {
    if text.is_empty() {
        return Err("there is none: the page's script did not run".into());
    }
    if text.len() > LONGEST {
        return Err(format!("it has {} bytes; at most {LONGEST}", text.len()));
    }
    let read: Credential<R> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match read.kind.as_str() {
        "public-key" => Ok(read),
        _ => Err("its type is not \"public-key\"".into()),
    }
}

fn bytes(field: &str, text: &str) -> Result<Vec<u8>, String> {
    BASE64URL.decode(text).map_err(|error| format!("{field} is no base64url: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"id":"AQI","rawId":"AQI","type":"public-key","authenticatorAttachment":
        "platform","response":{"clientDataJSON":"e30","authenticatorData":"AA==","signature":"AQ",
        "userHandle":null},"clientExtensionResults":{}}"#;

    #[test]
    fn what_a_browser_sends_is_read_with_and_without_padding() {
        let read = Asserted::of_json(GOOD).unwrap();
        assert_eq!((read.id().as_str(), read.signature()), ("AQI", &[1][..]));
        assert_eq!(read.assertion().client_data_json.as_ref(), b"{}");
        assert_eq!(read.user_handle(), None);
        let signature = read.into_signature("k");
        assert!(signature.assertion.is_some() && signature.key_id == "k");
        let created = GOOD
            .replace(
                "\"authenticatorData\":\"AA==\",\"signature\":\"AQ\"",
                "\"attestationObject\":\"AA\"",
            )
            .replace(
                "\"userHandle\":null",
                "\"transports\":[\"usb\",\"<b>\",\"internal\",\"usb\"]",
            );
        let created = created.replace("\"AA==\",\"signature\":\"AQ\"", "\"AA\"");
        let created = created.replace("authenticatorData", "attestationObject");
        assert_eq!(Created::of_json(&created).unwrap().transports, "internal usb");
    }

    #[test]
    fn what_is_none_is_refused_in_words() {
        for (bad, part) in [
            (String::new(), "script"),
            ("x".into(), "expected value"),
            (" ".repeat(LONGEST + 1), "at most"),
            (GOOD.replace("public-key", "password"), "public-key"),
            (GOOD.replace("\"AQ\"", "\"A+/\""), "signature is no base64url"),
            (GOOD.replace("\"signature\"", "\"sig\""), "signature"),
        ] {
            let why = Asserted::of_json(&bad).unwrap_err();
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
