//! Extensions of one request stand in a row, in whatever order and from wherever they come.

use std::collections::BTreeSet;

use jit_controller::{
    desk::{Desk, DeskError, Settings},
    model::State,
    store::{Request, Store},
};

use super::{HOUR, Office, now_ms, ssh};
use crate::databases::Database;

on_each_database! {
    the_second_extension_begins_at_the_end_of_the_first,
    extensions_at_the_same_time_follow_each_other,
    what_has_ended_or_is_replaced_is_not_extended_from,
}

fn end(request: &Request) -> i64 {
    request.proposal.start_ms.unwrap() + request.proposal.duration_ms
}

impl Office {
    async fn extend(&self, id: &str, key: &str) -> Result<Request, DeskError> {
        let ana = self.account("ana").await;
        self.desk.extend(&ana, id, HOUR, "", key, now_ms()).await
    }
}

async fn the_second_extension_begins_at_the_end_of_the_first(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    let id = &old.proposal.id;
    let first = office.extend(id, "one").await.unwrap();
    let second = office.extend(id, "two").await.unwrap();
    assert_eq!((end(&first), end(&second)), (old.ends_ms + HOUR, old.ends_ms + 2 * HOUR));
    assert!(second.proposal.start_ms.unwrap() < end(&first), "without a gap");
    // The same key is the same extension, whatever came after it; another wish needs another key.
    assert_eq!(office.extend(id, "one").await.unwrap().proposal, first.proposal);
    let ana = office.account("ana").await;
    let other = office.desk.extend(&ana, id, 2 * HOUR, "", "one", now_ms()).await;
    assert!(matches!(other, Err(DeskError::Conflict(_))), "{other:?}");
    let plain = office.desk.submit(&ana, ssh(), "plain", now_ms()).await.unwrap();
    assert!(matches!(office.extend(id, "plain").await, Err(DeskError::Conflict(_))));
    assert_eq!(plain.proposal.start_ms, None);
    // An extension of an extension stands at the end of the same row.
    for name in ["li", "bo"] {
        office.decide(name, &first, now_ms()).await.unwrap();
    }
    let third = office.extend(&first.proposal.id, "three").await.unwrap();
    assert_eq!(end(&third), old.ends_ms + 3 * HOUR);
}

async fn extensions_at_the_same_time_follow_each_other(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    let id = &old.proposal.id;
    // As two controllers with connections of their own.
    let ana = office.account("ana").await;
    let mut desks = vec![office.desk.clone()];
    for _ in 0..2 {
        let store = Store::open(&database.url).await.unwrap();
        desks.push(Desk::new(store, None, Settings::default()));
    }
    let keys: Vec<_> = (0..12).map(|number| format!("k{}", number / 2)).collect();
    let all = keys.iter().enumerate().map(|(number, key)| {
        let (desk, ana) = (&desks[number % desks.len()], &ana);
        async move { desk.extend(ana, id, HOUR, "", key, now_ms()).await.unwrap() }
    });
    let all = futures_util::future::join_all(all).await;
    let ids: BTreeSet<_> = all.iter().map(|one| one.proposal.id.as_str()).collect();
    let ends: BTreeSet<_> = all.iter().map(end).collect();
    assert_eq!(ids.len(), 6, "each key twice is one");
    assert_eq!(ends, (1..=6).map(|hours| old.ends_ms + hours * HOUR).collect());
}

async fn what_has_ended_or_is_replaced_is_not_extended_from(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    let id = &old.proposal.id;
    let ana = office.account("ana").await;
    let first = office.extend(id, "one").await.unwrap();
    office.desk.withdraw(&ana, &first.proposal.id, now_ms()).await.unwrap();
    let second = office.extend(id, "two").await.unwrap();
    assert_eq!(end(&second), old.ends_ms + HOUR);
    office.desk.withdraw(&ana, &second.proposal.id, now_ms()).await.unwrap();
    let sooner = old.ends_ms - HOUR / 2;
    let shorter = office.desk.shorten(&ana, id, sooner, "", now_ms()).await.unwrap();
    office.bring_to_hosts().await;
    assert_eq!(office.read(id).await.state, State::Ended);
    let third = office.extend(&shorter.proposal.id, "three").await.unwrap();
    assert_eq!(end(&third), sooner + HOUR);
    let of_old = office.extend(id, "four").await;
    assert!(matches!(of_old, Err(DeskError::Forbidden { word: "not_open", .. })), "{of_old:?}");
}
