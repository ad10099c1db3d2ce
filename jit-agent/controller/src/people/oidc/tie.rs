//! Whether an account is one person's of the provider, and only his: the same for a sign-in, for an
//! access token, and for what lasts longer than a call.

use sqlx::AnyConnection;

use super::{Refusal, settings::Settings};
use crate::store::{self, StoreError, oidc::Tie};

/// A person of the provider, as he stands here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'p> {
    /// The claim `sub`.
    pub(super) sub: &'p str,
    /// The subject of his accounts.
    pub(super) subject: &'p str,
}

/// Whether an account is bound to this person already; without an account, whether he may get one.
///
/// # Errors
/// [`Refusal::OtherPerson`]: it is bound to somebody else, or he to an account of another subject.
/// He would be two persons, and could agree to what he asked for himself.
pub(super) async fn is_bound(
    on: &mut AnyConnection,
    settings: &Settings,
    who: Who<'_>,
    account: Option<&str>,
) -> Result<bool, Refusal> {
    let (issuer, provider) = (&settings.issuer_text, &settings.name);
    let Who { sub, subject } = who;
    let other = |account: &str, why| Refusal::OtherPerson {
        subject: subject.to_owned(),
        account: account.to_owned(),
        why,
    };
    match store::oidc::tie(on, (issuer, sub), subject, account).await? {
        Tie::Bound => Ok(true),
        Tie::Free => Ok(false),
        Tie::Elsewhere { account, subject: before } => {
            let why = format!(
                "{provider} names you {subject} now, and the account {account} is yours as {before}; an \
                 administrator lets it follow: jitctl accounts set {account} --subject {subject}"
            );
            Err(other(&account, why))
        }
        Tie::Other => {
            let name = account.unwrap_or_default();
            let why = format!(
                "the account {name} belongs to somebody else at {provider}, or to another provider (sub); if \
                 it is the same person, an administrator binds it anew: jitctl accounts disable {name}, then \
                 jitctl accounts enable {name}"
            );
            Err(other(name, why))
        }
    }
}

/// Whether an account is still not somebody else's.
///
/// # Errors
/// Those of the database.
pub(super) async fn is_still(
    on: &mut AnyConnection,
    settings: &Settings,
    who: Who<'_>,
    account: &str,
) -> Result<bool, StoreError> {
    let issuer = &settings.issuer_text;
    let tie = store::oidc::tie(on, (issuer, who.sub), who.subject, Some(account)).await?;
    Ok(matches!(tie, Tie::Bound | Tie::Free))
}
