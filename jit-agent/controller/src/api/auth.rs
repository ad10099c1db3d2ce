//! Who calls, and what the token lets him do.
//!
//! An account comes out of a [`Caller`] only by naming the scope that is needed, so that no handler
//! can forget it. What the *account* may do is decided by rules and groups.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{
    problem::{Failure, Word},
    state::ApiState,
    token::Secret,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    model::{
        Account,
        account::{ADMINS, AUDITORS},
    },
    people::oidc::{Bearer, BearerError, Oidc},
    store::Token,
};

/// The use of a token is written down at most this often, milliseconds.
const USED_EVERY_MS: i64 = 60_000;

/// After this many seconds a provider that did not answer may be tried again.
const PROVIDER_DOWN_S: u64 = 5;
/// Who `by` is where a token names nobody.
pub(super) const NOBODY: &str = "unknown";

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// What a token may be used for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Scope { $($(#[$doc])* $variant,)* }

        impl Scope {
            /// Its word.
            pub(super) const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

scopes! {
    /// Accounts, tokens of others, webhooks.
    Admin = "admin",
    /// Decide on requests.
    Approve = "approve",
    /// Read the audit, and who could get in where.
    Audit = "audit",
    /// Change hosts.
    Hosts = "hosts",
    /// Policies and rollouts.
    Policy = "policy",
    /// See what the account may see.
    Read = "read",
    /// Submit requests, and change one's own.
    Request = "request",
    /// Change rules.
    Rules = "rules",
    /// Add signatures to grants.
    Signatures = "signatures",
}

/// Who gave a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Giver {
    /// This controller, which keeps it.
    Controller,
    /// The provider of sign-ins: nothing of it is kept.
    Provider {
        /// Whom it names there.
        sub: String,
    },
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    account: Account,
    token: Token,
    giver: Giver,
}

impl Caller {
    /// The account, if the token has this scope.
    ///
    /// # Errors
    /// `scope_missing`.
    pub(crate) fn with(&self, scope: Scope) -> Result<&Account, Failure> {
        if self.token.scopes.contains(scope.word()) {
            return Ok(&self.account);
        }
        let have = self.token.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("it needs the scope `{}`; the token has: {have}", scope.word());
        let failure = Failure::new(Word::ScopeMissing, detail);
        Err(match self.giver {
            Giver::Controller => failure,
            Giver::Provider { .. } => failure.next(
                "make a token of the controller with the scope, or have an administrator add it to \
                 `token_scopes` in [oidc]",
            ),
        })
    }

    /// The account, if it is an administrator's and the token has this scope.
    ///
    /// # Errors
    /// `scope_missing`, `not_admin`.
    pub(super) fn admin_with(&self, scope: Scope) -> Result<&Account, Failure> {
        let account = self.with(scope)?;
        admin(account)?;
        Ok(account)
    }

    /// The account, if it may read the whole audit.
    ///
    /// # Errors
    /// `scope_missing`, `not_auditor`.
    pub(super) fn auditor(&self) -> Result<&Account, Failure> {
        let account = self.with(Scope::Audit)?;
        auditor(account)?;
        Ok(account)
    }

    /// The token, without its text.
    pub(super) const fn token(&self) -> &Token {
        &self.token
    }

    /// Whether the token is one of the provider of sign-ins.
    pub(super) fn is_of_provider(&self) -> bool {
        matches!(self.giver, Giver::Provider { .. })
    }

    /// Whether the account is an administrator's.
    pub(super) fn is_admin(&self) -> bool {
        self.account.is_admin()
    }

    /// The groups of the account.
    pub(super) const fn groups(&self) -> &std::collections::BTreeSet<String> {
        &self.account.groups
    }

    /// The person who calls.
    pub(super) fn subject(&self) -> &str {
        &self.account.subject
    }

    /// Whose calls are counted and logged.
    pub(super) fn name(&self) -> &str {
        &self.account.name
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Failure::new(Word::TokenMissing, "the call has no token"))
    }
}

