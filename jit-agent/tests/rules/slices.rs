//! The gate serves others while it has much to do: long batches, long lists, many refusals.

use std::{sync::Arc, time::Duration};

use jit_agent::gate::{Target, channel, journal::Journal};
use jit_proto::{
    GrantId,
    v1::{self, GrantEvent, event::What},
};
use tokio::time::timeout;

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, envelope, grant, later, v4},
};

#[test]
fn a_revocation_waits_for_one_slice_of_a_batch_of_wide_grants() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let (handle, requests) = channel(Arc::new(Journal::new("test".into())));
    let gate = host.gate.take().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // As in the agent, the gate has a thread of its own.
    let served = std::thread::spawn(move || runtime().block_on(gate.run(requests, || NOW, || ())));
    // Each opens as many entries as a grant may.
    let sources: Vec<_> = (0..4_096).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    let batch: Vec<_> = (0..16).map(|id| envelope(&grant(10 + id, &sources))).collect();
    runtime().block_on(async {
        let pushed = handle.push(batch, "test".into());
        let revoked = async {
            while !host.kernel.opens(SSH, v4("10.0.0.1"), NOW.boot) {
                tokio::task::yield_now().await;
            }
            handle.revoke(Target::Ids(vec![GrantId([1; 16])]), "test", "").await
        };
        tokio::pin!(pushed, revoked);
        tokio::select! {
            biased;
            _ = &mut pushed => panic!("the whole batch went first"),
            revoked = &mut revoked => assert_eq!(revoked.unwrap().ended, 1),
        }
        let outcomes = pushed.await.unwrap();
        assert!(outcomes.len() == 16 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    });
    drop(handle);
    served.join().unwrap();
}

#[test]
fn a_list_made_in_parts_has_every_grant_once() {
    let mut host = Host::with("[limits]\nhosts = 4096\n");
    let ids = 0..1_500_u16;
    let grants = ids.clone().map(|number| {
        let [high, low] = number.to_be_bytes();
        let mut one = grant(7, &[&format!("10.1.{high}.{low}")]);
        one.id = [&[9; 14][..], &[high, low]].concat().into();
        envelope(&one)
    });
    let outcomes = host.gate().push(grants.collect(), "test", NOW);
    assert!(outcomes.iter().all(Result::is_ok));
    let revoked = vec![GrantId(std::array::from_fn(|index| if index < 14 { 9 } else { 0 }))];
    host.gate().revoke(&Target::Ids(revoked), "test", "", NOW);
    let (handle, requests) = channel(Arc::new(Journal::new("test".into())));
    let gate = host.gate.take().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let client = async {
            let numbers = |grants: &[v1::GrantState]| -> Vec<_> {
                let ids = grants.iter().map(|state| state.signed().unwrap().id.to_vec());
                ids.map(|id| u16::from_be_bytes(id[14..].try_into().unwrap())).collect()
            };
            let all = handle.list(true).await.unwrap();
            assert_eq!(numbers(&all), ids.clone().collect::<Vec<_>>());
            let live = handle.status().await.unwrap().grants;
            assert_eq!(numbers(&live), (1..1_500).collect::<Vec<_>>());
            drop(handle);
        };
        tokio::join!(gate.run(requests, || NOW, || ()), client);
    });
}

#[test]
fn refusals_beyond_a_number_are_summed_for_the_audit_and_for_watchers_alike() {
    let mut host = Host::start();
    let mut reader = host.journal.reader("").unwrap();
    let journal = Arc::clone(&host.journal);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut refused = || {
        // A reader rests between two batches. All events are there by now.
        let mut next = || {
            let wait = async { timeout(Duration::from_secs(1), journal.next(&mut reader)).await };
            runtime.block_on(wait).ok()
        };
        let events: Vec<_> = std::iter::from_fn(&mut next).flatten().collect();
        let grants = events.into_iter().filter_map(|event| match event.what {
            Some(What::Grant(event)) if event.kind == "refused" => Some(event),
            _ => None,
        });
        grants.collect::<Vec<_>>()
    };
    let outcomes = host.gate().push(vec![v1::Envelope::default(); 6_500], "test", NOW);
    assert_eq!(outcomes.len(), 6_500);
    assert_eq!(refused().len(), 120);
    host.gate().advance(later(MINUTE));
    let summed = refused();
    assert_eq!(summed.len(), 1);
    let GrantEvent { by, reason, detail, .. } = &summed[0];
    assert_eq!((by.as_str(), reason.as_str()), ("test", "bad_type"));
    assert!(detail.starts_with("6380 more"), "{detail}");
    let codes = host.codes();
    let count = |code: &str| codes.iter().filter(|one| *one == code).count();
    assert_eq!((count("G004"), count("L007")), (120, 1));
}
