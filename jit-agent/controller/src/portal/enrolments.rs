//! *Enrolments*: machines that ask to be hosts, the decision on those that wait, and tokens with
//! which hosts enrol. The text of a token is on the page that follows the form, and nowhere else.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse as _, Redirect, Response},
};

use super::{
    guard::Fields,
    page::{Labels, Shell, page},
    text::When,
};
use crate::{
    api::{self, ApiState, Failure, duration_ms, enrolment_tokens, enrolments},
    clock,
    enrol::token::Wish,
    people::session::SignedIn,
    store::{Enrolment, EnrolmentState, EnrolmentToken},
};

/// Machines of each list.
const ROWS: u32 = 50;
/// The page.
const PATH: &str = "/enrolments";

#[derive(Template)]
#[template(path = "enrolments.html")]
struct List {
    shell: Shell,
    /// Nobody enrols here: it is not configured.
    off: bool,
    waiting: Vec<Machine>,
    others: Vec<Machine>,
    tokens: Vec<Token>,
    typed: Typed,
    /// What is wrong with what was typed; empty: nothing is.
    wrong: String,
}

#[derive(Template)]
#[template(path = "enrolment_token.html")]
struct Made {
    shell: Shell,
    text: String,
    labels: String,
    uses: i64,
    ends: When,
}

/// A machine, for people.
struct Machine {
    one: Enrolment,
    /// The beginning of its request's hash, as the machine shows it.
    csr: String,
    came: When,
    state: &'static str,
}

/// A token, for people.
struct Token {
    one: EnrolmentToken,
    labels: String,
    state: &'static str,
    ends: When,
    counts: bool,
}

/// What was typed of a new token.
struct Typed {
    labels: String,
    uses: String,
    duration: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let or = |name: &str, usual: &str| match fields.text(name) {
            "" => usual.to_owned(),
            text => text.to_owned(),
        };
        Self { labels: or("labels", ""), uses: or("uses", "1"), duration: or("duration", "1h") }
    }

    fn wish(&self) -> Result<Wish, Failure> {
        let words = self.labels.split(|letter: char| letter == ',' || letter.is_whitespace());
        let mut labels = BTreeMap::new();
        for word in words.filter(|word| !word.is_empty()) {
            let why = || Failure::field("labels", format!("{word:?} is no label such as env=test"));
            let (name, value) = word.split_once('=').ok_or_else(why)?;
            labels.insert(name.to_owned(), value.to_owned());
        }
        let uses = self.uses.trim().parse::<u32>();
        let uses = uses.map_err(|_| Failure::field("uses", "say for how many hosts it is"))?;
        let valid_ms = duration_ms("duration", Some(self.duration.as_str()), None)?;
        let valid_ms = valid_ms.ok_or_else(|| Failure::field("duration", "say how long"))?;
        Ok(Wish { labels, uses, valid_ms })
    }
}

/// The page. Administrators see it.
pub(super) async fn list(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    shown(&state, &signed_in, Typed::of(&fields), None).await
}

/// Decides on a machine that waits.
pub(super) async fn decide(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let accepts = enrolments::accepts(fields.text("ruling"))?;
    enrolments::settle(&state, &id, accepts, &account.subject).await?;
    Ok(Redirect::to(PATH).into_response())
}

/// Makes a token, and shows its text, this once.
pub(super) async fn make(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let typed = Typed::of(&fields);
    let made = async {
        let wish = typed.wish()?;
        enrolment_tokens::keep(&state, wish, &account.subject).await
    };
    let made = match made.await {
        Ok(made) => made,
        Err(failure) if failure.parts().status == StatusCode::UNPROCESSABLE_ENTITY => {
            return shown(&state, &signed_in, typed, Some(&failure)).await;
        }
        Err(failure) => return Err(failure),
    };
    let shown = Made {
        shell: Shell::of(&signed_in, "enrolments"),
        text: made.token,
        labels: Labels(&made.view.labels).to_string(),
        uses: made.view.uses_left,
        ends: When(made.view.ends_ms),
    };
    let mut response = page(StatusCode::CREATED, &shown)?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Withdraws a token.
pub(super) async fn withdraw(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    enrolment_tokens::withdraw(&state, &id, &account.subject).await?;
    Ok(Redirect::to(PATH).into_response())
}

async fn shown(
    state: &ApiState,
    signed_in: &SignedIn,
    typed: Typed,
    failure: Option<&Failure>,
) -> Result<Response, Failure> {
    let (status, wrong) = match failure.map(Failure::parts) {
        None => (StatusCode::OK, String::new()),
        Some(parts) => (parts.status, format!("{}: {}", parts.field, parts.detail)),
    };
    let (store, now_ms) = (state.store(), clock::now_ms());
    let waiting = store.enrolments(Some(EnrolmentState::Waiting), "", ROWS).await?;
    let others = store.enrolments(None, "", ROWS).await?.into_iter();
    let list = List {
        shell: Shell::of(signed_in, "enrolments"),
        off: !state.enrols(),
        waiting: waiting.into_iter().map(machine).collect(),
        others: others.filter(|one| one.state != EnrolmentState::Waiting).map(machine).collect(),
        tokens: store.enrolment_tokens().await?.into_iter().map(|one| token(one, now_ms)).collect(),
        typed,
        wrong,
    };
    page(status, &list)
}

fn machine(one: Enrolment) -> Machine {
    Machine {
        csr: one.csr_hash.chars().take(16).collect(),
        came: When(one.created_ms),
        state: match one.state {
            EnrolmentState::Issued => "let in",
            EnrolmentState::Refused => "refused",
            EnrolmentState::Waiting => "waits",
        },
        one,
    }
}

fn token(one: EnrolmentToken, now_ms: i64) -> Token {
    let state = one.state(now_ms);
    Token {
        labels: Labels(&one.labels).to_string(),
        state,
        ends: When(one.ends_ms),
        counts: state == "valid",
        one,
    }
}
