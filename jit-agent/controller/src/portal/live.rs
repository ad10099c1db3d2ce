//! The stream by which a page learns that it is old. It says only *that* something changed: the
//! page is read again, with all checks that a page has.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use tokio::time::{sleep, timeout};

use super::{guard::Fields, rollouts, tail::Tail};
use crate::{
    api::{ApiState, Failure, Place, Sight, Word},
    clock,
    desk::Changes,
    model::Account,
    people::session::{self, Secret, SignedIn},
};

/// A comment is sent this often, so that proxies and browsers see that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The session, and what it may see, are looked at again this often.
const RECHECK: Duration = Duration::from_secs(10);
/// Changes of another process of the controller are noticed after this time.
const POLL: Duration = Duration::from_secs(2);
/// Changes that follow each other within this time are one.
const PAUSE: Duration = Duration::from_millis(250);

struct Feed {
    state: ApiState,
    tail: Tail,
    secret: Secret,
    signed_in: SignedIn,
    /// The request that the page shows; empty: a list.
    request: String,
    /// The rollout that the page shows, and how far it was; `None`: it shows requests.
    rollout: Option<(String, String)>,
    /// What the page shows is as it was at this record of the audit.
    after: i64,
    changes: Changes,
    checked: Instant,
    ended: bool,
    _place: Place,
}

/// The stream: `changed` when the page must be read again, `end` when the session has ended.
pub(super) async fn live(
    State(state): State<ApiState>,
    Extension(tail): Extension<Tail>,
    signed_in: SignedIn,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Failure> {
    let rollout = fields.text("rollout");
    let rollout =
        (!rollout.is_empty()).then(|| (rollout.to_owned(), fields.text("stamp").to_owned()));
    let text = if rollout.is_some() { "0" } else { fields.text("after") };
    let after = text.parse::<i64>().ok().filter(|after| *after >= 0);
    let wrong = || Failure::field("after", format!("{text:?} is no number of a record"));
    let after = after.ok_or_else(wrong)?;
    let request = fields.text("request").to_owned();
    let shown = rollout.as_ref().map(|(id, _)| id.as_str());
    see(&state, signed_in.account(), &request, shown).await?;
    let place = state.stream(&signed_in.account().name)?;
    let missing = || Failure::hidden(Word::Internal, "a page without its guard");
    let secret = Secret::of_headers(&headers).ok_or_else(missing)?;
    let (changes, checked) = (state.desk().changes(), Instant::now());
    let feed = Feed {
        state,
        tail,
        secret,
        signed_in,
        request,
        rollout,
        after,
        changes,
        checked,
        ended: false,
        _place: place,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(Sse::new(feed.stream()).keep_alive(keep_alive).into_response())
}

/// Whether the account sees what the page shows.
///
/// # Errors
/// It does not, or not any more.
async fn see(
    state: &ApiState,
    account: &Account,
    request: &str,
    rollout: Option<&str>,
) -> Result<(), Failure> {
    if request.is_empty() && rollout.is_none() {
        return Ok(());
    }
    let mut sight = Sight::new(state, account, clock::now_ms()).await?;
    if !request.is_empty() {
        sight.find(request).await?;
    }
    if let Some(rollout) = rollout {
        sight.find_rollout(rollout).await?;
    }
    Ok(())
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut feed| async move {
            if feed.ended {
                return None;
            }
            let word = feed.next().await;
            feed.ended = word == "end";
            Some((Ok(Event::default().event(word).data(word)), feed))
        })
    }

    /// `changed`, or `end`.
    async fn next(&mut self) -> &'static str {
        loop {
            let count = *self.changes.borrow_and_update();
            if self.checked.elapsed() >= RECHECK {
                let found = session::find(self.state.store(), &self.secret, false, clock::now_ms());
                let Ok(Some(signed_in)) = found.await else { return "end" };
                self.signed_in = signed_in;
                let rollout = self.rollout.as_ref().map(|(id, _)| id.as_str());
                let account = self.signed_in.account();
                if let Err(failure) = see(&self.state, account, &self.request, rollout).await {
                    tracing::debug!(why = failure.parts().log, "a stream of a page ends");
                    return "end";
                }
                self.checked = Instant::now();
            }
            match self.has_changed(count).await {
                Ok(true) => return "changed",
                Ok(false) => {}
                Err(failure) => {
                    tracing::debug!(why = failure.parts().log, "a stream of a page ends");
                    return "end";
                }
            }
            match timeout(POLL, self.changes.changed()).await {
                Ok(Ok(())) => sleep(PAUSE).await,
                // By the clock: another process of the controller may have changed something.
                Err(_) => {}
                // The controller ends.
                Ok(Err(_)) => return "end",
            }
        }
    }

    async fn has_changed(&mut self, count: u64) -> Result<bool, Failure> {
        if let Some((id, stamp)) = &mut self.rollout {
            let now = rollouts::stamp(&self.state, id).await?;
            let has_changed = now != *stamp;
            *stamp = now;
            return Ok(has_changed);
        }
        let since = self.tail.since(self.state.store(), self.after, count).await?;
        self.after = since.tip;
        let Some(requests) = since.requests else { return Ok(true) };
        if !self.request.is_empty() {
            return Ok(requests.contains(&self.request));
        }
        if requests.is_empty() {
            return Ok(false);
        }
        let account = self.signed_in.account();
        let mut sight = Sight::new(&self.state, account, clock::now_ms()).await?;
        for id in &requests {
            match sight.find(id).await {
                Ok(_) => return Ok(true),
                Err(failure) if failure.parts().word == Word::NotFound.text() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }
}
