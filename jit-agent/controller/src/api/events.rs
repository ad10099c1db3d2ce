//! What happens, as server-sent events. An event's id is its number in the audit: a client that comes back
//! says the last one it has got, and misses nothing.
//!
//! Each stream reads from the database at its own pace, so that a slow client holds nothing up. It ends when
//! the token ends, is revoked, or its account is disabled.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{
    auth::{Caller, Scope, still},
    input::{Call, Params},
    problem::{Failure, Word},
    sight::Sight,
    state::ApiState,
    streams::Place,
    view,
};
use crate::{
    audit::{Code, Line},
    clock,
    desk::Changes,
};

/// A comment is sent this often, so that proxies and clients see that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The token is looked at again this often.
const RECHECK: Duration = Duration::from_secs(10);
/// Records that are read at once.
const CHUNK: u32 = 100;
/// Requests of which is remembered whether the account may see them.
const MEMORY: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct From {
    /// Begin after this number; without it, and without `Last-Event-ID`, with what happens from now on.
    after: Option<i64>,
}

/// What happens: records of the audit about requests that the caller may see; all of them for
/// administrators and auditors with the scope `audit`.
#[utoipa::path(get, path = "/api/v1/events", tag = "audit", params(From,
    ("Last-Event-ID" = Option<i64>, Header, description = "The last event that the client has got.")),
    responses((status = 200, body = String, content_type = "text/event-stream",
    description = "`event`: its name; `id`: its number; `data`: an `AuditView`.")))]
pub(super) async fn events(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(from): Params<From>,
) -> Result<Response, Failure> {
    let place = state.stream(&caller.with(Scope::Read)?.name)?;
    let (tip, _) = state.store().audit_tip().await?;
    let last = match call.header("last-event-id") {
        "" => from.after,
        text => Some(text.parse().map_err(|_| {
            Failure::field("Last-Event-ID", format!("{text:?} is no event's number"))
        })?),
    };
    // A number that is not there yet: of another database. It begins with what happens from now on.
    let cursor = last.filter(|last| (0..=tip).contains(last)).unwrap_or(tip);
    let changes = state.desk().changes();
    let feed = Feed {
        state,
        caller,
        changes,
        cursor,
        ready: VecDeque::new(),
        seen: HashMap::new(),
        ended: false,
        checked: Instant::now(),
        _place: place,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(Sse::new(feed.stream()).keep_alive(keep_alive).into_response())
}

struct Feed {
    state: ApiState,
    caller: Caller,
    changes: Changes,
    cursor: i64,
    ready: VecDeque<Event>,
    /// Which requests the account sees.
    seen: HashMap<String, bool>,
    ended: bool,
    /// When the token was looked at last.
    checked: Instant,
    _place: Place,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    /// The next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            self.changes.mark_unchanged();
            match self.read().await {
                Ok(true) => {}
                Ok(false) => match timeout(RECHECK, self.changes.changed()).await {
                    Ok(Ok(())) | Err(_) => {}
                    // The controller ends.
                    Ok(Err(_)) => return None,
                },
                Err(failure) => {
                    self.ended = true;
                    let word = failure.parts().word.clone();
                    return Some(Event::default().event("end").data(word));
                }
            }
        }
    }

    /// Reads what comes next. Returns whether there was something.
    async fn read(&mut self) -> Result<bool, Failure> {
        let now_ms = clock::now_ms();
        let lines = self.state.store().audit_after(self.cursor, CHUNK).await?;
        self.recheck(&lines, now_ms).await?;
        let Some(last) = lines.last().map(|line| line.seq) else { return Ok(false) };
        if self.caller.auditor().is_ok() {
            self.ready.extend(lines.into_iter().map(event));
        } else {
            if self.seen.len() > MEMORY {
                self.seen.clear();
            }
            let account = self.caller.with(Scope::Read)?;
            let mut sight = Sight::new(&self.state, account, now_ms).await?;
            for line in lines {
                if sees(&mut sight, &mut self.seen, &line.request).await? {
                    self.ready.push_back(event(line));
                }
            }
        }
        self.cursor = last;
        Ok(true)
    }

    /// Looks at token and account again: now and then, and before anything is sent that happened after
    /// one of them was changed. Such a change is in the audit.
    async fn recheck(&mut self, lines: &[Line], now_ms: i64) -> Result<(), Failure> {
        let changes = [Code::AccountChanged.id(), Code::TokenRevoked.id()];
        let is_due = self.checked.elapsed() >= RECHECK
            || self.caller.token().ends_ms <= now_ms
            || lines.iter().any(|line| changes.contains(&line.code.as_str()));
        if is_due {
            self.caller = still(&self.state, &self.caller, now_ms).await?;
            self.checked = Instant::now();
            self.seen.clear();
        }
        Ok(())
    }
}

async fn sees(
    sight: &mut Sight<'_>,
    seen: &mut HashMap<String, bool>,
    request: &str,
) -> Result<bool, Failure> {
    if request.is_empty() {
        return Ok(false);
    }
    if let Some(known) = seen.get(request) {
        return Ok(*known);
    }
    let sees = match sight.find(request).await {
        Ok(_) => true,
        Err(failure) if failure.parts().word == Word::NotFound.text() => false,
        Err(failure) => return Err(failure),
    };
    seen.insert(request.to_owned(), sees);
    Ok(sees)
}

fn event(line: Line) -> Event {
    let mut view = view::audit(line);
    view.line = None;
    let event = Event::default().id(view.seq.to_string()).event(view.event.clone());
    // A record is JSON without newlines, which an event's data must not have.
    event.data(serde_json::to_string(&view).unwrap_or_default())
}
