//! What was stored is read back, and what was not committed is not there.

use jit_controller::{
    audit::{self, Code, Record},
    model::{Account, Answer, Host, State},
    store::{Store, accounts, deliveries, hosts, requests},
};
use serde_json::json;

use crate::{databases::Database, filled};

on_each_database! {
    accounts_and_hosts_are_read_back,
    hosts_of_a_kind_are_one_and_named_ones_themselves,
    the_audit_is_a_chain_without_gaps,
    a_second_opening_finds_the_tables,
    a_request_is_read_as_it_was_at_one_moment,
}

async fn accounts_and_hosts_are_read_back(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let ana = Account {
        name: "ana".into(),
        subject: "ana@example.org".into(),
        groups: ["admins".to_owned(), "sre".to_owned()].into(),
        disabled: false,
        created_ms: 7,
    };
    let web = Host {
        id: "web-1".into(),
        address: "192.0.2.10:7443".into(),
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        ..Host::default()
    };
    let mut tx = store.begin().await.unwrap();
    accounts::put(&mut tx, &ana).await.unwrap();
    hosts::put(&mut tx, &web).await.unwrap();
    drop(tx);
    assert_eq!(store.account("ana").await.unwrap(), None);
    let mut tx = store.begin().await.unwrap();
    accounts::put(&mut tx, &ana).await.unwrap();
    hosts::put(&mut tx, &web).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.account("ana").await.unwrap(), Some(ana));
    let found = store.hosts("", 10, None).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].host, web);
}

async fn hosts_of_a_kind_are_one_and_named_ones_themselves(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    for (id, env) in [("a", "dev"), ("b", "dev"), ("c", "dev"), ("d", "prod"), ("e", "prod")] {
        let labels = [("env".to_owned(), env.to_owned())].into();
        hosts::put(&mut tx, &Host { id: id.into(), labels, ..Host::default() }).await.unwrap();
    }
    tx.commit().await.unwrap();
    for (named, expected) in [
        (&[][..], &["a", "d"][..]),
        (&["a"], &["a", "b", "d"]),
        (&["d", "e"], &["a", "d", "e"]),
        (&["x"], &["a", "d"]),
    ] {
        let named = named.iter().map(|id| (*id).to_owned()).collect();
        let kinds = store.host_kinds(&named).await.unwrap();
        assert_eq!(kinds.iter().map(|host| host.id.as_str()).collect::<Vec<_>>(), expected);
        assert!(kinds.iter().all(|host| host.labels.contains_key("env")));
    }
    let many = (0..2000).map(|number| format!("x-{number}")).collect();
    assert_eq!(store.host_kinds(&many).await.unwrap().len(), 5);
}

async fn the_audit_is_a_chain_without_gaps(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    let write = async |store: Store| {
        for number in 0..20 {
            let mut tx = store.begin().await.unwrap();
            let record = Record::new(Code::Started, "", "controller", json!({ "number": number }));
            audit::append(&mut tx, number, &record).await.unwrap();
            tx.commit().await.unwrap();
        }
    };
    tokio::join!(write(store.clone()), write(store.clone()), write(store.clone()));
    let lines = store.audit_after(0, 100).await.unwrap();
    assert_eq!(lines.len(), 60);
    let mut prev = "0".repeat(64);
    for (number, line) in (1..).zip(&lines) {
        let value: serde_json::Value = serde_json::from_str(&line.line).unwrap();
        assert_eq!((line.seq, value["prev"].as_str()), (number, Some(prev.as_str())));
        prev.clone_from(&line.hash);
    }
    assert_eq!(store.audit_tip().await.unwrap(), (60, prev));
}

async fn a_second_opening_finds_the_tables(database: Database) {
    for _ in 0..2 {
        let store = Store::open(&database.url).await.unwrap();
        assert_eq!(store.host_count().await.unwrap(), 0);
        store.close().await;
    }
}

/// The state of a request is written together with the answer that it follows from.
async fn a_request_is_read_as_it_was_at_one_moment(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    for number in 1..=60 {
        let proposal = filled::proposal(number, &["web-1"]);
        let id = proposal.id.clone();
        let mut tx = store.begin().await.unwrap();
        filled::sign(&mut tx, proposal).await;
        tx.commit().await.unwrap();
        let answers = async {
            let row = store.deliveries_of(&id).await.unwrap().remove(0);
            let mut tx = store.begin().await.unwrap();
            let mut request = requests::lock(&mut tx, &id).await.unwrap().unwrap();
            deliveries::answered(&mut tx, &row, Answer::Open, "ok", "", filled::NOW).await.unwrap();
            request.state = State::Open;
            requests::update(&mut tx, &request).await.unwrap();
            tx.commit().await.unwrap();
        };
        let reads = async {
            loop {
                let whole = store.whole(&id).await.unwrap().unwrap();
                let open = whole.request.state == State::Open;
                assert_eq!(open, whole.deliveries[0].answer == Answer::Open, "request {number}");
                if open {
                    return;
                }
            }
        };
        tokio::join!(answers, reads);
    }
}
