//! *Sign*: what waits for signatures, decoded from the bytes that are signed, and the passkey that
//! signs them. The host checks the same bytes: the controller can show, and not change, what it
//! gets signed.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_client::{inspect::Inspection, text::printable};
use jit_proto::{
    dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1, webauthn::challenge,
};
use prost::Message as _;

use super::{
    super::{
        files,
        guard::Fields,
        page::{Shell, page},
    },
    step::{self, Step},
};
use crate::{
    api::{ApiState, Failure, Sight, Word, passkeys::party},
    clock,
    model::State as RequestState,
    people::{
        passkey::{self, Asserted, PasskeyError},
        session::SignedIn,
    },
    store::{Request, StoredGrant},
};

#[derive(Template)]
#[template(path = "sign.html")]
struct Sign {
    shell: Shell,
    id: String,
    grants: Vec<Shown>,
    /// It waits for signatures.
    waits: bool,
    /// This person has just signed.
    done: bool,
    /// Why this person cannot sign; empty: nothing is known that speaks against it.
    refused: String,
    script: &'static str,
}

/// A grant as the page shows it.
struct Shown {
    fields: Vec<(&'static str, String)>,
    /// What speaks against it, safe for a page.
    problems: Vec<String>,
    hash: String,
    signed: usize,
    needed: u32,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let request = Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let grants = state.store().grants_of(&id).await?;
    let shown: Result<_, Failure> = grants.iter().map(|grant| shown(grant, now_ms)).collect();
    let sign = Sign {
        shell: Shell::of(&signed_in, "requests"),
        grants: shown?,
        waits: request.state == RequestState::AwaitingSignatures,
        done: fields.text("done") == "1",
        refused: refused(&state, &signed_in, &request, &grants).await?,
        script: files::passkey(),
        id,
    };
    page(StatusCode::OK, &sign)
}

fn shown(grant: &StoredGrant, now_ms: i64) -> Result<Shown, Failure> {
    let signed = grant.envelope.as_ref().map_or(0, |envelope| envelope.signatures.len());
    let inspected = inspected(grant, now_ms)?;
    let problems = inspected.malformed.iter().chain(&inspected.untimely);
    Ok(Shown {
        fields: inspected.fields(),
        problems: problems.map(|why| printable(why)).collect(),
        hash: inspected.payload_sha256,
        signed,
        needed: grant.signatures_needed,
    })
}

/// The grant, decoded from the bytes that are signed.
fn inspected(grant: &StoredGrant, now_ms: i64) -> Result<Inspection, Failure> {
    let envelope = v1::Envelope {
        payload_type: GRANT_TYPE.to_owned(),
        payload: grant.part.payload.clone().into(),
        signatures: Vec::new(),
    };
    Inspection::of(&envelope.encode_to_vec(), &[], now_ms)
        .map_err(|why| Failure::hidden(Word::Internal, why))
}

/// Nobody signs what he cannot be shown.
///
/// # Errors
/// The bytes are no grant that every host would read as the page shows it.
fn readable(grant: &StoredGrant, now_ms: i64) -> Result<(), Failure> {
    let inspected = inspected(grant, now_ms)?;
    let Some(why) = inspected.malformed.first() else { return Ok(()) };
    let detail = format!("the grant {} is not signed here: {}", grant.part.id, printable(why));
    let next = "do not sign it elsewhere either: an administrator looks at it with `jit-controller verify`";
    Err(Failure::new(Word::Conflict, detail).next(next))
}

/// Why this person cannot sign, as far as it is known before.
async fn refused(
    state: &ApiState,
    signed_in: &SignedIn,
    request: &Request,
    grants: &[StoredGrant],
) -> Result<String, Failure> {
    let account = signed_in.account();
    if request.is_asked_by(account) {
        return Ok("You asked for it: somebody else signs.".into());
    }
    if grants.iter().any(|grant| readable(grant, clock::now_ms()).is_err()) {
        return Ok("You cannot sign it: what would be signed is no grant that hosts read.".into());
    }
    let party = match state.settings().relying_party() {
        Ok(party) => party,
        Err(why) => return Ok(format!("You cannot sign at this page: {why}.")),
    };
    let found = state.store().passkeys(&account.name).await?;
    match found.iter().any(|one| one.rp_id == party.id()) {
        true => Ok(String::new()),
        false => Ok("You have no passkey here yet: add one at the page of your account.".into()),
    }
}

/// The field with the passkey's answer for a grant.
fn field(grant: &StoredGrant) -> String {
    format!("credential-{}", grant.part.id)
}

/// What the browser needs: one answer for each grant that waits.
pub(super) async fn options(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let (party, account, now_ms) = (party(&state)?, signed_in.account(), clock::now_ms());
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let mut present = state.store().passkeys(&account.name).await?;
    present.retain(|one| one.rp_id == party.id());
    if present.is_empty() {
        return Err(PasskeyError::Unknown.into());
    }
    let step = |grant: &StoredGrant| {
        readable(grant, now_ms)?;
        let message = pre_authentication_encoding(GRANT_TYPE, &grant.part.payload);
        let challenge = URL_SAFE_NO_PAD.encode(challenge(&message));
        Ok(Step::get(field(grant), passkey::request(&party, &challenge, &present)))
    };
    let grants = state.store().grants_of(&id).await?;
    let steps = grants.iter().filter(|grant| grant.signed_ms == 0).map(step);
    Ok(step::answer(&steps.collect::<Result<Vec<_>, Failure>>()?))
}

/// Adds what the passkey has signed.
pub(super) async fn sign(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (party, account, now_ms) = (party(&state)?, signed_in.account(), clock::now_ms());
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let mut any = false;
    for grant in state.store().grants_of(&id).await? {
        let sent = fields.raw(&field(&grant));
        if sent.is_empty() {
            continue;
        }
        any = true;
        readable(&grant, now_ms)?;
        let sent = Asserted::of_json(sent).map_err(PasskeyError::Sent)?;
        let passkey = passkey::of(state.store(), &party, &sent).await?;
        let passkey = passkey.ok_or(PasskeyError::Unknown)?;
        let approval = sent.into_signature(&passkey.key_id);
        let grant = grant.part.id.to_string();
        state.desk().add_approval(account, &grant, approval, &party, now_ms).await?;
    }
    if !any {
        let why = "the form has no answer of a passkey for a grant of this request";
        return Err(Failure::field("credential", why)
            .next("open the page again in a browser with scripts, and sign there"));
    }
    Ok(Redirect::to(&format!("/requests/{id}/sign?done=1")).into_response())
}
