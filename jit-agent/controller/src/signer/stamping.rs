//! The key that signs checkpoints, open. It can sign nothing else.
//!
//! The signer makes the payload itself, of a root and a number of hosts: whoever speaks with it can have
//! no grant, policy or revocation signed by this key. Numbers begin anew with each start of the signer, in
//! an epoch that is higher than the one before by file and by clock: a backup that is put back repeats none.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    slice,
};

use jit_proto::{merkle::MAX_PATH, payload_type::CHECKPOINT_TYPE, v1};
use prost::Message as _;
use rustix::fs::{FlockOperation, flock};

use super::{
    KeyInfo,
    freshness::{CheckpointWish, FreshnessSettings},
    keys::Keys,
    refused::Refused,
};

/// How far the moment of a checkpoint may be from the signer's clock, milliseconds.
const AWAY_MS: u64 = 60_000;
/// Most hosts of a tree.
const MAX_HOSTS: u64 = 1 << MAX_PATH;
/// Length of the file: an epoch in 20 digits, and the end of the line.
const LENGTH: usize = 21;

/// The key, open.
pub(super) struct Held {
    keys: Keys,
    valid_for_ms: u32,
    epoch: u64,
    number: u64,
    last_ms: i64,
}

/// Why no checkpoint was signed.
pub(super) enum NotSigned {
    /// Never.
    Refused(Refused),
    /// The key is lost.
    Lost(String),
}

impl Held {
    /// Opens the key, and begins the next epoch. `others`: the keys that sign grants.
    pub(super) fn open(
        settings: &FreshnessSettings,
        others: &[KeyInfo],
        now_ms: i64,
    ) -> Result<Self, String> {
        let keys = Keys::open(slice::from_ref(&settings.key), &[])?;
        let is_other = |one: &KeyInfo| others.iter().any(|other| other.key_id == one.key_id);
        if keys.infos().iter().any(is_other) {
            return Err(
                "the key of [signer.freshness] signs grants, too: take one of its own".into()
            );
        }
        let journal = &settings.journal;
        let epoch = next_epoch(journal, now_ms)
            .map_err(|why| format!("cannot use the journal {}: {why}", journal.display()))?;
        let valid_for_ms = u32::try_from(settings.valid_for.as_millis()).unwrap_or(u32::MAX);
        Ok(Self { keys, valid_for_ms, epoch, number: 0, last_ms: i64::MIN })
    }

    /// The key, without secrets.
    pub(super) fn infos(&self) -> Vec<KeyInfo> {
        self.keys.infos()
    }

    /// Signs the next checkpoint.
    pub(super) fn sign(
        &mut self,
        wish: &CheckpointWish,
        now_ms: i64,
    ) -> Result<v1::Envelope, NotSigned> {
        let refused =
            |word, detail: &str| NotSigned::Refused(Refused { word, detail: detail.to_owned() });
        let CheckpointWish { issued_at_ms, root, hosts } = wish;
        if root.len() != 32 || !(1..=MAX_HOSTS).contains(hosts) {
            return Err(refused("malformed", "a root has 32 bytes, and a tree 1 to 2^32 hosts"));
        }
        if issued_at_ms.abs_diff(now_ms) > AWAY_MS {
            return Err(refused("too_old", "its moment is more than 60 s from the signer's clock"));
        }
        if *issued_at_ms <= self.last_ms {
            return Err(refused(
                "signed_otherwise",
                "one of this moment or a later one was signed",
            ));
        }
        self.last_ms = *issued_at_ms;
        self.number = self.number.saturating_add(1);
        let payload = v1::Checkpoint {
            epoch: self.epoch,
            number: self.number,
            issued_at_ms: *issued_at_ms,
            valid_for_ms: self.valid_for_ms,
            root: root.clone().into(),
            hosts: *hosts,
        };
        let payload = payload.encode_to_vec();
        let signatures = self.keys.sign(CHECKPOINT_TYPE, &payload).map_err(NotSigned::Lost)?;
        Ok(v1::Envelope {
            payload_type: CHECKPOINT_TYPE.into(),
            payload: payload.into(),
            signatures,
        })
    }
}

