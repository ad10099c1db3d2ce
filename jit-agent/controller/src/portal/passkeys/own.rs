//! A person's own passkeys: add, look at, rename, remove. Adding and removing need the password or
//! a passkey once more: a browser that was left open, or a stolen cookie, is not enough.

use std::net::IpAddr;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_client::controller::types::PasskeyView;
use zeroize::Zeroizing;

use super::{
    super::{
        files,
        guard::Fields,
        page::{Shell, page},
        text::When,
    },
    step::{self, Step},
};
use crate::{
    api::{
        ApiState, Call, Failure,
        passkeys::{party, shown},
    },
    clock,
    model::Account,
    people::{
        Refused,
        passkey::{self, Purpose},
        session::SignedIn,
    },
    store::Passkey,
};

/// An account with neither password nor passkey has just signed in otherwise: for so long that is
/// enough to add its first passkey, milliseconds.
const FRESH_MS: i64 = 10 * 60_000;

/// The part of the page of an account.
pub(in crate::portal) struct Passkeys {
    pub(in crate::portal) rows: Vec<Shown>,
    /// Why there can be no new one; empty: there can.
    pub(in crate::portal) off: String,
    pub(in crate::portal) has_password: bool,
    pub(in crate::portal) script: &'static str,
}

/// A passkey, with its times as they are shown.
pub(in crate::portal) struct Shown {
    pub(in crate::portal) view: PasskeyView,
    pub(in crate::portal) created: When,
    pub(in crate::portal) used: Option<When>,
}

#[derive(Template)]
#[template(path = "passkey.html")]
struct One {
    shell: Shell,
    shown: Shown,
    has_password: bool,
    script: &'static str,
}

/// The part of the page of an account.
///
/// # Errors
/// Those of the database.
pub(in crate::portal) async fn of(
    state: &ApiState,
    account: &Account,
) -> Result<Passkeys, Failure> {
    let party = state.settings().relying_party();
    let found = state.store().passkeys(&account.name).await?;
    let row = |one: Passkey| {
        let view = shown(one, party.as_ref().ok());
        Shown { created: When(view.created_ms), used: view.used_ms.map(When), view }
    };
    Ok(Passkeys {
        rows: found.into_iter().map(row).collect(),
        off: party
            .err()
            .map(|why| format!("There can be no passkeys here: {why}."))
            .unwrap_or_default(),
        has_password: state.store().password(&account.name).await?.is_some(),
        script: files::passkey(),
    })
}

/// One passkey.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(key_id): Path<String>,
) -> Result<Response, Failure> {
    let Passkeys { rows, has_password, script, .. } = of(&state, signed_in.account()).await?;
    let shown = rows.into_iter().find(|row| row.view.key_id == key_id);
    let shown = shown.ok_or_else(|| Failure::not_found("passkey", &key_id))?;
    page(StatusCode::OK, &One { shell: Shell::of(&signed_in, "me"), shown, has_password, script })
}

/// What the browser needs to add one.
pub(super) async fn options(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let (party, account, now_ms) = (party(&state)?, signed_in.account(), clock::now_ms());
    passkey::checked_name(fields.text("name"))?;
    let mut steps = Vec::new();
    if fields.raw("current").is_empty() {
        steps.extend(proof(&state, &signed_in, now_ms).await?);
    }
    let present = state.store().passkeys(&account.name).await?;
    let owner = signed_in.hash();
    let challenge = passkey::challenge(state.store(), Purpose::Register, owner, now_ms).await?;
    let options = passkey::creation(&party, account, &challenge, &present);
    steps.push(Step::create("credential", options));
    Ok(step::answer(&steps))
}

/// What the browser needs to confirm a change.
pub(super) async fn confirm_options(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    party(&state)?;
    let steps: Vec<_> = proof(&state, &signed_in, clock::now_ms()).await?.into_iter().collect();
    Ok(step::answer(&steps))
}

/// The step by which a passkey confirms a change; `None`: the account has none.
async fn proof(
    state: &ApiState,
    signed_in: &SignedIn,
    now_ms: i64,
) -> Result<Option<Step>, Failure> {
    let party = party(state)?;
    let mut present = state.store().passkeys(&signed_in.account().name).await?;
    present.retain(|one| one.rp_id == party.id());
    if present.is_empty() {
        return Ok(None);
    }
    let owner = signed_in.hash();
    let challenge = passkey::challenge(state.store(), Purpose::Confirm, owner, now_ms).await?;
    Ok(Some(Step::get("proof", passkey::request(&party, &challenge, &present))))
}

/// Adds one.
pub(super) async fn add(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let party = party(&state)?;
    let now_ms = clock::now_ms();
    confirmed(&state, &signed_in, &fields, call.origin.address, now_ms).await?;
    let new = (fields.text("name"), fields.raw("credential"));
    let (account, owner) = (signed_in.account(), signed_in.hash());
    let Passkey { key_id, .. } =
        passkey::register(state.desk(), &party, account, owner, new, now_ms).await?;
    Ok(Redirect::to(&format!("/me/passkeys/{key_id}")).into_response())
}

/// Names one anew.
pub(super) async fn rename(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(key_id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    passkey::rename(state.desk(), account, &key_id, fields.text("name"), now_ms).await?;
    Ok(Redirect::to("/me").into_response())
}

/// Removes one.
pub(super) async fn remove(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    Path(key_id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    confirmed(&state, &signed_in, &fields, call.origin.address, now_ms).await?;
    let kept = signed_in.hash();
    passkey::remove(state.desk(), &account.name, &key_id, account, kept, now_ms).await?;
    Ok(Redirect::to("/me").into_response())
}

/// Whether it is the owner of the account who changes it.
///
/// # Errors
/// The form has neither the password nor the answer of a passkey of his, or a wrong one.
async fn confirmed(
    state: &ApiState,
    signed_in: &SignedIn,
    fields: &Fields,
    from: IpAddr,
    now_ms: i64,
) -> Result<(), Failure> {
    let (desk, people, account) = (state.desk(), state.people(), signed_in.account());
    let proof = fields.raw("proof");
    if !proof.is_empty() {
        let party = party(state)?;
        return Ok(people.confirm_by_passkey(desk, &party, signed_in, proof, from, now_ms).await?);
    }
    let current = Zeroizing::new(fields.raw("current").to_owned());
    if !current.is_empty() {
        let checked = people.confirm(desk, account, current, from, now_ms).await;
        return checked.map_err(|refused| match refused {
            Refused::Wrong => Failure::refused("wrong_password", "it is not the password")
                .next("type the password of this account, or confirm with a passkey"),
            other => other.into(),
        });
    }
    // One that was made for pages at another address confirms nothing here.
    let party = state.settings().relying_party().ok();
    let is_for_here = |one: &Passkey| party.as_ref().is_some_and(|party| one.rp_id == party.id());
    let has_way = state.store().password(&account.name).await?.is_some()
        || state.store().passkeys(&account.name).await?.iter().any(is_for_here);
    if !has_way && now_ms.saturating_sub(signed_in.began_ms()) <= FRESH_MS {
        return Ok(());
    }
    let (detail, next) = match has_way {
        true => (
            "this needs your password or one of your passkeys once more",
            "type the password of this account, or confirm with a passkey",
        ),
        false => ("you signed in more than 10 minutes ago", "sign out, sign in, and do it again"),
    };
    Err(Failure::refused("confirm_first", detail).next(next))
}
