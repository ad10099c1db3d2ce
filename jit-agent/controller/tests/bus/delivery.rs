//! What stands in a mailbox after what was published, also twice, late, and in another order.

use std::time::Duration;

use jit_controller::bus::{
    Bus, BusError, Change, Published,
    subject::{HostTag, Place, Slot},
};

use crate::{
    cluster::{Cluster, Who, is_partial},
    letters::{after, floor, grant, host, id, now, policy, revocation},
};

/// The envelopes in a mailbox, in ascending order. Reads again while a server has no leader, or
/// knows less.
async fn envelopes(hub: &Bus, name: &str, wanted: &[&str]) {
    let mut wanted: Vec<_> = wanted.iter().map(|text| (*text).to_owned()).collect();
    wanted.sort();
    let mut found = Vec::new();
    for _ in 0..100 {
        match hub.mailbox(name).await {
            Ok(all) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                found = all.iter().map(|stored| text(&stored.envelope)).collect();
                found.sort();
                if found == wanted {
                    return;
                }
            }
            Err(error) => assert!(is_partial(&error), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{found:?} is not {wanted:?}");
}

fn text(letter: &jit_controller::bus::Letter) -> &str {
    std::str::from_utf8(&letter.envelope).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_copies_cover_nothing_in_any_order() {
    let (cluster, store) = Cluster::start().await;
    let hub = cluster.hub().await;
    let web = host("web-1");
    let end = after(600_000);
    let (first, second) = (grant(&web, 1, end), grant(&web, 2, end));
    assert_eq!(store.publish(&first, now()).await.unwrap(), Published::Acknowledged);
    assert_eq!(store.publish(&first, now()).await.unwrap(), Published::Standing, "twice");
    store.publish(&second, now()).await.unwrap();
    envelopes(&hub, "web-1", &[text(&first), text(&second)]).await;

    // A revocation takes the place, and a late copy of the grant finds it taken.
    let ended = revocation(&web, &[1], end);
    assert_eq!(store.publish(&ended, now()).await.unwrap(), Published::Acknowledged);
    let again = Bus::of_store(cluster.settings(Who::Controller)).await.unwrap();
    assert_eq!(again.publish(&first, now()).await.unwrap(), Published::Standing);
    envelopes(&hub, "web-1", &[text(&ended), text(&ended), text(&second)]).await;

    // The revocation first: the grant never comes.
    let early = revocation(&web, &[3], end);
    store.publish(&early, now()).await.unwrap();
    let third = grant(&web, 3, end);
    assert_eq!(store.publish(&third, now()).await.unwrap(), Published::Standing);

    // The policy with the highest version stays.
    for version in [7, 3, 8, 8, 7] {
        store.publish(&policy(&web, version), now()).await.unwrap();
    }
    // No floor covers another one.
    let floors = [floor(None, 1, end), floor(None, 2, end), floor(Some("ana"), 1, end)];
    for letter in &floors {
        store.publish(letter, now()).await.unwrap();
    }
    let mut wanted = vec![text(&ended), text(&ended), text(&second), "policy 8"];
    wanted.extend([text(&early), text(&early)]);
    let floors: Vec<_> = floors.iter().map(text).collect();
    envelopes(&hub, "web-1", &[wanted, floors.clone()].concat()).await;
    envelopes(&hub, "web-2", &floors).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_leaves_by_itself_and_is_not_published() {
    let (cluster, _) = Cluster::start().await;
    let settings = jit_controller::bus::Settings {
        skew: Duration::from_secs(1),
        ..cluster.settings(Who::Controller)
    };
    let store = Bus::of_store(settings).await.unwrap();
    let hub = cluster.hub().await;
    let web = host("web-1");
    let (short, long) = (grant(&web, 1, after(1_000)), grant(&web, 2, after(600_000)));
    store.publish(&short, now()).await.unwrap();
    store.publish(&long, now()).await.unwrap();
    assert_eq!(hub.mailbox("web-1").await.unwrap().len(), 2);
    envelopes(&hub, "web-1", &[text(&long)]).await;
    let late = store.publish(&short, now()).await;
    assert!(matches!(late, Err(BusError::Ended)), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_listens_gets_what_is_published_and_forged_bytes_are_only_bytes() {
    let (cluster, store) = Cluster::start().await;
    let hub = cluster.hub().await;
    let mut changes = hub.changes().await.unwrap();
    // The interest of a hub has to reach all servers.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let web = host("web-1");
    let letter = grant(&web, 1, after(600_000));
    store.publish(&letter, now()).await.unwrap();
    let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.unwrap();
    let place = Place { to: web.clone(), slot: Slot::Grant(id(1)) };
    let envelope = letter.envelope.clone();
    assert_eq!(change, Some(Change::Published { place, envelope }));
    // It comes again when it is published again, also if it stands there already.
    store.publish(&letter, now()).await.unwrap();
    let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.unwrap();
    assert!(matches!(change, Some(Change::Published { .. })));

    // Somebody has the controller's nkey.
    let (thief, _said) = cluster.raw(Who::Controller).await;
    let place = Place { to: web.clone(), slot: Slot::Grant(id(2)) };
    for subject in [place.to_string(), format!("jit.v1.g.{}.nonsense", HostTag::of("web-1"))] {
        thief.publish(subject, "forged".into()).await.unwrap();
    }
    thief.flush().await.unwrap();
    let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await.unwrap();
    assert_eq!(change, Some(Change::Published { place, envelope: "forged".into() }));
    envelopes(&hub, "web-1", &[text(&letter), "forged"]).await;
    // The true grant of that id finds its place taken, and says so.
    let covered = store.publish(&grant(&web, 2, after(600_000)), now()).await;
    assert!(matches!(covered, Err(BusError::Covered { .. })), "{covered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_lose_something_is_named() {
    let (cluster, store) = Cluster::start().await;
    drop(store);
    let (client, _said) = cluster.raw(Who::Controller).await;
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("JIT").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.num_replicas = 1;
    context.update_stream(config.clone()).await.unwrap();
    Bus::of_store(cluster.settings(Who::Controller)).await.unwrap();
    let healed = context.get_stream("JIT").await.unwrap().cached_info().config.clone();
    assert_eq!(healed.num_replicas, 3, "what loses nothing is set right");
    config = healed;
    config.max_messages_per_subject = 5;
    context.update_stream(config).await.unwrap();
    let refused = Bus::of_store(cluster.settings(Who::Controller)).await.err().unwrap();
    let text = refused.to_string();
    assert!(text.contains("max_messages_per_subject is 5, not 1"), "{text}");
}
