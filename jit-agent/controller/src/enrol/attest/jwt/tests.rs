use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, PublicKeyComponents},
    signature::RSA_PKCS1_SHA256,
};
use serde_json::json;

use super::*;
use crate::enrol::attest::forge::Forge;

pub(in crate::enrol) const NOW_S: i64 = 1_790_325_737;
pub(in crate::enrol) const NOW_MS: i64 = NOW_S * 1000;
pub(in crate::enrol) const AUDIENCE: &str = "api://jit-agent.example.org";
const ISSUER: &str = "https://issuer.example.org/";

/// Who signs tokens.
pub(in crate::enrol) struct Signer {
    key: KeyPair,
    kid: String,
}

impl Signer {
    pub(in crate::enrol) fn new(kid: &str) -> Self {
        let forge = Forge::new();
        forge.openssl("genrsa -out rsa.pem 2048");
        forge.openssl("pkcs8 -topk8 -nocrypt -in rsa.pem -outform DER -out rsa.key");
        let key = KeyPair::from_pkcs8(&std::fs::read(forge.path("rsa.key")).unwrap()).unwrap();
        Self { key, kid: kid.into() }
    }

    fn components(&self) -> PublicKeyComponents<Vec<u8>> {
        PublicKeyComponents::from(self.key.public())
    }

    /// Its public key, as its issuer publishes it.
    pub(in crate::enrol) fn keys(&self) -> CoreJsonWebKeySet {
        let PublicKeyComponents { n, e } = self.components();
        let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
        let key = json!({ "kty": "RSA", "use": "sig", "kid": self.kid, "n": n, "e": e });
        serde_json::from_value(json!({ "keys": [key] })).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        self.key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token with these claims.
    pub(in crate::enrol) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid }), claims)
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let coded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", coded(header), coded(claims))
}

/// Claims that count now; `more` replaces or adds some, and `null` takes one out.
pub(in crate::enrol) fn said(issuer: &str, more: Value) -> Value {
    let mut all = json!({ "iss": issuer, "aud": AUDIENCE, "iat": NOW_S - 5, "nbf": NOW_S - 5,
                          "exp": NOW_S + 3600 });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

pub(in crate::enrol) fn audience() -> Audience {
    Audience::new(AUDIENCE).unwrap()
}

fn read(signer: &Signer, text: &str) -> Result<Claims, JwtError> {
    claims(text, &signer.keys(), ISSUER, &audience(), NOW_MS)
}

#[test]
fn a_token_counts_for_its_audience_in_its_time() {
    let signer = Signer::new("one");
    let with = |more: Value| read(&signer, &signer.token(&said(ISSUER, more)));
    for good in [
        json!({}),
        json!({ "aud": [AUDIENCE] }),
        json!({ "nbf": null }),
        json!({ "exp": NOW_S - 59 }),
        json!({ "iat": NOW_S + 60, "nbf": NOW_S + 60 }),
        json!({ "iat": NOW_S - 24 * 3600 }),
    ] {
        assert!(with(good.clone()).is_ok(), "{good}");
    }
    let for_another = JwtError::Audience(AUDIENCE.into());
    for bad in [
        json!({ "aud": "https://management.azure.com/" }),
        json!({ "aud": [AUDIENCE, "https://management.azure.com/"] }),
        json!({ "aud": [] }),
        json!({ "aud": [[AUDIENCE]] }),
        json!({ "aud": { AUDIENCE: true } }),
        json!({ "aud": format!("{AUDIENCE}/") }),
        json!({ "aud": AUDIENCE.to_uppercase() }),
        json!({ "aud": true }),
    ] {
        assert_eq!(with(bad.clone()), Err(for_another.clone()), "{bad}");
    }
    for bad in [
        json!({ "exp": NOW_S - 60 }),
        json!({ "nbf": NOW_S + 61 }),
        json!({ "iat": NOW_S + 61 }),
        json!({ "iat": NOW_S - 24 * 3600 - 60 }),
    ] {
        assert!(matches!(with(bad.clone()), Err(JwtError::Ended(_))), "{bad}");
    }
    assert_eq!(with(json!({ "iss": "https://issuer.example.org" })), Err(JwtError::Issuer));
    for bad in [
        json!({ "exp": null }),
        json!({ "iat": null }),
        json!({ "aud": null }),
        json!({ "exp": "later" }),
        json!({ "exp": 1e300 }),
        json!({ "iss": 7 }),
    ] {
        assert!(matches!(with(bad.clone()), Err(JwtError::Malformed(_))), "{bad}");
    }
}

#[test]
fn only_a_named_key_of_the_issuer_signs_and_only_with_rs256() {
    let (signer, thief) = (Signer::new("one"), Signer::new("one"));
    let good = said(ISSUER, json!({}));
    assert!(matches!(read(&signer, &thief.token(&good)), Err(JwtError::Malformed(_))));
    let other = Signer::new("two");
    assert_eq!(read(&signer, &other.token(&good)), Err(JwtError::Key));
    let header = |alg: &str| json!({ "alg": alg, "typ": "JWT", "kid": "one" });
    for alg in ["none", "None", "", "RS384", "PS256", "ES256", "HS256", "rs256"] {
        let text = signer.sign(&header(alg), &good);
        assert!(
            matches!(read(&signer, &text), Err(JwtError::Algorithm | JwtError::Malformed(_))),
            "{alg}"
        );
    }
    // No signature, and the public key as if it were a shared secret.
    let message = unsigned(&header("none"), &good);
    assert_eq!(read(&signer, &format!("{message}.")), Err(JwtError::Algorithm));
    let message = unsigned(&header("HS256"), &good);
    for secret in [signer.key.public().as_ref(), signer.components().n.as_slice()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, message.as_bytes());
        let text = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert_eq!(read(&signer, &text), Err(JwtError::Algorithm));
    }
    for header in [
        json!({ "alg": "RS256", "typ": "JWT" }),
        json!({ "alg": "RS256", "typ": "JWT", "kid": "" }),
    ] {
        assert_eq!(read(&signer, &signer.sign(&header, &good)), Err(JwtError::Algorithm));
    }
    for header in [
        json!({ "alg": "RS256", "typ": "logout+jwt", "kid": "one" }),
        json!({ "alg": "RS256", "typ": "JWT", "kid": "one", "crit": ["b64"], "b64": false }),
        json!({ "alg": "RS256", "kid": 7 }),
    ] {
        let read = read(&signer, &signer.sign(&header, &good));
        assert!(matches!(read, Err(JwtError::Malformed(_))), "{header}");
    }
}

