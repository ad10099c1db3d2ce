//! Revocations: other keys sign them than those that sign grants, and they wait for no grant.

use std::{fs, path::Path, time::Duration};

use jit_client::signing::Algorithm;
use jit_controller::signer::{FreshnessSettings, KeySettings, Purpose, SignerError};
use jit_proto::{payload_type::REVOCATION_TYPE, v1};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::world::{
    World, agreed, eventually, new_key, now_ms, proposal, script, signs, verify_by, word,
};

/// A world with two keys that sign revocations.
fn with_keys() -> World {
    let mut world = World::new();
    for (name, algorithm) in [("closing", Algorithm::Ed25519), ("spare", Algorithm::P256)] {
        let (file, _) = new_key(world.directory.path(), name, algorithm);
        world.settings.revocation_keys.push(KeySettings::Pem { file });
    }
    world
}

fn all() -> Vec<u8> {
    revocation(now_ms()).encode_to_vec()
}

fn revocation(now_ms: i64) -> v1::Revocation {
    v1::Revocation {
        every_host: true,
        all: true,
        issued_before_ms: now_ms,
        author: "li@example.org".into(),
        reason: "stolen key".into(),
        keep_until_ms: now_ms + 86_400_000,
        ..v1::Revocation::default()
    }
}

#[tokio::test]
async fn each_revocation_key_signs_it_and_no_key_of_grants() {
    let world = with_keys();
    let signer = world.start().await;
    let (keys, payload) = (signer.revocation_keys(), all());
    assert_eq!((keys.len(), signer.keys().len()), (2, 1));
    let signatures = signer.sign_revocation(payload.clone()).await.unwrap();
    verify_by(&keys, &payload, REVOCATION_TYPE, &signatures);
    assert!(signatures.iter().all(|one| one.key_id != signer.keys()[0].key_id));
    signs(&signer).await;
    let journal = fs::read_to_string(world.path("signer.journal.closing")).unwrap();
    assert_eq!(journal.lines().filter(|line| line.starts_with("c ")).count(), 1);
    // Also of another process, with the same journal.
    drop(signer);
    let signer = world.started().await;
    signer.sign_revocation(payload).await.unwrap();
    let journal = fs::read_to_string(world.path("signer.journal.closing")).unwrap();
    assert_eq!(journal.lines().filter(|line| line.starts_with("c ")).count(), 1);
}

#[tokio::test]
async fn what_is_no_revocation_of_this_time_is_refused_and_so_is_all_without_a_key() {
    let signer = with_keys().start().await;
    let ahead = revocation(now_ms() + 120_000).encode_to_vec();
    assert_eq!(word(signer.sign_revocation(ahead).await), "clock_off");
    let silent = v1::Revocation { reason: String::new(), ..revocation(now_ms()) };
    assert_eq!(word(signer.sign_revocation(silent.encode_to_vec()).await), "malformed");
    // A grant is none.
    assert_eq!(word(signer.sign_revocation(agreed(proposal()).payload).await), "malformed");
    let signer = World::new().start().await;
    assert_eq!(word(signer.sign_revocation(all()).await), "no_revocation_keys");
}

#[tokio::test]
async fn grants_hold_up_no_revocation_and_a_key_has_one_purpose() {
    let mut world = with_keys();
    world.settings.limits.signatures_a_minute = 2;
    let signer = world.start().await;
    signs(&signer).await;
    signs(&signer).await;
    for number in 0..2 {
        let payload = revocation(now_ms() - number).encode_to_vec();
        signer.sign_revocation(payload).await.unwrap();
    }
    let third = revocation(now_ms() - 2).encode_to_vec();
    let too_fast = signer.sign_revocation(third).await.unwrap_err();
    let is_late = matches!(&too_fast, SignerError::Unavailable(why) if why.contains("too_fast"));
    assert!(is_late, "{too_fast}");
    drop(signer);
    // The same key in another file.
    fs::copy(world.path("signer.key"), world.path("copy.key")).unwrap();
    let file = world.path("copy.key");
    world.settings.revocation_keys = vec![KeySettings::Pem { file }];
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("is the same key as another one"), "{refused}");
}