/// Refuses an account that is not an administrator's.
pub(crate) fn admin(account: &Account) -> Result<(), Failure> {
    if account.is_admin() {
        return Ok(());
    }
    let detail = format!("{} is not in the group `{ADMINS}`", account.name);
    Err(Failure::refused("not_admin", detail).next("ask an administrator"))
}

/// Refuses an account that may not read the whole audit.
pub(crate) fn auditor(account: &Account) -> Result<(), Failure> {
    if account.is_auditor() {
        return Ok(());
    }
    let detail = format!("{} is neither in `{ADMINS}` nor in `{AUDITORS}`", account.name);
    Err(Failure::refused("not_auditor", detail).next("ask an administrator"))
}

/// Name of the account that called, for the log.
#[derive(Clone, Debug)]
pub(crate) struct CalledBy(pub(crate) String);

/// The layer before every handler that needs a token.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let now_ms = clock::now_ms();
    let (caller, denied) = match of_headers(&state, request.headers(), now_ms).await {
        Ok(found) => found,
        Err(failure) => return failure.into_response(),
    };
    let checked = denied.map_or_else(|| state.limits().account(caller.name()), Err);
    let mut response = match checked {
        Ok(()) => {
            let is_kept = caller.giver == Giver::Controller;
            if is_kept && now_ms.saturating_sub(caller.token.used_ms) >= USED_EVERY_MS {
                note_use(&state, &caller.token.id, now_ms);
            }
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    };
    response.extensions_mut().insert(CalledBy(caller.name().to_owned()));
    if let Some(failure) = response.extensions().get::<Failure>() {
        let (token, account) = (caller.token.id.as_str(), &caller.account);
        let who = Refused { subject: &account.subject, account: &account.name, token };
        note_refusal(&state, &who, failure, now_ms).await;
    }
    response
}

/// Whether a caller's token and account are still good: for what lasts longer than a call.
///
/// # Errors
/// Why they are not.
pub(super) async fn still(
    state: &ApiState,
    caller: &Caller,
    now_ms: i64,
) -> Result<Caller, Failure> {
    let (caller, denied) = match &caller.giver {
        Giver::Controller => of_hash(state, &caller.token.hash, now_ms).await?,
        Giver::Provider { sub } => {
            let account = state.store().acting(&caller.account.name, now_ms).await?;
            // An account that is another person's now is not the one that the token names.
            let account = account.filter(|account| account.subject == caller.account.subject);
            let account = account.ok_or_else(|| {
                let detail = format!("there is no account for {} any more", caller.subject());
                Failure::new(Word::AccountMissing, detail)
            })?;
            if let Some(oidc) = state.people().oidc()
                && !oidc.is_still(state.store(), &account, sub).await?
            {
                let detail =
                    format!("the account {} is somebody else's at {}", account.name, oidc.name());
                return Err(Failure::new(Word::AccountMissing, detail));
            }
            judged(Caller { account, ..caller.clone() }, now_ms)
        }
    };
    denied.map_or(Ok(caller), Err)
}

async fn of_headers(
    state: &ApiState,
    headers: &HeaderMap,
    now_ms: i64,
) -> Result<(Caller, Option<Failure>), Failure> {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(Failure::new(Word::TokenMissing, "the header Authorization is missing"));
    };
    let text = header.to_str().ok().and_then(|text| text.split_once(' '));
    let text = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let text = text.map(|(_, text)| text.trim()).unwrap_or_default();
    if let Some(oidc) = state.people().oidc().filter(|oidc| oidc.takes(text)) {
        return of_provider(state, oidc, text, now_ms).await;
    }
    let Some(secret) = Secret::of_text(text) else {
        return Err(Failure::new(Word::TokenUnknown, "what was sent has not the form of a token"));
    };
    of_hash(state, &secret.hash(), now_ms).await
}

/// The caller, and why he may not call.
async fn of_hash(
    state: &ApiState,
    hash: &str,
    now_ms: i64,
) -> Result<(Caller, Option<Failure>), Failure> {
    let unknown = || Failure::new(Word::TokenUnknown, "no account has this token");
    let token = state.store().token(hash).await?.ok_or_else(unknown)?;
    let account = state.store().acting(&token.account, now_ms).await?.ok_or_else(unknown)?;
    Ok(judged(Caller { account, token, giver: Giver::Controller }, now_ms))
}

