//! *Close now*: ends what was granted until now on many hosts at once. A first page asks what and where, a
//! second one says what that ends; each revocation has a page that shows which hosts have carried it out.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_client::controller::types::{RevocationInput, RevocationView, RevokedWhat};
use jit_proto::words::counted;

use super::{
    guard::Fields,
    page::{Shell, page},
    text::{When, segment},
};
use crate::{
    api::{self, ApiState, Failure, revocations},
    clock,
    desk::Closes,
    people::session::SignedIn,
    store::{ClosingAnswer, closings::Heard},
};

/// Revocations of the list.
const ROWS: u32 = 50;
/// Hosts that a page names.
const NAMED: u32 = 100;

#[derive(Template)]
#[template(path = "closings.html")]
struct List {
    shell: Shell,
    rows: Vec<Row>,
}

#[derive(Template)]
#[template(path = "closing_new.html")]
struct New {
    shell: Shell,
    typed: Typed,
    /// What is wrong; empty: nothing is.
    wrong: String,
}

#[derive(Template)]
#[template(path = "closing_confirm.html")]
struct Confirm {
    shell: Shell,
    typed: Typed,
    what: String,
    hosts: String,
    requests: Vec<String>,
    requests_words: String,
}

#[derive(Template)]
#[template(path = "closing.html")]
struct One {
    shell: Shell,
    row: Row,
    keep_until: When,
    refused: Vec<ClosingAnswer>,
    waiting: Vec<ClosingAnswer>,
}

/// A revocation in words.
struct Row {
    view: RevocationView,
    state: &'static str,
    what: String,
    made: When,
    hosts: u64,
}

/// What was typed.
struct Typed {
    /// `every` or `some`
    place: String,
    hosts: String,
    groups: String,
    /// `all`, `requester` or `grants`
    whose: String,
    requester: String,
    grants: String,
    cut: bool,
    reason: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let text = |name: &str| fields.text(name).replace("\r\n", "\n");
        let or = |name: &str, usual: &str| match fields.text(name) {
            "" => usual.to_owned(),
            text => text.to_owned(),
        };
        Self {
            place: or("place", "every"),
            hosts: text("hosts"),
            groups: text("groups"),
            whose: or("whose", "all"),
            requester: text("requester"),
            grants: text("grants"),
            cut: !fields.text("cut").is_empty(),
            reason: text("reason"),
        }
    }

    fn input(&self) -> RevocationInput {
        let words = |text: &str| -> Vec<String> {
            let words = text.split(|letter: char| letter == ',' || letter.is_whitespace());
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let every_host = self.place == "every";
        let of_some = |text: &str| if every_host { Vec::new() } else { words(text) };
        let mut what = RevokedWhat { all: self.whose == "all", ..RevokedWhat::default() };
        match self.whose.as_str() {
            "requester" => what.requester = Some(self.requester.clone()),
            "grants" => what.grants = words(&self.grants),
            _ => {}
        }
        RevocationInput {
            hosts: of_some(&self.hosts),
            groups: of_some(&self.groups),
            every_host,
            what,
            cut: self.cut,
            reason: self.reason.clone(),
        }
    }
}

/// The revocations, the newest first. Administrators see it.
pub(super) async fn list(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let mut rows = Vec::new();
    for closing in &revocations::seen(&state, account, "", ROWS).await? {
        rows.push(row(revocations::shown(&state, closing).await?));
    }
    page(StatusCode::OK, &List { shell: Shell::of(&signed_in, "closings"), rows })
}

/// What, and where.
pub(super) async fn new(signed_in: SignedIn, fields: Fields) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    asked(&signed_in, Typed::of(&fields), None)
}

/// What it would end. Nothing is done yet.
pub(super) async fn confirm(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    let typed = Typed::of(&fields);
    let would = async {
        let close = revocations::close(typed.input())?;
        let now_ms = clock::now_ms();
        Ok(state.desk().would_close(signed_in.account(), &close, now_ms).await?)
    };
    let Closes { hosts, requests } = match would.await {
        Ok(closes) => closes,
        Err(failure) => return again(&signed_in, typed, failure),
    };
    let input = typed.input();
    let confirm = Confirm {
        shell: Shell::of(&signed_in, "closings"),
        what: what(&input.what),
        hosts: counted(hosts, "host"),
        requests_words: counted(requests.len(), "request"),
        requests: requests.into_iter().take(usize::try_from(NAMED).unwrap_or(0)).collect(),
        typed,
    };
    page(StatusCode::OK, &confirm)
}

/// Does it.
pub(super) async fn make(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let typed = Typed::of(&fields);
    let made = async {
        let close = revocations::close(typed.input())?;
        Ok(state.desk().close(account, &close, clock::now_ms()).await?)
    };
    match made.await {
        Ok(closing) => {
            Ok(Redirect::to(&format!("/closings/{}", segment(&closing.id))).into_response())
        }
        Err(failure) => again(&signed_in, typed, failure),
    }
}

/// One revocation, and the hosts that have not carried it out.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let closing = revocations::find(&state, account, &id).await?;
    let view = revocations::shown(&state, &closing).await?;
    let store = state.store();
    let one = One {
        shell: Shell::of(&signed_in, "closings"),
        keep_until: When(view.keep_until_ms),
        row: row(view),
        refused: store.closing_hosts(&id, Some(Heard::Refused), "", NAMED).await?,
        waiting: store.closing_hosts(&id, Some(Heard::Waiting), "", NAMED).await?,
    };
    page(StatusCode::OK, &one)
}

/// The first page again, if a field is wrong.
fn again(signed_in: &SignedIn, typed: Typed, failure: Failure) -> Result<Response, Failure> {
    match failure.parts().status {
        StatusCode::UNPROCESSABLE_ENTITY => asked(signed_in, typed, Some(&failure)),
        _ => Err(failure),
    }
}

fn asked(
    signed_in: &SignedIn,
    typed: Typed,
    failure: Option<&Failure>,
) -> Result<Response, Failure> {
    let (status, wrong) = match failure.map(Failure::parts) {
        None => (StatusCode::OK, String::new()),
        Some(parts) => (parts.status, format!("{}: {}", parts.field, parts.detail)),
    };
    page(status, &New { shell: Shell::of(signed_in, "closings"), typed, wrong })
}

fn row(view: RevocationView) -> Row {
    Row {
        state: match view.state.as_str() {
            "signing" => "is being signed",
            "delivered" => "done on every host",
            "signer_refused" => "the signer refuses it",
            "ended" => "ended",
            _ if view.refused > 0 => "refused by hosts",
            _ => "on its way",
        },
        what: what(&view.what),
        made: When(view.made_ms),
        hosts: view.delivered.saturating_add(view.refused).saturating_add(view.waiting),
        view,
    }
}

/// What ends, in words.
fn what(what: &RevokedWhat) -> String {
    match (&what.requester, what.grants.len()) {
        (Some(requester), _) => format!("everything that {requester} was granted"),
        (None, 0) => "everything that was granted".to_owned(),
        (None, count) => counted(count, "grant"),
    }
}
