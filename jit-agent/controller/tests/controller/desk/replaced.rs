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
    a_host_that_opened_the_last_of_three_keeps_none_before_it,
    revoking_the_shorter_request_ends_the_longer_one_too,
    revoking_the_shorter_request_before_it_is_signed_ends_the_longer_one_too,
    answers_and_revocations_at_the_same_time_stop_neither,
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

async fn a_host_that_opened_the_last_of_three_keeps_none_before_it(database: Database) {
    let office = Office::open(&database).await;
    let ana = office.account("ana").await;
    let first = office.signed().await;
    office.opened(&first, "web-1").await;
    let second = office.shorter(&first).await;
    let ends_ms = second.ends_ms - HOUR / 4;
    let id = &second.proposal.id;
    // The host has not heard of the second one, which alone would have replaced the first one there.
    office.opened(&first, "web-2").await;
    office.opened(&second, "web-2").await;
    let last = office.desk.shorten(&ana, id, ends_ms, "", now_ms()).await.unwrap();
    office.desk.sign_waiting(now_ms()).await.unwrap();
    office.opened(&last, "web-1").await;
    for request in [&first, &second] {
        let row = office.row(request, "web-1").await;
        assert_eq!((row.wanted, row.pending), (Wanted::Revoke, true), "{row:?}");
        assert_eq!(office.read(&request.proposal.id).await.state, State::Ended);
        // There the last one has not opened yet.
        assert_eq!(office.row(request, "web-2").await.wanted, Wanted::Grant);
    }
}

async fn revoking_the_shorter_request_before_it_is_signed_ends_the_longer_one_too(
    database: Database,
) {
    let office = Office::open(&database).await;
    let ana = office.account("ana").await;
    let old = office.open_request(ssh()).await;
    let (id, ends_ms) = (&old.proposal.id, old.ends_ms - HOUR / 2);
    let new = office.desk.shorten(&ana, id, ends_ms, "", now_ms()).await.unwrap();
    assert_eq!(new.state, State::Approved, "the signer has not seen it");
    office.desk.revoke(&ana, &new.proposal.id, "done", now_ms()).await.unwrap();
    for host in ["web-1", "web-2"] {
        let row = office.row(&old, host).await;
        assert_eq!((row.wanted, row.pending), (Wanted::Revoke, true), "{host}");
    }
    assert_eq!(office.read(id).await.state, State::Revoked);
}

/// Of two who change the same requests, none waits for the other: Postgres would refuse one of them.
async fn answers_and_revocations_at_the_same_time_stop_neither(database: Database) {
    let office = Office::open(&database).await;
    let ana = office.account("ana").await;
    for _ in 0..20 {
        let old = office.signed().await;
        let new = office.shorter(&old).await;
        let mut heard = Vec::new();
        for request in [&old, &new] {
            let what =
                What::Answered { answer: Answer::Open, word: "ok".into(), detail: String::new() };
            heard.push(Heard { of: office.row(request, "web-1").await, what });
        }
        let id = &new.proposal.id;
        let [both, one] = [&heard[..], &heard[1..]];
        let (revoked, first, second) = tokio::join!(
            office.desk.revoke(&ana, id, "done", now_ms()),
            office.desk.hear(both, now_ms()),
            office.desk.hear(one, now_ms()),
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(revoked.unwrap().state, State::Revoked);
    }
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
