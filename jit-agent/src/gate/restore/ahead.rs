//! Verifies stored grants on all CPUs, ahead of the gate, which puts them back meanwhile.

use std::{num::NonZeroUsize, sync::mpsc, thread};

use super::Kept;
use crate::rules::{
    grant::{self, VerifiedGrant, break_glass},
    keyring::Keyring,
    refusal::Refused,
};

/// Grants that are verified together, and then wait together. (As many signatures go into one
/// verification.)
const PART: usize = 192;
/// Verified parts of each thread that may wait for the gate.
const WAITING: usize = 4;

/// The results for some grants, in their order. `None`: there is no envelope.
pub(super) type Verified = Vec<Option<Result<VerifiedGrant, Refused>>>;

/// Verifies all grants. Each part goes to `take` with its results, in the order of the grants.
pub(super) fn verify_all(
    grants: &[Kept],
    keyring: &Keyring,
    host: &str,
    mut take: impl FnMut(&[Kept], Verified),
) {
    let verify = |part: &[Kept]| verify(part, keyring, host);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // A thread is not worth its start for one part.
    let threads = if grants.len() > PART { threads } else { 0 };
    let parts = || grants.chunks(PART);
    thread::scope(|scope| {
        let spawn = |first: usize| {
            let (sender, receiver) = mpsc::sync_channel(WAITING);
            let mut mine = parts().skip(first).step_by(threads);
            let work = move || mine.try_for_each(|part| sender.send(verify(part)));
            (receiver, thread::Builder::new().spawn_scoped(scope, work).ok())
        };
        let (receivers, spawned): (Vec<_>, Vec<_>) = (0..threads).map(spawn).unzip();
        let mut turn = receivers.iter().cycle();
        for part in parts() {
            let done = turn.next().and_then(|receiver| receiver.recv().ok());
            // Without a thread, or if it panicked, it is done here.
            take(part, done.unwrap_or_else(|| verify(part)));
        }
        for thread in spawned.into_iter().flatten() {
            let _panicked = thread.join();
        }
    });
}

fn verify(part: &[Kept], keyring: &Keyring, host: &str) -> Verified {
    let envelopes = part.iter().map(|kept| kept.grant.envelope.as_ref());
    let present: Vec<_> =
        envelopes.clone().flatten().filter(|envelope| !break_glass::is_of(envelope)).collect();
    let mut results = grant::verify_all(&present, keyring, host).into_iter();
    let result = |envelope: Option<&_>| match envelope? {
        unsigned if break_glass::is_of(unsigned) => Some(break_glass::reread(unsigned, host)),
        _ => results.next(),
    };
    envelopes.map(result).collect()
}

#[cfg(test)]
mod tests {
    use jit_proto::{GrantId, v1};

    use super::*;
    use crate::disk::store::{StoredGrant, StoredProgress};

    #[test]
    fn each_grant_gets_its_own_result_in_the_order_of_the_grants() {
        for number in [0, 1, PART, 10 * PART + 7] {
            let kept = |number: usize| Kept {
                id: GrantId((number as u128).to_be_bytes()),
                grant: StoredGrant {
                    envelope: (!number.is_multiple_of(3)).then(v1::Envelope::default),
                },
                progress: StoredProgress::default(),
                counts: false,
            };
            let grants: Vec<_> = (0..number).map(kept).collect();
            let mut taken = Vec::new();
            verify_all(&grants, &Keyring::default(), "web-1", |part, verified| {
                assert_eq!(part.len(), verified.len());
                taken.extend(part.iter().map(|kept| kept.id).zip(verified));
            });
            assert!(taken.iter().map(|(id, _)| *id).eq(grants.iter().map(|kept| kept.id)));
            for (number, (_, result)) in taken.iter().enumerate() {
                assert_eq!(result.is_none(), number.is_multiple_of(3));
                assert!(!matches!(result, Some(Ok(_))), "nobody signed it");
            }
        }
    }
}
