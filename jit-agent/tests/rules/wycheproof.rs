//! Project Wycheproof's vectors for the two signature algorithms: every verdict is theirs.

use std::time::Duration;

use jit_agent::rules::keyring::{Keyring, Signer};
use jit_proto::v1;
use wycheproof::{TestResult, ecdsa, eddsa};

/// Whether the key of the file accepts a signature. `None`: the key is refused.
fn judges(pem: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
    let mut ring = Keyring::default();
    ring.add(Signer::from_pem("theirs".into(), Duration::from_secs(60), pem).ok()?).unwrap();
    let signature =
        v1::Signature { signature: signature.to_vec().into(), ..v1::Signature::default() };
    Some(!ring.try_signatures(message, &[signature]).signers.is_empty())
}

#[test]
fn every_ed25519_verdict_is_wycheproofs() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut judged = 0;
    for group in set.test_groups {
        for test in group.tests {
            let good = judges(&group.pem, &test.msg, &test.sig);
            let expected = matches!(test.result, TestResult::Valid);
            assert_eq!(good, Some(expected), "{}: {} {:?}", test.tc_id, test.comment, test.flags);
            judged += 1;
        }
    }
    assert!(judged >= 150, "{judged}");
}

#[test]
fn every_p256_verdict_is_wycheproofs() {
    let mut judged = 0;
    for name in [ecdsa::TestName::EcdsaSecp256r1Sha256, ecdsa::TestName::EcdsaSecp256r1Sha256P1363]
    {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let good = judges(&group.pem, &test.msg, &test.sig);
                let expected = matches!(test.result, TestResult::Valid);
                assert_eq!(
                    good,
                    Some(expected),
                    "{}: {} {:?}",
                    test.tc_id,
                    test.comment,
                    test.flags
                );
                judged += 1;
            }
        }
    }
    assert!(judged >= 700, "{judged}");
}
