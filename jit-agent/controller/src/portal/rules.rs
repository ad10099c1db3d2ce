//! *Rules*: the text in force, an editor that says what is wrong where, and versions.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_client::controller::types::{RulesInput, TextMistake};

use super::{
    diff::{self, DiffLine},
    guard::Fields,
    page::{Shell, page},
    rules_try::{self, Case, Tried},
    text::{When, address},
};
use crate::{
    api::{self, ApiState, Failure, rules},
    model::Account,
    people::session::SignedIn,
    rules::diff as rules_diff,
    store::RulesVersion,
};

/// Versions of one page.
const ROWS: u32 = 30;
/// Versions beside the text in force.
const LATEST: u32 = 5;
/// Longest line that is shown beside a mistake, characters.
const LONGEST: usize = 160;

#[derive(Template)]
#[template(path = "rules.html")]
struct Page {
    shell: Shell,
    may_edit: bool,
    /// Number of the version in force.
    version: i64,
    saved: Version,
    text: String,
    note: String,
    mistakes: Vec<Mistake>,
    /// What else is wrong; empty: nothing.
    wrong: String,
    /// The text was checked, and can be saved.
    checked: bool,
    changes: Vec<(&'static str, String)>,
    diff: Vec<DiffLine>,
    case: Case,
    tried: Option<Tried>,
    latest: Vec<Version>,
}

/// A mistake, and the line where it is.
struct Mistake {
    line: u32,
    column: u32,
    text: String,
    source: String,
    /// Blanks up to the column.
    before: String,
}

struct Version {
    number: i64,
    saved: When,
    author: String,
    note: String,
}

#[derive(Template)]
#[template(path = "rules_history.html")]
struct History {
    shell: Shell,
    versions: Vec<Version>,
    next: String,
}

#[derive(Template)]
#[template(path = "rules_version.html")]
struct OneVersion {
    shell: Shell,
    may_edit: bool,
    is_in_force: bool,
    version: Version,
    changes: Vec<(&'static str, String)>,
    diff: Vec<DiffLine>,
    text: String,
}

/// What is in the editor.
#[derive(Default)]
struct Draft {
    text: String,
    note: String,
    case: Case,
    mistakes: Vec<TextMistake>,
    wrong: String,
    checked: bool,
    tried: Option<Tried>,
}

impl Draft {
    fn of(fields: &Fields) -> Self {
        Self {
            // Browsers end lines with both letters.
            text: fields.raw("text").replace("\r\n", "\n"),
            note: fields.text("note").to_owned(),
            case: Case::of(fields),
            ..Self::default()
        }
    }
}

/// The page. With `from` an older version is in the editor.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let from = match fields.text("from") {
        "" => None,
        text => Some(number(text)?),
    };
    let version = rules::version(&state, from).await?;
    let draft = Draft { text: version.text, case: Case::first(&signed_in), ..Draft::default() };
    shown(&state, &signed_in, StatusCode::OK, draft).await
}

/// Says what is wrong in a text, or what it would change.
pub(super) async fn check(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    let mut draft = Draft::of(&fields);
    let status = match rules::parsed(0, &draft.text) {
        Ok(_) => {
            draft.checked = true;
            StatusCode::OK
        }
        Err(failure) => explain(&mut draft, &failure),
    };
    shown(&state, &signed_in, status, draft).await
}

/// What becomes of a case: with the text in the editor, or with the rules in force.
pub(super) async fn try_case(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let mut draft = Draft::of(&fields);
    let account = signed_in.account();
    let rules = if account.is_admin() && !draft.text.is_empty() {
        rules::parsed(0, &draft.text)
    } else {
        let saved = rules::version(&state, None).await?;
        draft.text.clone_from(&saved.text);
        rules::stored(&saved)
    };
    let tried = match rules {
        Ok(rules) => rules_try::judge(&state, account, &rules, &draft.case).await,
        Err(failure) => Err(failure),
    };
    let status = match tried {
        Ok(tried) => {
            draft.tried = Some(tried);
            StatusCode::OK
        }
        Err(failure) => explain(&mut draft, &failure),
    };
    shown(&state, &signed_in, status, draft).await
}

/// Saves a text, if nobody else has saved another one meanwhile.
pub(super) async fn save(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let mut draft = Draft::of(&fields);
    let made_of = number(fields.text("version"))?;
    let new = RulesInput { text: draft.text.clone(), note: draft.note.clone() };
    match rules::save(&state, account, made_of, new).await {
        Ok(saved) => Ok(Redirect::to(&format!("/rules/{}", saved.version)).into_response()),
        Err(failure) => {
            let status = explain(&mut draft, &failure);
            if status == StatusCode::PRECONDITION_FAILED {
                // What it changes in the version of the other one is shown before it can be saved.
                draft.checked = rules::parsed(0, &draft.text).is_ok();
                draft.wrong =
                    "Somebody else has saved another version meanwhile. What to do: look at what \
                               your text would change in that one, and save it again"
                        .into();
            }
            shown(&state, &signed_in, status, draft).await
        }
    }
}

