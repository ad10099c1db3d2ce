//! Many grants that end at once: how long the agent works on it, and how long a revocation waits
//! meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::{self, revoke_request::What};
use jit_tests::{figures::size, process::cpu};

use crate::grants::{BATCH, Signed, many, millis, report};

const TABLE: &str = "ends at once";
const MILLIS: (&str, bool) = ("ms", false);
/// How long before the end the watch begins.
const BEFORE: Duration = Duration::from_millis(500);
/// Time between two looks whether any grant is left.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two revocations.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest time until every grant that has ended is cleaned up.
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn measure() {
    let signed = Signed::start();
    let number = size(100_000, 2_000);
    // Long enough for all to be pushed before the first ends.
    let end = Instant::now() + Duration::from_secs(size(75, 8));
    for first in (0..number).step_by(usize::try_from(BATCH).unwrap()) {
        let left = end.saturating_duration_since(Instant::now());
        signed.fill(first..(first + BATCH).min(number), left);
    }
    let left = end.saturating_duration_since(Instant::now());
    assert!(left > 2 * BEFORE, "the pushes took too long: {left:?} is left");
    thread::sleep(left - BEFORE);
    let agent = signed.site.processes();
    let before = cpu(&agent);
    let (waited, asked) = revocations_until_none_is_left(&signed, end);
    let used = cpu(&agent) - before;
    let row = |what: &str| format!("{what}, {}", many(number));
    report(TABLE, &row("processor time of the agent"), MILLIS, vec![millis(used)]);
    report(TABLE, &row("longest that a revocation waits"), MILLIS, vec![waited]);
    println!("{asked} revocations were asked for meanwhile");
}

/// Asks for revocations of a grant that was never there, one after the other, until no grant is
/// left. Returns the longest wait for an answer, milliseconds, and the number of revocations. Their
/// own work is part of the agent's processor time, so they are few.
fn revocations_until_none_is_left(signed: &Signed, end: Instant) -> (f64, u32) {
    let watched = signed.site.call(async |mut client| {
        let (mut longest, mut asked) = (Duration::ZERO, 0_u32);
        let mut next_look = end + LOOK;
        loop {
            let mut id = vec![0xff; 12];
            id.extend(asked.to_be_bytes());
            let what = Some(What::GrantId(id.into()));
            let start = Instant::now();
            client.revoke(v1::RevokeRequest { what, reason: "bench".into(), cut: false }).await?;
            longest = longest.max(start.elapsed());
            asked += 1;
            // The list of all grants is much work, too.
            if Instant::now() > next_look {
                let left = client.status(v1::StatusRequest {}).await?.into_inner().grants.len();
                if left == 0 {
                    return Ok((longest, asked));
                }
                assert!(end.elapsed() < LONGEST, "{left} grants are left");
                next_look = Instant::now() + LOOK;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    let (longest, asked) = watched.unwrap();
    (millis(longest), asked)
}
