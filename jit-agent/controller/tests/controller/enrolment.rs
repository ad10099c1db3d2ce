//! Machines that become hosts: what counts once does so under a race, and who comes second waits.

use std::{collections::BTreeMap, time::Duration};

use jit_controller::{
    enrol::{
        admit::{self, Decision, NotRenewed, renews},
        ask::{self, AskError, Asked, Outcome},
        nonce,
        opened::Opened,
        proof::Method,
        renew,
        request::Request,
        token::{self, Secret, Taken, Wish},
    },
    model::Host,
    store::{Enrolment, EnrolmentState, HostCertificate, Store, Tx, again, enrolments, hosts},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::time::timeout;

use crate::databases::Database;

const NOW_MS: i64 = 1_790_325_737_000;

on_each_database! {
    a_token_counts_as_often_as_it_says_under_a_race,
    a_token_that_ended_or_was_revoked_or_is_unknown_counts_never,
    a_use_comes_back_if_nothing_came_of_it,
    who_guesses_tokens_waits_for_nobody_and_keeps_nobody_waiting,
    a_nonce_counts_once_and_for_ten_minutes,
    of_many_machines_at_once_one_becomes_the_host,
    who_comes_second_waits_and_a_person_puts_him_in_the_place_of_the_first,
    a_host_of_the_inventory_is_taken_by_no_token_of_other_labels,
}

fn wish(uses: u32) -> Wish {
    let labels = [("env".to_owned(), "test".to_owned())].into();
    Wish { labels, uses, valid_ms: 3_600_000 }
}

async fn token(store: &Store, uses: u32) -> (String, Secret) {
    let (token, secret) = wish(uses).make("ana", NOW_MS).unwrap();
    let mut tx = store.begin().await.unwrap();
    token::keep(&mut tx, &token, NOW_MS).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.enrolment_tokens().await.unwrap()[0], token);
    (token.id, secret)
}

/// What the audit has recorded.
async fn codes(store: &Store) -> Vec<String> {
    store.audit_after(0, 100).await.unwrap().into_iter().map(|line| line.code).collect()
}

fn request() -> Request {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::<String>::new()).unwrap();
    Request::read(&params.serialize_request(&key).unwrap().pem().unwrap()).unwrap()
}

async fn taken(tx: &mut Tx, secret: &Secret) -> Taken {
    token::take(tx, secret.expose(), NOW_MS).await.unwrap().expect("a use is left")
}

/// A host asks with a token.
async fn ask(
    store: &Store,
    secret: &Secret,
    host: &str,
    request: &Request,
    now_ms: i64,
) -> (Decision, Option<Enrolment>) {
    let change = || async {
        let mut tx = store.begin().await?;
        let token = taken(&mut tx, secret).await;
        let proof = token.prove(host).unwrap();
        let done = admit::admit(&mut tx, &proof, request, Some(&token), &[], now_ms).await?;
        tx.commit().await?;
        Ok::<_, jit_controller::store::StoreError>(done)
    };
    again(change).await.unwrap()
}

async fn a_token_counts_as_often_as_it_says_under_a_race(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    for uses in [1, 3] {
        let (_, secret) = token(&store, uses).await;
        let tasks: Vec<_> = (0..24)
            .map(|_| {
                let (store, text) = (store.clone(), secret.expose().to_owned());
                tokio::spawn(async move {
                    let mut tx = store.begin().await.unwrap();
                    let taken = token::take(&mut tx, &text, NOW_MS).await.unwrap();
                    tx.commit().await.unwrap();
                    taken.is_some()
                })
            })
            .collect();
        let mut count = 0;
        for task in tasks {
            count += u32::from(task.await.unwrap());
        }
        assert_eq!(count, uses);
    }
}

async fn who_guesses_tokens_waits_for_nobody_and_keeps_nobody_waiting(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (_, secret) = token(&store, 1).await;
    let opened = Opened::default();
    let asked = |proof: &str| Asked {
        method: Method::Token,
        proof: proof.into(),
        host: "web-1".into(),
        nonce: String::new(),
    };
    // Somebody changes something, and takes his time.
    let changing = store.begin().await.unwrap();
    for proof in [Secret::generate().expose(), "", "jit_enrol_x"] {
        let (request, asked) = (request(), asked(proof));
        let refused = ask::ask(&store, &opened, &request, &asked, NOW_MS);
        let refused = timeout(Duration::from_secs(5), refused).await.expect("it waits for others");
        assert!(
            matches!(&refused, Err(AskError::Refused(why)) if why.contains("token")),
            "{refused:?}"
        );
    }
    drop(changing);
    let issued = ask::ask(&store, &opened, &request(), &asked(secret.expose()), NOW_MS).await;
    assert!(matches!(issued, Ok(Outcome::Issued { .. })), "{issued:?}");
    let again = ask::ask(&store, &opened, &request(), &asked(secret.expose()), NOW_MS).await;
    assert!(matches!(again, Err(AskError::Refused(_))), "{again:?}");
}

