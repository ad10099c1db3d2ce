//! *Policies*: what hosts protect, an editor, and what a policy would change.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_client::controller::types::PolicyPreview;

use super::{
    diff::{self, DiffLine},
    guard::Fields,
    page::{Shell, page},
    policy_mistakes::{self, Mistake},
    rollout_words,
    text::{When, address},
};
use crate::{
    api::{self, ApiState, Failure, Sight, listed, policies},
    clock,
    fleet::{FleetError, rollouts::check_policy},
    model::rollout::Wave,
    people::session::SignedIn,
    store::{Policy, Rollout},
};

/// Policies of one page.
const ROWS: u32 = 20;
/// Rollouts beside them.
const LATEST: u32 = 10;

#[derive(Template)]
#[template(path = "policies.html")]
struct List {
    shell: Shell,
    may_edit: bool,
    policies: Vec<Described>,
    next: String,
    rollouts: Vec<RolloutRow>,
}

/// A policy, without its text.
struct Described {
    id: String,
    saved: When,
    author: String,
    why: String,
    /// Hosts have it, or get it.
    is_out: bool,
}

struct RolloutRow {
    id: String,
    state: &'static str,
    waves: String,
    author: String,
    began: When,
}

#[derive(Template)]
#[template(path = "policy_edit.html")]
struct Editor {
    shell: Shell,
    text: String,
    why: String,
    /// It begins with this policy; empty: with none.
    from: String,
    mistakes: Vec<Mistake>,
    wrong: String,
    checked: bool,
    /// Compared with the policy that is out.
    out: String,
    diff: Vec<DiffLine>,
}

#[derive(Template)]
#[template(path = "policy.html")]
struct One {
    shell: Shell,
    may_edit: bool,
    policy: Described,
    text: String,
    /// Compared with this policy; empty: none is out.
    out: String,
    diff: Vec<DiffLine>,
    host: String,
    preview: Option<PolicyPreview>,
    /// Why the host would refuse it; empty: it would not.
    refusal: String,
    /// Why the host did not say.
    trouble: String,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, below) = (signed_in.account(), fields.text("below").to_owned());
    let (found, next) = listed::<Policy>(&state, account, below, ROWS).await?;
    let next = next.map(|below| address("/policies", &[("below", &below)])).unwrap_or_default();
    let out = state.store().rollout_in_force().await?.map(|rollout| rollout.policy);
    let (rollouts, _) = listed::<Rollout>(&state, account, String::new(), LATEST).await?;
    let list = List {
        shell: Shell::of(&signed_in, "policies"),
        may_edit: account.is_admin(),
        policies: found.iter().map(|policy| described(policy, out.as_deref())).collect(),
        next,
        rollouts: rollouts.into_iter().map(row).collect(),
    };
    page(StatusCode::OK, &list)
}

/// The editor, with the policy that is out, or with the one in `from`.
pub(super) async fn edit(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    let from = match fields.text("from") {
        "" => out(&state).await?,
        id => Some(find(&state, id).await?),
    };
    let (from, text) = from.map(|policy| (policy.id, policy.text)).unwrap_or_default();
    let editor = Editor {
        shell: Shell::of(&signed_in, "policies"),
        text,
        why: String::new(),
        from,
        mistakes: Vec::new(),
        wrong: String::new(),
        checked: false,
        out: String::new(),
        diff: Vec::new(),
    };
    page(StatusCode::OK, &editor)
}

/// Says what is wrong in a text, or what it changes.
pub(super) async fn check(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    edited(&state, &signed_in, &fields, None).await
}

/// Keeps a policy. No host gets it by that.
pub(super) async fn save(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let (policy, why) = (text(&fields), fields.text("why"));
    let fleet = policies::fleet(&state)?;
    match fleet.save_policy(&account.subject, &policy, why, clock::now_ms()).await {
        Ok(saved) => Ok(Redirect::to(&format!("/policies/{}", saved.id)).into_response()),
        Err(FleetError::Invalid(why)) => edited(&state, &signed_in, &fields, Some(why)).await,
        Err(error) => Err(error.into()),
    }
}