#[test]
fn no_changed_letter_leaves_a_token_good() {
    let signer = Signer::new("one");
    let text = signer.token(&said(ISSUER, json!({})));
    let keys = signer.keys();
    for place in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let read = claims(&changed, &keys, ISSUER, &audience(), NOW_MS);
        assert!(read.is_err(), "{place}");
    }
    for text in ["", ".", "..", "a.b.c", "a.b", &text.replace('.', ""), &format!("{text}.x")] {
        assert!(matches!(read(&signer, text), Err(JwtError::Malformed(_))), "{text}");
    }
    assert_eq!(read(&signer, &"a".repeat(LONGEST + 1)), Err(JwtError::TooLarge));
}

#[test]
fn the_audience_of_a_clouds_own_api_cannot_be_configured() {
    for bad in [
        "https://management.azure.com/",
        "https://management.azure.com",
        "HTTPS://Management.Azure.Com//",
        "management.azure.com",
        "https://management.azure.com.",
        "https://management.azure.com:443/x",
        "https://management.core.windows.net/",
        "https://graph.microsoft.com",
        "https://vault.azure.net",
        "https://management.usgovcloudapi.net/",
        "https://storage.googleapis.com",
        "api://00000003-0000-0000-c000-000000000000",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013",
        "spn:797F4846-ba00-4fd7-ba43-dac1f8f63013/",
        "",
        "a b",
        &"x".repeat(LONGEST_AUDIENCE + 1),
    ] {
        assert!(Audience::new(bad).is_err(), "{bad}");
    }
    for good in [
        AUDIENCE,
        "https://controller.example.org",
        "api://11111111-2222-3333-4444-555555555555",
        "11111111-2222-3333-4444-555555555555",
        "https://notazure.com",
    ] {
        assert_eq!(Audience::new(good).unwrap().text(), good);
    }
}
