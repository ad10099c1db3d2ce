//! What was changed, left out or cut in the audit is found, and the record is named.

use jit_client::signing::{Algorithm, SigningKey};
use jit_controller::{
    audit::{
        head::{Head, HeadKey, PublicKey},
        sealing::{Sealing, sign_if_due},
        verify::{Report, verify},
    },
    store::Store,
};

use crate::{
    databases::Database,
    filled::{NOW, by_hand, record},
};

on_each_database! {
    an_audit_that_nobody_touched_is_good,
    what_was_changed_is_named,
    an_audit_that_was_made_anew_does_not_fit_to_heads,
    heads_are_signed_when_due_and_at_the_end,
}

fn key() -> (HeadKey, PublicKey) {
    let random = rustls::crypto::ring::default_provider().secure_random;
    let key = SigningKey::generate(Algorithm::Ed25519, random).unwrap();
    let key = HeadKey::from_pem(&key.to_pem()).unwrap();
    let public = PublicKey::from_pem(&key.public_pem()).unwrap();
    assert_eq!(public.id(), key.id());
    (key, public)
}

async fn checked(store: &Store, keys: &[PublicKey], against: &[Head]) -> Report {
    verify(store, keys, against, |_| {}).await.unwrap()
}

async fn an_audit_that_nobody_touched_is_good(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (key, public) = key();
    assert!(checked(&store, &[], &[]).await.is_good(), "an empty one");
    record(&store, 0, 5).await;
    let head = sign_if_due(&store, &key, NOW, true).await.unwrap().unwrap();
    record(&store, 5, 1).await;
    let kept: Head = head.to_line().parse().unwrap();
    let report = checked(&store, &[public], &[kept]).await;
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.records, report.heads, report.signed_until), (6, 1, 5));
    let (_, other) = self::key();
    let report = checked(&store, &[other], &[]).await;
    assert!(report.broken[0].why.contains("not known here"), "{report:?}");
}

async fn what_was_changed_is_named(database: Database) {
    let (key, public) = key();
    let zeros = "0".repeat(64);
    let changes: [(&str, i64, &str); 9] = [
        ("UPDATE audit SET line = REPLACE(line, 'web-1', 'web-2') WHERE seq = 4", 4, "text"),
        ("UPDATE audit SET hash = '00' WHERE seq = 4", 4, "hash"),
        ("UPDATE audit SET code = 'R001' WHERE seq = 4", 4, "column code"),
        ("UPDATE audit SET request = 'x' WHERE seq = 4", 4, "column request"),
        ("DELETE FROM audit WHERE seq = 4", 4, "missing"),
        ("DELETE FROM audit WHERE seq >= 4", 4, "the end was cut"),
        (
            "UPDATE audit_tip SET seq = 7, hash = (SELECT hash FROM audit WHERE seq = 7)",
            8,
            "by hand",
        ),
        ("UPDATE audit_tip SET seq = 7", 7, "stored apart"),
        ("UPDATE audit_head SET signature = REPLACE(signature, 'a', 'b')", 8, "signature"),
    ];
    let store = Store::open(&database.url).await.unwrap();
    record(&store, 0, 8).await;
    sign_if_due(&store, &key, NOW, true).await.unwrap().unwrap();
    let mut copy = Vec::new();
    jit_controller::store::dump::write(&store, &mut copy, |_| {}).await.unwrap();
    for (change, seq, why) in changes {
        by_hand(&database.url, change).await;
        let report = checked(&store, std::slice::from_ref(&public), &[]).await;
        assert_eq!(
            report.broken.first().map(|broken| broken.seq),
            Some(seq),
            "{change}: {report:?}"
        );
        assert!(report.broken[0].why.contains(why), "{change}: {report:?}");
        for table in ["audit", "audit_head"] {
            by_hand(&database.url, &format!("DELETE FROM {table}")).await;
        }
        by_hand(&database.url, &format!("UPDATE audit_tip SET seq = 0, hash = '{zeros}'")).await;
        jit_controller::store::dump::restore(&store, &mut copy.as_slice(), |_| {}).await.unwrap();
    }
    assert!(checked(&store, &[public], &[]).await.is_good());
}

async fn an_audit_that_was_made_anew_does_not_fit_to_heads(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (key, public) = key();
    record(&store, 0, 4).await;
    let head = sign_if_due(&store, &key, NOW, true).await.unwrap().unwrap();
    by_hand(&database.url, "DELETE FROM audit").await;
    let zeros = "0".repeat(64);
    by_hand(&database.url, &format!("UPDATE audit_tip SET seq = 0, hash = '{zeros}'")).await;
    record(&store, 100, 6).await;
    let report = checked(&store, std::slice::from_ref(&public), &[]).await;
    assert_eq!(report.broken[0].seq, 4, "{report:?}");
    // Without the stored head nothing here shows it: only one that was kept elsewhere does.
    by_hand(&database.url, "DELETE FROM audit_head").await;
    assert!(checked(&store, std::slice::from_ref(&public), &[]).await.is_good());
    let kept: Head = format!("{}:{}", head.seq, head.hash).parse().unwrap();
    let report = checked(&store, std::slice::from_ref(&public), &[kept]).await;
    assert!(report.broken[0].why.contains("written anew"), "{report:?}");
    let longer = Head { seq: 7, hash: zeros };
    let report = checked(&store, &[public], &[longer]).await;
    assert!(report.broken[0].why.contains("the end was cut"), "{report:?}");
}

async fn heads_are_signed_when_due_and_at_the_end(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let (key, public) = key();
    assert_eq!(sign_if_due(&store, &key, NOW, true).await.unwrap(), None, "there is nothing");
    let sealing = Sealing::start(store.clone(), key);
    record(&store, 0, 3).await;
    sealing.end().await;
    let heads = store.signed_heads(0, i64::MAX).await.unwrap();
    assert_eq!(heads.last().map(|head| head.seq), Some(3));
    assert!(checked(&store, &[public], &[]).await.is_good());
}
