//! What is replaced never opens after what replaces it, ends with it, and is not sent again.

use jit_controller::{
    desk::{Heard, What},
    model::{Answer, State},
    store::{Delivery, Request, Wanted},
};

use super::{HOUR, Office, now_ms, ssh};
use crate::databases::Database;

on_each_database! {
    a_host_that_opened_the_shorter_grant_no_longer_gets_the_longer_one,
    revoking_the_shorter_request_ends_the_longer_one_too,
    what_a_host_lost_is_sent_again_and_later_each_time,
    what_a_host_lost_of_a_replaced_request_is_not_sent_again,
}

impl Office {
    /// Approved and signed; no host has heard of it.
    async fn signed(&self) -> Request {
        let request = self.submit("ana", ssh()).await;
        self.decide("li", &request, now_ms()).await.unwrap();
        self.decide("bo", &request, now_ms()).await.unwrap();
        self.desk.sign_waiting(now_ms()).await.unwrap();
        self.read(&request.proposal.id).await
    }

    /// The same for half an hour, signed; no host has heard of it.
    async fn shorter(&self, old: &Request) -> Request {
        let ana = self.account("ana").await;
        let ends_ms = old.ends_ms - HOUR / 2;
        let id = &old.proposal.id;
        let new = self.desk.shorten(&ana, id, ends_ms, "", now_ms()).await.unwrap();
        self.desk.sign_waiting(now_ms()).await.unwrap();
        self.read(&new.proposal.id).await
    }

    async fn row(&self, request: &Request, host: &str) -> Delivery {
        let rows = self.store.deliveries_of(&request.proposal.id).await.unwrap();
        rows.into_iter().find(|row| row.host == host).unwrap()
    }

    async fn opened(&self, request: &Request, host: &str) {
        let row = self.row(request, host).await;
        self.desk.answered(&row, Answer::Open, "ok", "", now_ms()).await.unwrap();
    }

    async fn lost(&self, request: &Request, host: &str, now_ms: i64) -> Delivery {
        let of = self.row(request, host).await;
        let heard = [Heard { of, what: What::Lost { detail: "gone".into() } }];
        self.desk.hear(&heard, now_ms).await.unwrap();
        self.row(request, host).await
    }
}

async fn a_host_that_opened_the_shorter_grant_no_longer_gets_the_longer_one(database: Database) {
    let office = Office::open(&database).await;
    let old = office.signed().await;
    let new = office.shorter(&old).await;
    // The host did not answer to the longer one; the shorter one came first.
    office.opened(&new, "web-1").await;
    let row = office.row(&old, "web-1").await;
    assert_eq!((row.wanted, row.pending), (Wanted::Revoke, true));
    // An answer that was under way changes nothing any more.
    let late = Delivery { wanted: Wanted::Grant, ..row };
    office.desk.answered(&late, Answer::Open, "ok", "", now_ms()).await.unwrap();
    let row = office.row(&old, "web-1").await;
    assert_eq!((row.wanted, row.pending, row.answer), (Wanted::Revoke, true, Answer::Waiting));
    // Where the shorter one is not open yet, the longer one may open before it.
    assert_eq!(office.row(&old, "web-2").await.wanted, Wanted::Grant);
}

async fn revoking_the_shorter_request_ends_the_longer_one_too(database: Database) {
    let office = Office::open(&database).await;
    for opened in [false, true] {
        let old = office.signed().await;
        let new = office.shorter(&old).await;
        if opened {
            office.opened(&old, "web-1").await;
            office.opened(&new, "web-1").await;
        }
        let ana = office.account("ana").await;
        let id = &new.proposal.id;
        let state = office.desk.revoke(&ana, id, "done", now_ms()).await.unwrap().state;
        assert_eq!(state, State::Revoked);
        for request in [&old, &new] {
            for host in ["web-1", "web-2"] {
                let row = office.row(request, host).await;
                assert_eq!((row.wanted, row.pending), (Wanted::Revoke, true), "{opened} {host}");
            }
        }
        let expected = if opened { State::Ended } else { State::Revoked };
        assert_eq!(office.read(&old.proposal.id).await.state, expected);
    }
}

async fn what_a_host_lost_is_sent_again_and_later_each_time(database: Database) {
    let office = Office::open(&database).await;
    let request = office.signed().await;
    office.opened(&request, "web-1").await;
    office.opened(&request, "web-2").await;
    let now = now_ms();
    let row = office.lost(&request, "web-1", now).await;
    assert_eq!((row.answer, row.pending, row.next_ms), (Answer::Waiting, true, now));
    assert_eq!(office.read(&request.proposal.id).await.state, State::Partly);
    let mut before = now;
    for _ in 0..3 {
        office.opened(&request, "web-1").await;
        assert_eq!(office.read(&request.proposal.id).await.state, State::Open);
        let row = office.lost(&request, "web-1", now).await;
        assert!(row.pending && row.next_ms > before, "{row:?}");
        before = row.next_ms;
    }
    // It was said twice by one status: the second time there is nothing new.
    let again = office.lost(&request, "web-1", now).await;
    assert_eq!(again.next_ms, before);
}

async fn what_a_host_lost_of_a_replaced_request_is_not_sent_again(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    let new = office.shorter(&old).await;
    office.opened(&new, "web-1").await;
    office.opened(&new, "web-2").await;
    assert_eq!(office.read(&old.proposal.id).await.state, State::Ended);
    let row = office.lost(&old, "web-1", now_ms()).await;
    assert_eq!((row.answer, row.word.as_str(), row.pending), (Answer::Closed, "lost", false));
    assert!(office.lost(&new, "web-1", now_ms()).await.pending);
}