/// Versions, the newest first.
pub(super) async fn history(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let below = match fields.text("below") {
        "" => i64::MAX,
        text => number(text)?,
    };
    let found = state.store().rules_history(below, ROWS).await?;
    let next = match found.last() {
        Some(last) if last.version > 1 => {
            address("/rules/history", &[("below", &last.version.to_string())])
        }
        _ => String::new(),
    };
    let versions = found.into_iter().map(described).collect();
    page(StatusCode::OK, &History { shell: Shell::of(&signed_in, "rules"), versions, next })
}

/// One version, and what it changed.
pub(super) async fn one(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(version): Path<String>,
) -> Result<Response, Failure> {
    let found = rules::version(&state, Some(number(&version)?)).await?;
    let in_force = state.store().rules_in_force().await?.map_or(0, |rules| rules.version);
    let before = state.store().rules_version(found.version.saturating_sub(1)).await?;
    let (changes, diff) = before.map(|before| difference(&before, &found)).unwrap_or_default();
    let text = found.text.clone();
    let one = OneVersion {
        shell: Shell::of(&signed_in, "rules"),
        may_edit: signed_in.account().is_admin(),
        is_in_force: in_force == found.version,
        version: described(found),
        changes,
        diff,
        text,
    };
    page(StatusCode::OK, &one)
}

/// Puts into the draft why something was not done.
fn explain(draft: &mut Draft, failure: &Failure) -> StatusCode {
    let parts = failure.parts();
    if parts.field.starts_with("case.") {
        draft.case.wrong = (parts.field.clone(), parts.detail.clone());
    } else if parts.mistakes.is_empty() {
        draft.wrong = format!("{}. What to do: {}", parts.detail, parts.next);
    } else {
        draft.mistakes.clone_from(&parts.mistakes);
    }
    parts.status
}

async fn shown(
    state: &ApiState,
    signed_in: &SignedIn,
    status: StatusCode,
    draft: Draft,
) -> Result<Response, Failure> {
    let account: &Account = signed_in.account();
    let in_force = rules::version(state, None).await?;
    let latest = state.store().rules_history(i64::MAX, LATEST).await?;
    let Draft { text, note, case, mistakes, wrong, checked, tried } = draft;
    let new =
        RulesVersion { text, version: in_force.version.saturating_add(1), ..in_force.clone() };
    let (changes, diff) = match checked {
        true => difference(&in_force, &new),
        false => (Vec::new(), Vec::new()),
    };
    let found = Page {
        shell: Shell::of(signed_in, "rules"),
        may_edit: account.is_admin(),
        version: in_force.version,
        saved: described(in_force),
        mistakes: mistakes.iter().map(|mistake| placed(&new.text, mistake)).collect(),
        text: new.text,
        note,
        wrong,
        checked,
        changes,
        diff,
        case,
        tried,
        latest: latest.into_iter().map(described).collect(),
    };
    page(status, &found)
}

/// What changes from one version to another: by name, and line by line.
fn difference(
    old: &RulesVersion,
    new: &RulesVersion,
) -> (Vec<(&'static str, String)>, Vec<DiffLine>) {
    let (Ok(before), Ok(after)) = (rules::stored(old), rules::stored(new)) else {
        return (Vec::new(), diff::of_texts(&old.text, &new.text));
    };
    let rules_diff::Diff { added, removed, changed, unified } = rules_diff::diff(&before, &after);
    let named = |what: &'static str, rules: Vec<String>| {
        rules.into_iter().map(move |rule| (what, rule)).collect::<Vec<_>>()
    };
    let all =
        [named("new rule", added), named("removed rule", removed), named("changed rule", changed)]
            .concat();
    (all, diff::lines(&unified))
}

fn placed(text: &str, mistake: &TextMistake) -> Mistake {
    let line = usize::try_from(mistake.line).unwrap_or(1).saturating_sub(1);
    let column = usize::try_from(mistake.column).unwrap_or(1).saturating_sub(1);
    let source: String = text.lines().nth(line).unwrap_or_default().chars().take(LONGEST).collect();
    let column = column.min(source.chars().count());
    Mistake {
        line: mistake.line,
        column: mistake.column,
        text: mistake.text.clone(),
        source: source.replace('\t', " "),
        before: " ".repeat(column),
    }
}

fn described(of: RulesVersion) -> Version {
    let RulesVersion { version, text: _, author, note, saved_ms } = of;
    Version { number: version, saved: When(saved_ms), author, note }
}

fn number(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| Failure::not_found("version of the rules", text))
}
