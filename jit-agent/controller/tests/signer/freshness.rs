//! Checkpoints: the signer's process signs them with a key of their own, and nothing else with it.

use std::time::Duration;

use jit_client::signing::Algorithm;
use jit_controller::signer::{CheckpointWish, FreshnessSettings, KeySettings, SignerError};
use jit_proto::{payload_type::CHECKPOINT_TYPE, v1};
use prost::Message as _;

use crate::world::{World, new_key, now_ms, signs};

/// A world whose signer has a freshness key.
fn with_freshness() -> World {
    let mut world = World::new();
    let (file, _) = new_key(world.directory.path(), "freshness", Algorithm::P256);
    world.settings.freshness = Some(FreshnessSettings {
        key: KeySettings::Pem { file },
        journal: world.path("freshness.journal"),
        every: Duration::from_secs(10),
        valid_for: Duration::from_secs(25),
    });
    world
}

fn wish(issued_at_ms: i64) -> CheckpointWish {
    CheckpointWish { issued_at_ms, root: vec![7; 32], hosts: 3 }
}

fn is_refused(error: &SignerError, expected: &str) -> bool {
    matches!(error, SignerError::Refused { word, .. } if word == expected)
}

#[tokio::test]
async fn checkpoints_are_numbered_by_the_signer_and_an_epoch_lasts_as_long_as_its_process() {
    let world = with_freshness();
    let mut last = (0, 0);
    for _ in 0..2 {
        let signer = world.started().await;
        for number in 1..=3 {
            let now = now_ms();
            let envelope = signer.checkpoint(wish(now)).await.unwrap();
            let signed_by: Vec<_> =
                envelope.signatures.iter().map(|one| one.key_id.clone()).collect();
            assert_eq!((envelope.payload_type.as_str(), signed_by.len()), (CHECKPOINT_TYPE, 1));
            assert!(signer.keys().iter().all(|key| key.key_id != signed_by[0]), "its own key");
            let one = v1::Checkpoint::decode(envelope.payload).unwrap();
            assert_eq!((one.number, one.issued_at_ms, one.hosts), (number, now, 3));
            assert_eq!((one.root.as_ref(), one.valid_for_ms), (&[7; 32][..], 25_000));
            assert!((one.epoch, one.number) > last, "it only grows");
            last = (one.epoch, one.number);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let refused = signer.checkpoint(wish(1)).await.unwrap_err();
        assert!(is_refused(&refused, "too_old"), "{refused}");
        // Grants are signed as before.
        signs(&signer).await;
    }
}

#[tokio::test]
async fn without_a_key_of_their_own_no_checkpoints_are_signed() {
    let world = World::new();
    let signer = world.start().await;
    let refused = signer.checkpoint(wish(now_ms())).await.unwrap_err();
    assert!(is_refused(&refused, "no_freshness"), "{refused}");
    let mut world = with_freshness();
    let key = world.settings.keys[0].clone();
    world.settings.freshness.as_mut().unwrap().key = key;
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("freshness.key"), "{refused}");
    // The same key in another file.
    let copy = world.path("copy.key");
    std::fs::copy(world.path("signer.key"), &copy).unwrap();
    world.settings.freshness.as_mut().unwrap().key = KeySettings::Pem { file: copy };
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("is the same key as another one"), "{refused}");
}
