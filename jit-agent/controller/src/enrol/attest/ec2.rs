//! EC2: the signed instance identity document (`rsa2048`), against the certificate of its region.
//!
//! It has no nonce and never ends, and every process of the instance can read it. So it counts for
//! 15 minutes after the instance was started, or for one that an administrator has named before,
//! and a host enrols with it once; the request for the certificate comes in the same call.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;

use super::pkcs7::{self, Message, SignedError};
use crate::enrol::proof::{Facts, Method, Proof};

/// How long after its start an instance may enrol by itself, milliseconds.
pub const FRESH_MS: i64 = 15 * 60_000;
/// How much EC2's clock may be ahead, milliseconds.
const LEEWAY_MS: i64 = 60_000;

/// Why a document proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ec2Error {
    /// An account that is not in the configuration.
    #[error("the account {0} is not among [enrolment.ec2] accounts")]
    Account(String),
    /// What is signed is no such document.
    #[error("it is no instance identity document: {0}")]
    Document(String),
    /// The certificate of another region has signed it.
    #[error("it is of {said}, and signed with the certificate of {signed}")]
    Foreign {
        /// The region that it names.
        said: String,
        /// The region whose certificate it is.
        signed: String,
    },
    /// The instance has run for longer.
    #[error(
        "the instance {0} was started over 15 minutes ago (or later than now): enrol it with a \
         token, or add the host {1} first"
    )]
    Old(String, String),
    /// It is not signed as it should be.
    #[error(transparent)]
    Signed(#[from] SignedError),
}

/// Whose instances may enrol.
#[derive(Clone, Debug, Default)]
pub struct Ec2 {
    /// Certificates, DER, by region.
    pub certificates: BTreeMap<String, Vec<Vec<u8>>>,
    /// Accounts: 12 digits each.
    pub accounts: BTreeSet<String>,
}

/// An instance that EC2 has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    arn: String,
    pending_ms: i64,
    facts: Facts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    account_id: String,
    instance_id: String,
    pending_time: String,
    region: String,
}

impl Ec2 {
    /// The instance that a document names; `text`: what `rsa2048` answers.
    ///
    /// # Errors
    /// All but [`Ec2Error::Old`].
    pub fn instance(&self, text: &str) -> Result<Instance, Ec2Error> {
        let bytes = pkcs7::bytes(text)?;
        let message = Message::read(&bytes)?;
        let all = self.certificates.values().flatten();
        let signed = message.signed(all.map(Vec::as_slice))?;
        let document = Document::read(&signed.content)?;
        let Document { account_id, instance_id, pending_time, region } = document;
        let own = self.certificates.get(&region);
        if !own.is_some_and(|own| own.iter().any(|one| one == signed.certificate)) {
            let of_signer = self
                .certificates
                .iter()
                .find(|(_, all)| all.iter().any(|one| one == signed.certificate));
            let signed = of_signer.map(|(region, _)| region.clone()).unwrap_or_default();
            return Err(Ec2Error::Foreign { said: region, signed });
        }
        if !self.accounts.contains(&account_id) {
            return Err(Ec2Error::Account(account_id));
        }
        let pending: Timestamp = pending_time
            .parse()
            .map_err(|why| Ec2Error::Document(format!("pendingTime {pending_time:?}: {why}")))?;
        let partition = match region.as_str() {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        let arn = format!("arn:{partition}:ec2:{region}:{account_id}:instance/{instance_id}");
        let facts = [
            ("account", account_id),
            ("instance_id", instance_id),
            ("pending_time", pending_time),
            ("region", region),
        ];
        Ok(Instance { arn, pending_ms: pending.as_millisecond(), facts: facts.into() })
    }
}

impl Instance {
    /// The host that it is.
    pub fn host_id(&self) -> &str {
        &self.arn
    }

