//! What a hub may not do, and who may not connect. The servers decide, by the files that ship.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use jit_controller::bus::subject::{HostTag, Place, Slot};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    cluster::{Cluster, Who},
    letters::{after, grant, host, id, now},
};

const WAIT: Duration = Duration::from_secs(10);

/// The servers' next complaint names this subject.
async fn refused(said: &mut mpsc::UnboundedReceiver<String>, what: &str, subject: &str) {
    let text = timeout(WAIT, said.recv()).await.unwrap_or_else(|_| panic!("{subject} is allowed"));
    let text = text.unwrap().to_lowercase();
    let named = text.contains("permissions violation") && text.contains(what);
    assert!(named && text.contains(&subject.to_lowercase()), "{subject}: {text}");
}

/// The number of the stream's last message.
async fn last(store: &Client) -> u64 {
    let context = async_nats::jetstream::new(store.clone());
    context.get_stream("JIT").await.unwrap().cached_info().state.last_sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_may_read_mailboxes_and_report_and_nothing_else() {
    let (cluster, store) = Cluster::start().await;
    let web = host("web-1");
    let letter = grant(&web, 1, after(600_000));
    store.publish(&letter, now()).await.unwrap();
    let (controller, _) = cluster.raw(Who::Controller).await;
    let before = last(&controller).await;
    let (hub, mut said) = cluster.raw(Who::Hub).await;
    let place = Place { to: web, slot: Slot::Grant(id(1)) }.to_string();
    for subject in [
        place.as_str(),
        "jit.v1.g.all.f.00000000000000000000",
        "jit.v1.c.00000000000000000000",
        "jit.v1.k.00000000000000000000",
        "jit.v1.w.00000000000000000000",
        "jit.v2",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.JIT",
        "$JS.API.STREAM.DELETE.JIT",
        "$JS.API.STREAM.PURGE.JIT",
        "$JS.API.STREAM.MSG.GET.JIT",
        "$JS.API.STREAM.MSG.DELETE.JIT",
        "$JS.API.DIRECT.GET.JITUP",
        "$JS.API.CONSUMER.CREATE.JITUP.x",
        "$JS.API.CONSUMER.MSG.NEXT.JITUP.store",
        "$JS.ACK.JITUP.store.1.1.1.1.1",
        "$SYS.REQ.SERVER.PING",
        "_INBOX_api.x",
        "_R_.x",
    ] {
        hub.publish(subject.to_owned(), "x".into()).await.unwrap();
        refused(&mut said, "publish", subject).await;
    }
    for subject in [
        ">",
        "jit.v1.>",
        "jit.v1.up.>",
        "jit.v1.h.*",
        "jit.v1.a.*",
        "_INBOX_api.>",
        "_INBOX.>",
        "$JS.>",
        "$SYS.>",
        "_R_.>",
    ] {
        let _subscription = hub.subscribe(subject).await.unwrap();
        refused(&mut said, "subscription", subject).await;
    }
    assert_eq!(last(&controller).await, before, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_cannot_have_the_servers_answer_into_a_mailbox() {
    let (cluster, store) = Cluster::start().await;
    let web = host("web-1");
    let letter = grant(&web, 1, after(600_000));
    store.publish(&letter, now()).await.unwrap();
    let (controller, _) = cluster.raw(Who::Controller).await;
    let before = last(&controller).await;
    let (hub, _said) = cluster.raw(Who::Hub).await;
    let victim = |number| Place { to: web.clone(), slot: Slot::Grant(id(number)) }.to_string();
    let ask = format!("{{\"last_by_subj\":\"{}\"}}", victim(1));
    let many = format!("{{\"multi_last\":[\"jit.v1.g.{}.>\"]}}", HostTag::of("web-1"));
    for (number, body) in [(2, ask), (3, many)] {
        let to = "$JS.API.DIRECT.GET.JIT";
        hub.publish_with_reply(to, victim(number), body.into()).await.unwrap();
    }
    let report = format!("jit.v1.up.{}.answer", HostTag::of("web-1"));
    for number in [1, 4] {
        hub.publish_with_reply(report.clone(), victim(number), "{}".into()).await.unwrap();
    }
    hub.flush().await.unwrap();
    // The servers have worked all of that off when they answer to what came after it.
    let answered = hub.request("$JS.API.DIRECT.GET.JIT", "{\"seq\":1}".into()).await.unwrap();
    assert_eq!(answered.payload, letter.envelope);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(last(&controller).await, before);
    let all = cluster.hub().await.mailbox("web-1").await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].envelope, letter.envelope);
}

/// All hubs may listen where answers for hubs come. One that could say where the next one will come could have
/// the servers send an empty mailbox there first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_listens_does_not_see_where_another_one_will_be_answered() {
    let (cluster, store) = Cluster::start().await;
    store.publish(&grant(&host("web-1"), 1, after(600_000)), now()).await.unwrap();
    let (spy, _said) = cluster.raw(Who::Hub).await;
    let mut seen = spy.subscribe("_INBOX_hub.>").await.unwrap();
    spy.flush().await.unwrap();
    let hub = cluster.hub().await;
    let mut names = BTreeSet::new();
    for _ in 0..20 {
        hub.mailbox("web-1").await.unwrap();
        let answer = timeout(WAIT, seen.next()).await;
        let subject = answer.expect("the spy hears it").unwrap().subject;
        names.insert(subject.rsplit('.').next().unwrap().to_owned());
    }
    // 128 bits: a number that is counted up would share its beginning with the one before.
    let names: Vec<_> = names.iter().map(|name| u128::from_str_radix(name, 16).unwrap()).collect();
    assert!(names.len() > 5, "{names:x?}");
    assert!(names.windows(2).all(|two| two[1] - two[0] > 1 << 64), "{names:x?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_connects_without_an_nkey_and_a_certificate() {
    let (cluster, _store) = Cluster::start().await;
    let seed = std::fs::read_to_string(cluster.file("hub.nk")).unwrap();
    let other = nkeys::KeyPair::new_user().seed().unwrap();
    let with = |options: ConnectOptions| options.add_root_certificates(cluster.file("ca.pem"));
    let certified = |options: ConnectOptions| {
        with(options).add_client_certificate(cluster.file("client.pem"), cluster.file("client.key"))
    };
    assert!(
        certified(ConnectOptions::with_nkey(seed.clone())).connect(cluster.url(0)).await.is_ok()
    );
    for (what, options) in [
        ("no nkey", certified(ConnectOptions::new())),
        ("another nkey", certified(ConnectOptions::with_nkey(other))),
        ("a password", certified(ConnectOptions::with_user_and_password("a".into(), "b".into()))),
        ("no certificate", with(ConnectOptions::with_nkey(seed))),
    ] {
        assert!(options.connect(cluster.url(0)).await.is_err(), "{what}");
    }
}
