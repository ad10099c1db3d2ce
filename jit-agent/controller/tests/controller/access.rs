//! Who could get in where at a moment.

use jit_controller::{
    audit::{
        self, Code, Record,
        access::{Access, Filter, access},
    },
    model::{Answer, Proposal},
    store::{Store, deliveries},
};

use serde_json::json;

use crate::{
    databases::Database,
    filled::{HOUR, NOW, proposal, sign},
};

on_each_database! {
    those_who_could_get_in_are_found,
}

async fn at(store: &Store, at_ms: i64, filter: &Filter) -> Vec<Access> {
    access(store, at_ms, filter, 100).await.unwrap()
}

async fn answer(store: &Store, request: &str, host: &str, answer: Answer, now_ms: i64) {
    let all = store.deliveries_of(request).await.unwrap();
    let one = all.iter().find(|one| one.host == host).unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(deliveries::answered(&mut tx, one, answer, "word", "", now_ms).await.unwrap());
    let fields = json!({
        "grant": one.grant_id, "host": host, "wanted": one.wanted.word(), "answer": answer.word(),
    });
    let record = Record::new(Code::Answered, request, host, fields);
    audit::append(&mut tx, now_ms, &record).await.unwrap();
    tx.commit().await.unwrap();
}

async fn those_who_could_get_in_are_found(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let asked = proposal(1, &["web-1", "web-2", "web-3"]);
    let id = asked.id.clone();
    let later = Proposal {
        start_ms: Some(NOW + 2 * HOUR),
        requester: "bo@example.org".into(),
        ports: vec!["8000-8010".parse().unwrap()],
        ..proposal(2, &["web-1"])
    };
    let mut tx = store.begin().await.unwrap();
    sign(&mut tx, asked).await;
    sign(&mut tx, later).await;
    tx.commit().await.unwrap();
    answer(&store, &id, "web-1", Answer::Open, NOW + 10).await;
    answer(&store, &id, "web-2", Answer::Refused, NOW + 10).await;

    let all = Filter::default();
    let found = at(&store, NOW, &all).await;
    let hosts: Vec<_> = found.iter().map(|one| (one.host.as_str(), one.certain)).collect();
    assert_eq!(hosts, [("web-1", true), ("web-3", false)], "web-2 has refused");
    let first = &found[0];
    assert_eq!((first.from_ms, first.until_ms), (NOW, NOW + HOUR));
    assert_eq!(
        (&first.requester[..], &first.approvers[..]),
        ("ana@example.org", &["li@example.org".to_owned()][..])
    );
    assert_eq!(
        (&first.sources[..], &first.ports[..]),
        (&["203.0.113.7".to_owned()][..], &["22/tcp".to_owned()][..])
    );
    assert_eq!((&first.grant, &first.request), (&id, &id));

    // Before, at the end, and in between.
    assert_eq!(at(&store, NOW - 1, &all).await, []);
    assert_eq!(at(&store, NOW + HOUR - 1, &all).await.len(), 2);
    assert_eq!(at(&store, NOW + HOUR, &all).await, [], "at its end it lets nobody in");
    let found = at(&store, NOW + 2 * HOUR, &all).await;
    assert_eq!(found.iter().map(|one| &one.requester[..]).collect::<Vec<_>>(), ["bo@example.org"]);

    // Revoked, and the host has confirmed it.
    let mut tx = store.begin().await.unwrap();
    deliveries::revoke(&mut tx, &id, NOW + 1000).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(at(&store, NOW + 2000, &all).await.len(), 2, "nobody has confirmed it");
    answer(&store, &id, "web-1", Answer::Closed, NOW + 3000).await;
    let found = at(&store, NOW + 2999, &all).await;
    let first = &found[0];
    assert_eq!((&first.host[..], first.until_ms, first.certain), ("web-1", NOW + 3000, true));
    answer(&store, &id, "web-2", Answer::Closed, NOW + 4000).await;
    let found = at(&store, NOW + 2999, &all).await;
    let hosts: Vec<_> = found.iter().map(|one| &one.host[..]).collect();
    assert_eq!(hosts, ["web-1", "web-3"], "web-2 had refused, and was never open");
    assert_eq!(at(&store, NOW + 3000, &all).await.len(), 1, "web-3 has not answered");

    // Filters.
    let filter = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    for (filter, count) in [
        (filter(|f| f.host = "web-1".into()), 1),
        (filter(|f| f.host = "web-2".into()), 0),
        (filter(|f| f.port = Some("20-30".parse().unwrap())), 2),
        (filter(|f| f.port = Some("22/udp".parse().unwrap())), 0),
        (filter(|f| f.source = Some("203.0.113.7".parse().unwrap())), 2),
        (filter(|f| f.source = Some("203.0.113.8".parse().unwrap())), 0),
        (filter(|f| f.requester = "bo@example.org".into()), 0),
    ] {
        assert_eq!(at(&store, NOW, &filter).await.len(), count, "{filter:?}");
    }
    assert_eq!(access(&store, NOW, &all, 1).await.unwrap().len(), 1);
}
