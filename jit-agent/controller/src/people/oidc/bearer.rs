//! Programs that call the API with an access token of the provider: as which account, and for what.
//!
//! A token makes no account and gives no group: both are a matter of the person's own sign-in.

use std::collections::BTreeSet;

use super::{
    Oidc, Refusal, access, arrive,
    person::{self, Person},
    tie::{self, Who},
};
use crate::{
    desk::Desk,
    model::Account,
    store::{self, Store, StoreError, accounts},
};

/// What an access token gives.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// For whom it calls. It may be disabled.
    pub account: Account,
    /// The token's id in the audit: `oidc:` and its `jti`.
    pub id: String,
    /// Whom it names: the claim `sub`.
    pub sub: String,
    /// What the configuration lets such tokens do.
    pub scopes: BTreeSet<String>,
    /// When it was made, milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// From when on it does not count.
    pub ends_ms: i64,
}

/// Why an access token gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The provider does not answer, or not as it should.
    #[error("{0}")]
    Down(String),
    /// It counts, and whom it names has no account here, or several.
    #[error("{why}")]
    NoAccount {
        /// Whom it names; empty: nobody.
        subject: String,
        /// The token's id in the audit.
        token: String,
        /// In words.
        why: String,
    },
    /// It does not count.
    #[error("{0}")]
    Refused(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Oidc {
    /// Whether a text is looked at as an access token: tokens of the provider are wanted, and it
    /// has three parts as signed ones have (RFC 7515 section 7.1).
    pub(crate) fn takes(&self, text: &str) -> bool {
        self.settings.programs.is_some() && text.split('.').count() == 3
    }

    /// What an access token gives its caller.
    ///
    /// # Errors
    /// It does not count, or names nobody who has an account.
    pub(crate) async fn bearer(
        &self,
        desk: &Desk,
        text: &str,
        now_ms: i64,
    ) -> Result<Bearer, BearerError> {
        let Some(programs) = &self.settings.programs else {
            return Err(BearerError::Refused("no token of a provider counts here".into()));
        };
        let down = |why: Refusal| BearerError::Down(why.to_string());
        let provider = self.provider().await.map_err(down)?;
        let issuer = &self.settings.issuer_text;
        let read = self.read(&provider, now_ms, |keys, now| {
            access::access(text, keys, issuer, &programs.audience, now)
        });
        let access = read.await.map_err(down)?;
        let access = access.map_err(|why| BearerError::Refused(why.to_string()))?;
        let no_account = |subject: &str, why: String| BearerError::NoAccount {
            subject: subject.to_owned(),
            token: access.id.clone(),
            why,
        };
        let person = person::person(&self.settings, &access.claims);
        let person = person.map_err(|why| no_account("", why))?;
        let subject = &person.subject;
        let own = desk.store().acting_of(subject, now_ms).await?;
        let account = person::which(own, &person).map_err(|why| no_account(subject, why))?;
        let account = account.ok_or_else(|| {
            no_account(subject, format!("there is no account for {subject} here"))
        })?;
        let bound = async {
            let mut on = desk.store().reading().await?;
            let account_name = Some(account.name.as_str());
            if tie::is_bound(&mut on, &self.settings, person.who(), account_name).await? {
                return Ok(());
            }
            drop(on);
            match account.disabled {
                true => Ok(()),
                false => self.bind(desk, &person, &account.name, now_ms).await,
            }
        };
        bound.await.map_err(|refusal| match refusal {
            Refusal::Store(error) => BearerError::Store(error),
            refusal => no_account(subject, refusal.to_string()),
        })?;
        Ok(Bearer {
            account,
            id: access.id,
            sub: person.sub,
            scopes: programs.scopes.clone(),
            made_ms: access.made_s.saturating_mul(1000),
            ends_ms: access.ends_s.saturating_mul(1000),
        })
    }

    /// Binds an account at its first token: whoever has the address later is somebody else.
    async fn bind(
        &self,
        desk: &Desk,
        person: &Person,
        account: &str,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let mut tx = desk.store().begin().await?;
        arrive::lock_person(&mut tx, &self.settings, &person.sub, now_ms).await?;
        let own = accounts::of_person(&mut tx, &person.subject).await?;
        let is_free = !tie::is_bound(&mut tx, &self.settings, person.who(), Some(account)).await?;
        // What was changed meanwhile is looked at by the next call.
        if is_free && own.iter().any(|one| one.name == account && !one.disabled) {
            let who = (self.settings.issuer_text.as_str(), person.sub.as_str());
            store::oidc::bind(&mut tx, account, who).await?;
            tx.commit().await?;
            tracing::info!(
                account,
                sub = person.sub,
                "an account is bound to who sent its first token"
            );
        }
        Ok(())
    }

    /// Whether the account of a token is still not somebody else's. `sub`: whom the token names.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn is_still(
        &self,
        store: &Store,
        account: &Account,
        sub: &str,
    ) -> Result<bool, StoreError> {
        let mut on = store.reading().await?;
        let who = Who { sub, subject: &account.subject };
        tie::is_still(&mut on, &self.settings, who, &account.name).await
    }
}
