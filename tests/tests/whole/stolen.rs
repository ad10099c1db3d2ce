//! What a thief can do with a token, an account, or the controller's certificate: nothing, and it is said
//! by name.

use std::time::Duration;

use jit_client::{
    Agent, CallError,
    controller::call::Call,
    signing::{Algorithm, SigningKey, seal},
    target::{Target, Tls, Way},
};
use jit_controller::store::Store;
use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::controller::{
    CLIENT, STRANGER, Stage,
    hosts::CERTIFICATE_NAME,
    people::{access, decision, revocation},
};
use prost::Message as _;
use rustls::pki_types::ServerName;

use crate::asked::{SCOPES, stage, until};

#[test]
fn stolen_tokens_and_second_accounts_are_refused_by_name() {
    let (stage, ana, li) = stage(None, &["web-1"], "stage");
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    // One person with two accounts is one person.
    let second = stage.person("ana-admin", "ana@example.org", &["sre"], &SCOPES);
    let approve = decision(&asked.id, "approve", &asked.hash);
    assert_eq!(second.refused(&approve), "self_approval");
    assert_eq!(ana.refused(&approve), "self_approval");
    // A token that may only read.
    let reader = stage.admin.make_token("li", &["read"]);
    assert_eq!(reader.refused(&approve), "scope_missing");
    // Another hash than that of the request: it was changed, or the decision is of another one.
    let other = ana.ask(&access(&["web-1"], STRANGER, "30m"));
    assert_eq!(li.refused(&decision(&asked.id, "approve", &other.hash)), "changed");
    // A revoked token.
    let stolen = stage.admin.make_token("li", &SCOPES);
    assert_eq!(stolen.request(&asked.id).state, "pending");
    stage.admin.done(&Call::delete(["tokens", &stolen.token_id]));
    assert_eq!(stolen.refused(&approve), "token_revoked");
    // A disabled account.
    stage.admin.put_account("li", "li@example.org", &["sre"], true);
    assert_eq!(li.refused(&approve), "account_disabled");
    // Out of the group.
    stage.admin.put_account("li", "li@example.org", &[], false);
    let word = li.refused(&approve);
    assert!(["forbidden", "not_eligible", "not_found"].contains(&word.as_str()), "{word}");
    assert_eq!(ana.request(&asked.id).state, "pending");
    assert!(!stage.client_opens(0, 22));
    assert!(stage.host(0).status()["grants"].as_array().unwrap().is_empty());
}

/// Whoever has the controller's certificate and database, but not the signer, can open nothing.
#[test]
fn a_controller_without_its_signer_opens_nothing() {
    let (stage, ana, li) = stage(None, &["web-1", "web-2"], "stage");
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    li.approve(&asked.id);
    li.settled(&asked.id);
    assert!(stage.client_gets_in(0, 22));
    let good = envelope(&stage, &asked.id);
    let grant = v1::Grant::decode(&good.payload[..]).unwrap();
    let wider = v1::Grant {
        id: vec![7; 16].into(),
        sources: vec![(&STRANGER.parse::<jit_proto::SourcePrefix>().unwrap()).into()],
        ..grant.clone()
    };
    let wider = wider.encode_to_vec();
    let provider = rustls::crypto::ring::default_provider();
    let own = SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
    let unsigned = v1::Envelope {
        payload_type: GRANT_TYPE.into(),
        payload: wider.clone().into(),
        signatures: Vec::new(),
    };
    let swapped = v1::Envelope { payload: wider.clone().into(), ..good.clone() };
    for (number, envelope, words) in [
        (0, unsigned, &["approvals_missing", "bad_signature", "malformed"][..]),
        (0, seal(GRANT_TYPE, wider, &[own]), &["unknown_key"]),
        (0, swapped, &["bad_signature"]),
        // Agreed to for another host.
        (1, good.clone(), &["wrong_host"]),
    ] {
        let word = push(&stage, number, envelope).unwrap_err();
        println!("{word}");
        assert!(words.contains(&word.as_str()), "{word}, not {words:?}");
        assert!(!stage.stranger_opens(number, 22));
    }
    // Ended: the same envelope does not open again.
    ana.done(&revocation(&asked.id));
    until(&ana, &asked.id, |view| view.counts.closed == 1);
    assert_eq!(push(&stage, 0, good).unwrap_err(), "revoked");
    assert!(!stage.client_opens(0, 22) && !stage.client_opens(1, 22));
}

/// The signed grant as the database has it.
fn envelope(stage: &Stage, request: &str) -> v1::Envelope {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&Store::sqlite_url(&stage.own("controller.db"))).await.unwrap();
        let grants = store.grants_of(request).await.unwrap();
        store.close().await;
        grants[0].envelope.clone().unwrap()
    })
}

/// Pushes as the controller. Returns the word of a refusal.
pub(crate) fn push(stage: &Stage, number: usize, envelope: v1::Envelope) -> Result<(), String> {
    let at = stage.host(number).at(7443);
    let tls = Tls {
        host: at.ip().to_string(),
        port: at.port(),
        name: ServerName::try_from(CERTIFICATE_NAME).unwrap(),
        ca: stage.own("pki/ca.pem"),
        cert: stage.own("controller.pem"),
        key: stage.own("controller.key"),
    };
    let target = Target { way: Way::Tls(Box::new(tls)), timeout: Duration::from_secs(10) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    stage.hub.run(|| {
        runtime.block_on(async {
            let mut agent = Agent::connect(&target).await.unwrap();
            match agent.push(envelope).await {
                Ok(_) => Ok(()),
                Err(CallError::Refused { word, .. }) => Err(word),
                Err(other) => panic!("{other}"),
            }
        })
    })
}