async fn a_token_that_ended_or_was_revoked_or_is_unknown_counts_never(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (id, secret) = token(&store, 9).await;
    let mut tx = store.begin().await.unwrap();
    let other = Secret::generate();
    let end_ms = NOW_MS + 3_600_000;
    for (text, now_ms, counts) in [
        (secret.expose(), end_ms - 1, true),
        (secret.expose(), end_ms, false),
        (other.expose(), NOW_MS, false),
        ("", NOW_MS, false),
        ("jit_enrol_", NOW_MS, false),
    ] {
        let taken = token::take(&mut tx, text, now_ms).await.unwrap();
        assert_eq!(taken.is_some(), counts, "{text} {now_ms}");
    }
    assert!(token::revoke(&mut tx, &id, "ana", NOW_MS).await.unwrap());
    assert!(!token::revoke(&mut tx, &id, "ana", NOW_MS).await.unwrap());
    assert!(token::take(&mut tx, secret.expose(), NOW_MS).await.unwrap().is_none());
    tx.commit().await.unwrap();
    let kept = store.enrolment_tokens().await.unwrap().remove(0);
    assert_eq!((kept.uses_left, kept.revoked_ms), (8, NOW_MS));
    assert_eq!(codes(&store).await, ["E001", "E002"]);
    assert!(!format!("{kept:?}").contains(&secret.expose()["jit_enrol_".len()..]));
}

async fn a_use_comes_back_if_nothing_came_of_it(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (_, secret) = token(&store, 1).await;
    let mut tx = store.begin().await.unwrap();
    taken(&mut tx, &secret).await;
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    taken(&mut tx, &secret).await;
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(token::take(&mut tx, secret.expose(), NOW_MS).await.unwrap().is_none());
}