    /// That it is. `is_expected`: an administrator has added this host before.
    ///
    /// # Errors
    /// [`Ec2Error::Old`].
    pub fn prove(self, is_expected: bool, now_ms: i64) -> Result<Proof, Ec2Error> {
        let age = now_ms.saturating_sub(self.pending_ms);
        if !is_expected && !(-LEEWAY_MS..FRESH_MS).contains(&age) {
            let instance = self.facts.get("instance_id").cloned().unwrap_or_default();
            return Err(Ec2Error::Old(instance, self.arn));
        }
        Ok(Proof::new(self.arn.clone(), Method::Ec2, self.arn, self.facts))
    }
}

impl Document {
    fn read(content: &[u8]) -> Result<Self, Ec2Error> {
        let read: Self =
            serde_json::from_slice(content).map_err(|why| Ec2Error::Document(why.to_string()))?;
        let Self { account_id, instance_id, region, .. } = &read;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_account = account_id.len() == 12 && account_id.bytes().all(|b| b.is_ascii_digit());
        // 8 digits before 2016, 17 since.
        let is_instance = instance_id
            .strip_prefix("i-")
            .is_some_and(|id| matches!(id.len(), 8 | 17) && id.bytes().all(hex));
        let is_region = (1..=32).contains(&region.len()) && region.bytes().all(name);
        if is_account && is_instance && is_region {
            Ok(read)
        } else {
            Err(Ec2Error::Document("its account, instance or region has another form".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::enrol::attest::forge::Forge;

    const PENDING_MS: i64 = 1_790_325_737_000;
    const DOCUMENT: &str = r#"{
  "accountId" : "123456789012", "architecture" : "x86_64", "billingProducts" : null,
  "imageId" : "ami-5fb8c835", "instanceId" : "i-1234567890abcdef0", "instanceType" : "t3.micro",
  "pendingTime" : "2026-09-25T08:42:17Z", "privateIp" : "192.0.2.84", "region" : "eu-west-1",
  "version" : "2017-09-30"
}"#;
    const ARN: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-1234567890abcdef0";

    /// EC2 with two regions.
    fn world() -> (Forge, Ec2) {
        let forge = Forge::new();
        let mut certificates = BTreeMap::new();
        for region in ["eu-west-1", "us-west-2"] {
            forge.root(region, "rsa:2048", "");
            certificates.insert(region.to_owned(), vec![forge.der(region)]);
        }
        let accounts = ["123456789012".to_owned()].into();
        (forge, Ec2 { certificates, accounts })
    }

    fn signed(forge: &Forge, region: &str, document: &str) -> String {
        STANDARD.encode(forge.signed(region, document.as_bytes(), "-stream -nocerts"))
    }

    #[test]
    fn an_instance_is_named_by_its_regions_signature() {
        let (forge, ec2) = world();
        let instance = ec2.instance(&signed(&forge, "eu-west-1", DOCUMENT)).unwrap();
        assert_eq!(instance.host_id(), ARN);
        let proof = instance.prove(false, PENDING_MS + 5000).unwrap();
        assert_eq!((proof.host_id(), proof.machine(), proof.method()), (ARN, ARN, Method::Ec2));
        assert_eq!(proof.facts()["account"], "123456789012");
        // With the certificate in it, in any place, and with the attributes left out.
        for more in ["", "-noattr", "-certfile us-west-2.pem"] {
            let text = STANDARD.encode(forge.signed("eu-west-1", DOCUMENT.as_bytes(), more));
            assert_eq!(ec2.instance(&text).unwrap().host_id(), ARN, "{more}");
        }
        for (region, arn) in [("cn-north-1", "arn:aws-cn:"), ("us-gov-west-1", "arn:aws-us-gov:")] {
            let document = DOCUMENT.replace("eu-west-1", region);
            let certificates = [(region.to_owned(), vec![forge.der("eu-west-1")])].into();
            let ec2 = Ec2 { certificates, ..ec2.clone() };
            let instance = ec2.instance(&signed(&forge, "eu-west-1", &document)).unwrap();
            assert!(instance.host_id().starts_with(arn), "{}", instance.host_id());
        }
    }

    #[test]
    fn another_regions_certificate_signs_nothing_for_this_one() {
        let (forge, ec2) = world();
        let refused = ec2.instance(&signed(&forge, "us-west-2", DOCUMENT)).unwrap_err();
        let (said, signed_by) = ("eu-west-1".to_owned(), "us-west-2".to_owned());
        assert_eq!(refused, Ec2Error::Foreign { said, signed: signed_by });
        // A region without a certificate, though another one signs for it.
        let document = DOCUMENT.replace("eu-west-1", "eu-north-1");
        let refused = ec2.instance(&signed(&forge, "eu-west-1", &document)).unwrap_err();
        assert!(matches!(refused, Ec2Error::Foreign { .. }), "{refused}");
    }

    #[test]
    fn a_certificate_that_only_came_with_it_is_nobodys() {
        let (forge, ec2) = world();
        forge.root("thief", "rsa:2048", "");
        for more in ["-certfile eu-west-1.pem", "-noattr"] {
            let text = STANDARD.encode(forge.signed("thief", DOCUMENT.as_bytes(), more));
            let refused = ec2.instance(&text).unwrap_err();
            assert_eq!(refused, SignedError::Certificate.into(), "{more}");
        }
    }

    #[test]
    fn an_old_instance_enrols_only_if_it_is_expected() {
        let (forge, ec2) = world();
        let instance = ec2.instance(&signed(&forge, "eu-west-1", DOCUMENT)).unwrap();
        let at = |expected, now_ms| instance.clone().prove(expected, now_ms);
        assert!(at(false, PENDING_MS + FRESH_MS - 1).is_ok());
        assert!(at(false, PENDING_MS - LEEWAY_MS).is_ok());
        for now_ms in [PENDING_MS + FRESH_MS, PENDING_MS - LEEWAY_MS - 1, i64::MAX, i64::MIN] {
            let refused = at(false, now_ms).unwrap_err();
            assert!(
                matches!(&refused, Ec2Error::Old(id, host) if id == "i-1234567890abcdef0" && host == ARN)
            );
            assert!(at(true, now_ms).is_ok());
        }
    }

    #[test]
    fn other_accounts_and_documents_that_lie_are_refused() {
        let (forge, ec2) = world();
        let with = |from: &str, to: &str| {
            let document = DOCUMENT.replace(from, to);
            assert_ne!(document, DOCUMENT);
            ec2.instance(&signed(&forge, "eu-west-1", &document)).unwrap_err()
        };
        assert_eq!(with("123456789012", "210987654321"), Ec2Error::Account("210987654321".into()));
        for (from, to) in [
            ("123456789012", "12345678901"),
            ("i-1234567890abcdef0", "i-1234567890abcdef0/x"),
            ("i-1234567890abcdef0", "i-1234567890ABCDEF0"),
            ("\"eu-west-1\"", "\"\""),
            ("\"eu-west-1\"", "7"),
            ("pendingTime", "startTime"),
            ("2026-09-25T08:42:17Z", "yesterday"),
            ("{", "["),
            ("\"version\"", "\"accountId\" : \"210987654321\", \"version\""),
        ] {
            let refused = with(from, to);
            assert!(matches!(refused, Ec2Error::Document(_)), "{from} {to}: {refused}");
        }
    }
}
