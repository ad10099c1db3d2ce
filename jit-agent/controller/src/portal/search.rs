//! Finding a host by a part of its name or by a label.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    guard::Fields,
    page::{Labels, page},
};
use crate::{
    api::{ApiState, Failure, Sight},
    clock,
    model::Account,
    people::session::SignedIn,
    rules::Action,
};

/// Hosts that are shown.
const SHOWN: usize = 20;
/// Hosts of one question to the database.
const CHUNK: u32 = 100;
/// Hosts that are looked at.
const MAX_SCAN: usize = 2000;
/// Longest text that is looked for.
const LONGEST: usize = 200;

/// A host that was found.
pub(super) struct Found {
    id: String,
    labels: String,
    condition: String,
}

/// Hosts that were found.
#[derive(Template)]
#[template(path = "found.html")]
pub(super) struct FoundHosts {
    hosts: Vec<Found>,
    /// There are more.
    more: bool,
    text: String,
}

/// A part of the page: what was found.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    page(StatusCode::OK, &search(&state, signed_in.account(), fields.text("q")).await?)
}

/// Hosts where an account may ask for access, or that it sees.
pub(super) async fn search(
    state: &ApiState,
    account: &Account,
    text: &str,
) -> Result<FoundHosts, Failure> {
    let text: String = text.chars().take(LONGEST).collect();
    let sight = Sight::new(state, account, clock::now_ms()).await?;
    let (mut found, mut after, mut scanned) = (FoundHosts::nothing(&text), String::new(), 0);
    loop {
        let some = state.store().hosts_named(&text, &after, CHUNK).await?;
        let is_last = some.len() < usize::try_from(CHUNK).unwrap_or(usize::MAX);
        for known in some {
            scanned += 1;
            after.clone_from(&known.host.id);
            if !sight.may(Action::Initiate, &known.host) && !sight.host(&known.host) {
                continue;
            }
            if found.hosts.len() == SHOWN {
                found.more = true;
                return Ok(found);
            }
            found.hosts.push(Found {
                labels: Labels(&known.host.labels).to_string(),
                condition: super::words::condition(known.observed.condition).to_owned(),
                id: known.host.id,
            });
        }
        if is_last || scanned >= MAX_SCAN {
            found.more = !is_last;
            return Ok(found);
        }
    }
}

impl Found {
    /// The parameter of the form for it alone.
    fn query(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).append_pair("host", &self.id).finish()
    }
}

impl FoundHosts {
    fn nothing(text: &str) -> Self {
        Self { hosts: Vec::new(), more: false, text: text.to_owned() }
    }
}
