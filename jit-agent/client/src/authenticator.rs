//! A passkey in software, and the browser around it: real keys, CBOR and client data, for tests of
//! what takes the real ones. Everything that it says can be changed, to see it refused.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value as Cbor;
use jit_proto::{v1, webauthn::challenge};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{public_key::PublicKey, signing::SigningKey};

/// The person was there (UP), and the authenticator has verified who it was (UV): Web
/// Authentication Level 2, section 6.1.
pub const PRESENT_AND_VERIFIED: u8 = 0b101;
/// Flag AT: there is a new credential.
const ATTESTED_DATA: u8 = 1 << 6;

/// A passkey for one page.
pub struct Authenticator {
    /// Its key.
    pub key: SigningKey,
    /// Id of the credential.
    pub id: Vec<u8>,
    /// The domain that it was made for.
    pub rp_id: String,
    /// The origin of the page that the browser shows.
    pub origin: String,
    /// What the authenticator says of the person.
    pub flags: u8,
    /// How often it has signed. It counts before it signs; 0: it does not count.
    pub sign_count: u32,
    /// Whose it is; empty: it does not say.
    pub user_handle: Vec<u8>,
    /// The page is inside another one.
    pub cross_origin: bool,
}

impl Authenticator {
    /// One that works as it should.
    pub fn new(key: SigningKey, rp_id: &str, origin: &str) -> Self {
        Self {
            id: Sha256::digest(key.public().der()).to_vec(),
            key,
            rp_id: rp_id.to_owned(),
            origin: origin.to_owned(),
            flags: PRESENT_AND_VERIFIED,
            sign_count: 0,
            user_handle: Vec::new(),
            cross_origin: false,
        }
    }

    /// `navigator.credentials.create` with these options, as JSON.
    ///
    /// # Panics
    /// The options are none.
    pub fn create(&mut self, options: &Value) -> String {
        let handle = options.pointer("/user/id").and_then(Value::as_str);
        let handle = handle.expect("an id of the user");
        self.user_handle = URL_SAFE_NO_PAD.decode(handle).expect("base64url");
        let length = u16::try_from(self.id.len()).expect("a short id").to_be_bytes();
        let credential = [&[0; 16][..], &length, &self.id, &self.cose_key()].concat();
        let data = self.data(self.flags | ATTESTED_DATA, &credential);
        let text = |text: &str| Cbor::Text(text.to_owned());
        let object = Cbor::Map(vec![
            (text("fmt"), text("none")),
            (text("attStmt"), Cbor::Map(Vec::new())),
            (text("authData"), Cbor::Bytes(data)),
        ]);
        let client_data = self.client_data("webauthn.create", challenge_of(options));
        self.credential(json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
            "attestationObject": URL_SAFE_NO_PAD.encode(written(&object)),
            "transports": ["internal"],
        }))
    }

    /// `navigator.credentials.get` with these options, as JSON.
    ///
    /// # Panics
    /// The options are none.
    pub fn get(&mut self, options: &Value) -> String {
        let (assertion, signature) = self.assert(challenge_of(options));
        let handle = (!self.user_handle.is_empty()).then_some(&self.user_handle);
        self.credential(json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(&assertion.client_data_json),
            "authenticatorData": URL_SAFE_NO_PAD.encode(&assertion.authenticator_data),
            "signature": URL_SAFE_NO_PAD.encode(signature),
            "userHandle": handle.map(|handle| URL_SAFE_NO_PAD.encode(handle)),
        }))
    }

    /// The approval of these signed bytes of an envelope.
    pub fn approve(&mut self, message: &[u8]) -> v1::Signature {
        let (assertion, signature) = self.assert(&URL_SAFE_NO_PAD.encode(challenge(message)));
        v1::Signature {
            key_id: self.key.key_id(),
            signature: signature.into(),
            assertion: Some(Box::new(assertion)),
        }
    }

    fn assert(&mut self, challenge: &str) -> (v1::Assertion, Vec<u8>) {
        if self.sign_count > 0 {
            self.sign_count = self.sign_count.saturating_add(1);
        }
        let data = self.data(self.flags, &[]);
        let client_data = self.client_data("webauthn.get", challenge);
        let signed = [&data[..], &Sha256::digest(&client_data)[..]].concat();
        let signature = self.key.sign(&signed);
        let client_data_json = client_data.into_bytes().into();
        (v1::Assertion { authenticator_data: data.into(), client_data_json }, signature)
    }

    fn data(&self, flags: u8, more: &[u8]) -> Vec<u8> {
        let count = self.sign_count.to_be_bytes();
        [&Sha256::digest(&self.rp_id)[..], &[flags], &count, more].concat()
    }

    /// As browsers write it: section 5.8.1.1.
    fn client_data(&self, kind: &str, challenge: &str) -> String {
        let Self { origin, cross_origin, .. } = self;
        format!(
            "{{\"type\":\"{kind}\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\",\
             \"crossOrigin\":{cross_origin}}}"
        )
    }

    fn credential(&self, response: Value) -> String {
        let id = URL_SAFE_NO_PAD.encode(&self.id);
        json!({ "id": id, "rawId": id, "type": "public-key", "response": response }).to_string()
    }

    /// The public key as a COSE_Key (RFC 9053 section 7).
    fn cose_key(&self) -> Vec<u8> {
        let public = self.key.public();
        // SubjectPublicKeyInfo ends with the bytes of the key.
        let last = |count: usize| {
            let der = public.der();
            der.get(der.len().saturating_sub(count)..).unwrap_or_default().to_vec()
        };
        let fields = match public {
            PublicKey::Ed25519(_) => {
                vec![(1, 1.into()), (3, (-8).into()), (-1, 6.into()), (-2, Cbor::Bytes(last(32)))]
            }
            PublicKey::P256(_) => {
                let point = last(64);
                let (x, y) = point.split_at(32);
                vec![
                    (1, 2.into()),
                    (3, (-7).into()),
                    (-1, 1.into()),
                    (-2, Cbor::Bytes(x.to_vec())),
                    (-3, Cbor::Bytes(y.to_vec())),
                ]
            }
        };
        let entry = |(label, value): (i64, Cbor)| (Cbor::from(label), value);
        written(&Cbor::Map(fields.into_iter().map(entry).collect()))
    }
}

fn challenge_of(options: &Value) -> &str {
    options.get("challenge").and_then(Value::as_str).expect("a challenge")
}

fn written(value: &Cbor) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes it");
    bytes
}