async fn a_nonce_counts_once_and_for_ten_minutes(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let given = async |now_ms| {
        let mut tx = store.begin().await.unwrap();
        let nonce = nonce::give(&mut tx, now_ms).await.unwrap();
        tx.commit().await.unwrap();
        nonce
    };
    let take = async |nonce: &str, now_ms| {
        let mut tx = store.begin().await.unwrap();
        let took = nonce::take(&mut tx, nonce, now_ms).await.unwrap();
        tx.commit().await.unwrap();
        took
    };
    let nonce = given(NOW_MS).await;
    assert!(nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert!(!take(&nonce.to_uppercase(), NOW_MS).await);
    assert!(!take(&nonce[1..], NOW_MS).await);
    assert!(take(&nonce, NOW_MS + nonce::VALID_MS - 1).await);
    assert!(!take(&nonce, NOW_MS).await, "a second time");
    let nonce = given(NOW_MS).await;
    assert!(!take(&nonce, NOW_MS + nonce::VALID_MS).await, "it has ended");
    let nonce = given(NOW_MS).await;
    let both = tokio::join!(take(&nonce, NOW_MS), take(&nonce, NOW_MS));
    assert!(both.0 != both.1, "{both:?}");
}

async fn of_many_machines_at_once_one_becomes_the_host(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (_, secret) = token(&store, 100).await;
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let (store, secret) = (store.clone(), secret.clone());
            let host = if number % 2 == 0 { "web-1" } else { "WEB-1" };
            tokio::spawn(async move { ask(&store, &secret, host, &request(), NOW_MS).await })
        })
        .collect();
    let mut issued = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (Decision::Issue, Some(one)) => issued.push(one),
            (Decision::Wait(why), Some(one)) => {
                assert!(one.state == EnrolmentState::Waiting && one.why == why && !why.is_empty());
            }
            // Too many wait, or the same name in other letters.
            (Decision::Refuse(why), None) => {
                assert!(why.contains("wait for a person") || why.contains("is called"), "{why}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(issued.len(), 1, "{issued:?}");
    let mut tx = store.begin().await.unwrap();
    let counts = enrolments::of_host(&mut tx, "Web-1").await.unwrap();
    assert_eq!(counts.as_ref(), issued.first());
}

async fn who_comes_second_waits_and_a_person_puts_him_in_the_place_of_the_first(
    database: Database,
) {
    let store = Store::open(&database.url).await.unwrap();
    let (_, secret) = token(&store, 100).await;
    let (mine, other) = (request(), request());
    let (decision, first) = ask(&store, &secret, "web-1", &mine, NOW_MS).await;
    let first = first.unwrap();
    assert_eq!((decision, first.state), (Decision::Issue, EnrolmentState::Issued));
    let known = store.host("web-1").await.unwrap().unwrap().host;
    assert_eq!(known.labels, wish(1).labels, "the host has the token's labels");
    let wanted = store.certificates_wanted(10).await.unwrap();
    assert_eq!((wanted.len(), &wanted[0].enrolment), (1, &first.id));
    assert_eq!(store.enrolment(&first.id).await.unwrap().as_ref(), Some(&first));
    // The answer was lost.
    let (decision, kept) = ask(&store, &secret, "web-1", &mine, NOW_MS + 1).await;
    assert_eq!((decision, kept), (Decision::Again(first.id.clone()), None));
    let certificate = HostCertificate {
        serial: "4001".into(),
        host: "web-1".into(),
        enrolment: first.id.clone(),
        csr_hash: first.csr_hash.clone(),
        issued_ms: NOW_MS,
        not_after_ms: NOW_MS + 1000,
        pem: "-----BEGIN CERTIFICATE-----".into(),
    };
    let mut tx = store.begin().await.unwrap();
    enrolments::add_certificate(&mut tx, &certificate).await.unwrap();
    tx.commit().await.unwrap();
    let found = store.host_certificates("web-1", NOW_MS).await.unwrap();
    assert_eq!(found.as_slice(), std::slice::from_ref(&certificate));
    assert!(store.host_certificates("web-1", NOW_MS + 1000).await.unwrap().is_empty());

    let (decision, second) = ask(&store, &secret, "web-1", &other, NOW_MS + 2).await;
    let second = second.unwrap();
    assert!(matches!(decision, Decision::Wait(_)), "{decision:?}");
    let waiting = store.enrolments(Some(EnrolmentState::Waiting), "", 10).await.unwrap();
    assert_eq!(waiting.as_slice(), std::slice::from_ref(&second));
    let mut tx = store.begin().await.unwrap();
    let current = enrolments::of_host(&mut tx, "web-1").await.unwrap();
    assert_eq!(renews("web-1", Some(&certificate), current.as_ref(), NOW_MS), Ok(()));
    let next = request();
    assert_eq!(renew::want(&mut tx, &certificate, &next, NOW_MS).await.unwrap(), Ok(()));
    assert!(enrolments::unwant(&mut tx, next.sha256()).await.unwrap(), "it is wanted");
    let ended = renew::want(&mut tx, &certificate, &next, NOW_MS + 1000).await.unwrap();
    assert_eq!(ended, Err(NotRenewed::Ended));
    assert!(!admit::refuse(&mut tx, &first.id, "ana", NOW_MS).await.unwrap(), "it does not wait");
    let let_in = admit::approve(&mut tx, &second.id, "ana", NOW_MS + 3).await.unwrap().unwrap();
    assert_eq!((let_in.state, let_in.decided_by.as_str()), (EnrolmentState::Issued, "ana"));
    assert_eq!(admit::approve(&mut tx, &second.id, "ana", NOW_MS + 4).await.unwrap(), None);
    let current = enrolments::of_host(&mut tx, "web-1").await.unwrap();
    assert_eq!(current.as_ref(), Some(&let_in));
    let renewed = renews("web-1", Some(&certificate), current.as_ref(), NOW_MS);
    assert_eq!(renewed, Err(NotRenewed::Replaced));
    let replaced = renew::want(&mut tx, &certificate, &next, NOW_MS).await.unwrap();
    assert_eq!(replaced, Err(NotRenewed::Replaced));
    assert!(!enrolments::unwant(&mut tx, next.sha256()).await.unwrap(), "it is not wanted");
    tx.commit().await.unwrap();

    // It gets what it was promised; the first one waits now, and may be refused for good.
    let (decision, _) = ask(&store, &secret, "web-1", &other, NOW_MS + 4).await;
    assert_eq!(decision, Decision::Again(second.id));
    let (decision, third) = ask(&store, &secret, "web-1", &mine, NOW_MS + 5).await;
    assert!(matches!(decision, Decision::Wait(_)), "{decision:?}");
    let mut tx = store.begin().await.unwrap();
    assert!(admit::refuse(&mut tx, &third.unwrap().id, "ana", NOW_MS + 6).await.unwrap());
    tx.commit().await.unwrap();
    let (decision, kept) = ask(&store, &secret, "web-1", &mine, NOW_MS + 7).await;
    assert!(matches!(decision, Decision::Refuse(_)) && kept.is_none(), "{decision:?}");
    assert_eq!(
        codes(&store).await,
        ["E001", "E003", "H001", "E004", "E007", "E005", "E007", "E004", "E005"]
    );
}

async fn a_host_of_the_inventory_is_taken_by_no_token_of_other_labels(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (_, secret) = token(&store, 100).await;
    let mut tx = store.begin().await.unwrap();
    for (id, env) in [("prod-1", "prod"), ("test-1", "test")] {
        let labels: BTreeMap<_, _> = [("env".to_owned(), env.to_owned())].into();
        let host =
            Host { id: id.into(), address: "192.0.2.1:7443".into(), labels, ..Host::default() };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    tx.commit().await.unwrap();
    for (host, words) in [("prod-1", "env = test"), ("TEST-1", "called test-1")] {
        let (decision, kept) = ask(&store, &secret, host, &request(), NOW_MS).await;
        let refused = matches!(&decision, Decision::Refuse(why) if why.contains(words));
        assert!(refused && kept.is_none(), "{decision:?}");
    }
    let (decision, _) = ask(&store, &secret, "test-1", &request(), NOW_MS).await;
    assert_eq!(decision, Decision::Issue);
}