/// The next epoch, which is on the disk: higher than the one in the file, and at least this second. A file
/// that is empty or damaged has none.
fn next_epoch(path: &Path, now_ms: i64) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let mut bytes = Vec::new();
    (&file).take(64).read_to_end(&mut bytes)?;
    let text = str::from_utf8(&bytes).ok();
    let before = text.and_then(|text| text.strip_suffix('\n')?.parse::<u64>().ok());
    let clock = u64::try_from(now_ms / 1000).unwrap_or(0).max(1);
    let epoch = before.map_or(clock, |before| before.saturating_add(1).max(clock));
    let line = format!("{epoch:020}\n");
    file.seek(SeekFrom::Start(0))?;
    file.write_all(line.as_bytes())?;
    file.set_len(u64::try_from(LENGTH).unwrap_or(0))?;
    file.sync_all()?;
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jit_client::signing::{Algorithm, SigningKey};

    use super::*;
    use crate::signer::KeySettings;

    const NOW: i64 = 1_803_888_060_000;

    fn settings(directory: &Path) -> FreshnessSettings {
        let key = directory.join("freshness.key");
        if !key.exists() {
            let provider = rustls::crypto::ring::default_provider();
            let made = SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
            std::fs::write(&key, made.to_pem()).unwrap();
        }
        FreshnessSettings {
            key: KeySettings::Pem { file: key },
            journal: directory.join("freshness.journal"),
            every: Duration::from_secs(10),
            valid_for: Duration::from_secs(25),
        }
    }

    fn wish(issued_at_ms: i64) -> CheckpointWish {
        CheckpointWish { issued_at_ms, root: vec![7; 32], hosts: 3 }
    }

    fn signed(held: &mut Held, wish: &CheckpointWish) -> Result<v1::Checkpoint, &'static str> {
        match held.sign(wish, NOW) {
            Ok(envelope) => {
                assert_eq!(
                    (envelope.payload_type.as_str(), envelope.signatures.len()),
                    (CHECKPOINT_TYPE, 1)
                );
                Ok(v1::Checkpoint::decode(envelope.payload).unwrap())
            }
            Err(NotSigned::Refused(Refused { word, .. })) => Err(word),
            Err(NotSigned::Lost(why)) => panic!("{why}"),
        }
    }

    #[test]
    fn numbers_only_rise_and_each_start_begins_a_higher_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let mut last = 0;
        for start in 0..3 {
            let mut held = Held::open(&settings, &[], NOW).unwrap();
            for number in 1..=3 {
                let one = signed(&mut held, &wish(NOW + start * 10 + number)).unwrap();
                assert_eq!(
                    (one.number, one.hosts, one.valid_for_ms),
                    (u64::try_from(number).unwrap(), 3, 25_000)
                );
                assert!(one.epoch > last);
            }
            last = signed(&mut held, &wish(NOW + start * 10 + 9)).unwrap().epoch;
        }
        // An old file, none, or a damaged one: the clock says the epoch.
        for content in ["00000000000000000007\n", "", "7", "x\u{fffd}\n"] {
            std::fs::write(&settings.journal, content).unwrap();
            let epoch = next_epoch(&settings.journal, NOW + 1_000_000).unwrap();
            assert_eq!(epoch, 1_803_889_060, "{content:?}");
        }
        // And a clock that is set back does not.
        assert_eq!(next_epoch(&settings.journal, 5_000).unwrap(), 1_803_889_061);
    }

    #[test]
    fn nothing_twice_nothing_of_another_time_and_nothing_malformed() {
        let directory = tempfile::tempdir().unwrap();
        let mut held = Held::open(&settings(directory.path()), &[], NOW).unwrap();
        signed(&mut held, &wish(NOW)).unwrap();
        for (wish, word) in [
            (wish(NOW), "signed_otherwise"),
            (wish(NOW - 1), "signed_otherwise"),
            (wish(NOW + 60_001), "too_old"),
            (wish(NOW - 60_001), "too_old"),
            (wish(i64::MIN), "too_old"),
            (CheckpointWish { root: vec![7; 31], ..wish(NOW + 1) }, "malformed"),
            (CheckpointWish { hosts: 0, ..wish(NOW + 1) }, "malformed"),
            (CheckpointWish { hosts: u64::MAX, ..wish(NOW + 1) }, "malformed"),
        ] {
            assert_eq!(signed(&mut held, &wish), Err(word), "{wish:?}");
        }
        assert_eq!(signed(&mut held, &wish(NOW + 1)).unwrap().number, 2, "none was used up");
    }

    #[test]
    fn a_key_that_signs_grants_signs_no_checkpoints() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let infos = Held::open(&settings, &[], NOW).unwrap().keys.infos();
        assert!(Held::open(&settings, &infos, NOW).err().unwrap().contains("take one of its own"));
        assert_eq!(settings.check(slice::from_ref(&settings.key)).unwrap_err().0, "freshness.key");
        let wrong = |change: fn(&mut FreshnessSettings)| {
            let mut settings = settings.clone();
            change(&mut settings);
            settings.check(&[]).err().map(|(field, _)| field)
        };
        assert_eq!(wrong(|_| {}), None);
        assert_eq!(wrong(|one| one.every = Duration::from_millis(999)), Some("freshness.every"));
        assert_eq!(wrong(|one| one.every = Duration::from_secs(61)), Some("freshness.every"));
        assert_eq!(
            wrong(|one| one.valid_for = Duration::from_secs(19)),
            Some("freshness.valid_for")
        );
        assert_eq!(
            wrong(|one| one.valid_for = Duration::from_secs(3601)),
            Some("freshness.valid_for")
        );
    }
}