/// One policy. With `host` that host is asked what it would change there.
pub(super) async fn one(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let mut sight = Sight::new(&state, account, clock::now_ms()).await?;
    let policy = sight.find_policy(&id).await?;
    let out = sight.policies(out(&state).await?.into_iter().collect()).await?.pop();
    let host = fields.text("host").to_owned();
    let (mut preview, mut trouble) = (None, String::new());
    if !host.is_empty() {
        match policies::previewed(&state, account, &id, host.clone()).await {
            Ok(answered) => preview = Some(answered),
            Err(failure) => trouble.clone_from(&failure.parts().detail),
        }
    }
    let out_id = out.as_ref().map(|out| out.id.clone()).unwrap_or_default();
    let one = One {
        shell: Shell::of(&signed_in, "policies"),
        may_edit: account.is_admin(),
        policy: described(&policy, Some(&out_id)),
        diff: out.map(|out| diff::of_texts(&out.text, &policy.text)).unwrap_or_default(),
        out: out_id,
        text: policy.text,
        host,
        refusal: preview.as_ref().map(refusal).unwrap_or_default(),
        preview,
        trouble,
    };
    page(StatusCode::OK, &one)
}

/// The editor with what was typed, and what is wrong in it or what it changes. `why`: it was not
/// kept.
async fn edited(
    state: &ApiState,
    signed_in: &SignedIn,
    fields: &Fields,
    why: Option<String>,
) -> Result<Response, Failure> {
    let text = text(fields);
    let checked = check_policy(&text);
    let (mut mistakes, mut wrong) = (Vec::new(), String::new());
    let is_good = checked.is_ok();
    match checked {
        Ok(()) => wrong = why.unwrap_or_default(),
        Err(FleetError::Invalid(why)) => mistakes = policy_mistakes::read(&why, &text),
        Err(error) => return Err(error.into()),
    }
    let out = if is_good { out(state).await? } else { None };
    let diff = out.as_ref().map(|out| diff::of_texts(&out.text, &text)).unwrap_or_default();
    let status = match is_good && wrong.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let editor = Editor {
        shell: Shell::of(signed_in, "policies"),
        text,
        why: fields.text("why").to_owned(),
        from: fields.text("from").to_owned(),
        mistakes,
        checked: is_good && wrong.is_empty(),
        wrong,
        out: out.map(|out| out.id).unwrap_or_default(),
        diff,
    };
    page(status, &editor)
}

/// Browsers end lines with both letters.
fn text(fields: &Fields) -> String {
    fields.raw("text").replace("\r\n", "\n")
}

pub(super) async fn find(state: &ApiState, id: &str) -> Result<Policy, Failure> {
    state.store().policy(id).await?.ok_or_else(|| Failure::not_found("policy", id))
}

/// What a host says against a policy; empty: it would take it.
pub(super) fn refusal(of: &PolicyPreview) -> String {
    match of.reason.as_str() {
        "" | "known" | "ok" => String::new(),
        reason => format!("would refuse it: {} ({reason})", of.detail),
    }
}

/// The policy that hosts have or get.
async fn out(state: &ApiState) -> Result<Option<Policy>, Failure> {
    match state.store().rollout_in_force().await? {
        Some(rollout) => Ok(state.store().policy(&rollout.policy).await?),
        None => Ok(None),
    }
}

fn described(of: &Policy, out: Option<&str>) -> Described {
    let Policy { id, text: _, author, justification, saved_ms } = of;
    Described {
        id: id.clone(),
        saved: When(*saved_ms),
        author: author.clone(),
        why: justification.clone(),
        is_out: out == Some(id),
    }
}

fn row(of: Rollout) -> RolloutRow {
    let waves: Vec<_> = of.waves.iter().map(Wave::brief).collect();
    RolloutRow {
        id: of.id,
        state: rollout_words::state(of.state).0,
        waves: waves.join(", then "),
        author: of.created_by,
        began: When(of.created_ms),
    }
}