#[tokio::test]
async fn what_closes_a_part_leaves_room_for_what_closes_everything() {
    let mut world = with_keys();
    world.settings.limits.signatures_a_minute = 10;
    let signer = world.start().await;
    let asks = |number: i64, everything: bool| {
        let mut message = revocation(now_ms() - number);
        if !everything {
            (message.all, message.requester) = (false, "ana@example.org".into());
        }
        signer.sign_revocation(message.encode_to_vec())
    };
    for number in 0..8 {
        asks(number, false).await.unwrap();
    }
    for (everything, signs) in [(false, false), (true, true), (true, true), (true, false)] {
        match asks(9, everything).await {
            Ok(_) => assert!(signs, "{everything}"),
            Err(SignerError::Unavailable(why)) => assert!(!signs && why.contains("too_fast")),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_key_of_grants_that_cannot_be_opened_or_hangs_holds_up_no_revocation() {
    for hangs in [false, true] {
        let mut world = with_keys();
        let (file, aside) = (world.path("signer.key"), world.path("aside.key"));
        if hangs {
            // It never says its key.
            script(&world.path("hangs"), "#!/bin/sh\necho $$ >\"$0.pid\"\nexec sleep 600\n");
            world.settings.keys = vec![KeySettings::Command {
                command: vec![world.path("hangs").display().to_string()],
                public_key: None,
                timeout: Duration::from_millis(500),
            }];
        } else {
            fs::rename(&file, &aside).unwrap();
        }
        let signer = world.start().await;
        signer.sign_revocation(all()).await.unwrap();
        let opens = signer.processes().remove(&Purpose::Opens).unwrap();
        assert_eq!((opens.pid, opens.keys), (None, Vec::new()));
        if hangs {
            let place = world.path("hangs.pid");
            let pid = fs::read_to_string(&place).unwrap().trim().to_owned();
            let runs = || Path::new("/proc").join(&pid).join("exe").exists();
            assert!(runs());
            drop(signer);
            // Without this each start would leave a program that hangs.
            eventually("the program is ended", async || !runs()).await;
            continue;
        }
        assert!(opens.trouble.contains("signer.key"), "{}", opens.trouble);
        let refused = signer.sign(&agreed(proposal())).await.unwrap_err();
        assert!(refused.to_string().contains("signer.key"), "{refused}");
        // It comes by itself when the key is there.
        fs::rename(&aside, &file).unwrap();
        eventually("it signs", async || signer.sign(&agreed(proposal())).await.is_ok()).await;
        assert_eq!(signer.keys().len(), 1);
    }
}

#[tokio::test]
async fn a_key_of_revocations_or_checkpoints_that_is_lost_holds_up_nothing_else() {
    let mut world = with_keys();
    let (file, _) = new_key(world.directory.path(), "freshness", Algorithm::P256);
    world.settings.freshness = Some(FreshnessSettings {
        key: KeySettings::Pem { file: file.clone() },
        journal: world.path("freshness.journal"),
        every: Duration::from_secs(10),
        valid_for: Duration::from_secs(25),
    });
    fs::remove_file(&file).unwrap();
    let signer = world.start().await;
    signs(&signer).await;
    signer.sign_revocation(all()).await.unwrap();
    drop(signer);
    fs::remove_file(world.path("closing.key")).unwrap();
    let signer = world.started().await;
    signs(&signer).await;
    let refused = signer.sign_revocation(all()).await.unwrap_err();
    assert!(refused.to_string().contains("closing.key"), "{refused}");
    drop(signer);
    // Nothing that could sign: the start says why.
    fs::remove_file(world.path("signer.key")).unwrap();
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("signer.key"), "{refused}");
}

#[tokio::test]
async fn grants_that_wait_hold_up_no_revocation() {
    let signer = with_keys().start().await;
    let mut grants = JoinSet::new();
    for request in (0..250).map(|_| agreed(proposal())) {
        let signer = signer.clone();
        grants.spawn(async move { signer.sign(&request).await.unwrap() });
    }
    // All of them have asked.
    tokio::task::yield_now().await;
    signer.sign_revocation(all()).await.unwrap();
    let mut before = 0;
    while let Some(signed) = grants.try_join_next() {
        signed.unwrap();
        before += 1;
    }
    assert!(before < 125, "{before} grants came first");
    while let Some(signed) = grants.join_next().await {
        signed.unwrap();
    }
}