/// The caller of an access token of the provider, and why he may not call.
async fn of_provider(
    state: &ApiState,
    oidc: &Oidc,
    text: &str,
    now_ms: i64,
) -> Result<(Caller, Option<Failure>), Failure> {
    let bearer = match oidc.bearer(state.desk(), text, now_ms).await {
        Ok(bearer) => bearer,
        Err(BearerError::Down(why)) => {
            let failure = Failure::new(Word::Unavailable, why).retry_after(PROVIDER_DOWN_S);
            return Err(failure.next("try again, or send a token of the controller"));
        }
        Err(BearerError::NoAccount { subject, token, why }) => {
            let failure = Failure::new(Word::AccountMissing, why);
            let who = Refused { subject: &subject, account: "", token: &token };
            note_refusal(state, &who, &failure, now_ms).await;
            return Err(failure);
        }
        Err(BearerError::Refused(why)) => {
            let detail = format!("the access token of {} does not count: {why}", oidc.name());
            return Err(Failure::new(Word::TokenRefused, detail));
        }
        Err(BearerError::Store(error)) => return Err(error.into()),
    };
    let Bearer { account, id, sub, scopes, made_ms, ends_ms } = bearer;
    let token = Token {
        id,
        hash: String::new(),
        account: account.name.clone(),
        scopes,
        label: oidc.name().to_owned(),
        created_ms: made_ms,
        ends_ms,
        used_ms: now_ms,
        revoked_ms: 0,
    };
    Ok(judged(Caller { account, token, giver: Giver::Provider { sub } }, now_ms))
}

/// Why a caller may not call.
fn judged(caller: Caller, now_ms: i64) -> (Caller, Option<Failure>) {
    let Caller { account, token, .. } = &caller;
    let denied = if token.revoked_ms != 0 {
        Some(Failure::new(Word::TokenRevoked, format!("the token {} was revoked", token.id)))
    } else if token.ends_ms <= now_ms {
        let ended = jit_proto::WallTime(token.ends_ms);
        Some(Failure::new(Word::TokenEnded, format!("the token {} ended at {ended}", token.id)))
    } else if account.disabled {
        let detail = format!("the account {} is disabled", account.name);
        Some(Failure::new(Word::AccountDisabled, detail))
    } else {
        None
    };
    (caller, denied)
}

/// Beside the call: nobody waits for it.
fn note_use(state: &ApiState, token: &str, now_ms: i64) {
    let (store, token) = (state.store().clone(), token.to_owned());
    tokio::spawn(async move {
        if let Err(error) = store.token_used(&token, now_ms).await {
            tracing::warn!(%error, "the use of a token was not written down");
        }
    });
}

/// Who was refused by name.
struct Refused<'r> {
    /// The person; empty: nobody was named.
    subject: &'r str,
    /// Empty: he has none.
    account: &'r str,
    /// The token's id.
    token: &'r str,
}

/// Attempts that were refused by name are in the audit.
async fn note_refusal(state: &ApiState, who: &Refused<'_>, failure: &Failure, now_ms: i64) {
    let Refused { subject, account, token } = *who;
    let parts = failure.parts();
    // Who has no account is counted as a person: the provider may give him any number of tokens.
    let counted = if account.is_empty() { subject } else { token };
    if parts.recorded
        || !matches!(parts.status.as_u16(), 401 | 403)
        || !state.limits().records(counted, &parts.word)
    {
        return;
    }
    let fields = json!({
        "account": account,
        "token": token,
        "word": parts.word,
        "detail": parts.detail,
    });
    let by = if subject.is_empty() { NOBODY } else { subject };
    let record = Record::new(Code::Refused, "", by, fields);
    let written = async {
        let mut tx = state.store().begin().await?;
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await
    };
    if let Err(error) = written.await {
        tracing::warn!(%error, "a refusal was not recorded");
    }
}
