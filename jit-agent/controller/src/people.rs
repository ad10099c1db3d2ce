//! Who a browser is: sign-in with a password, with a passkey or at a provider, sessions, and how
//! often it may be tried.
//!
//! Nothing here says what an account may do: rules and groups do, anew at each call. An unknown
//! account, a disabled one, one without a password and a wrong password get the same answer after
//! the same work.

mod cookie;
pub mod oidc;
pub mod passkey;
pub mod password;
pub mod session;
mod throttle;

use std::{net::IpAddr, time::Duration};

use jit_proto::{webauthn::RelyingParty, words::counted};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use self::{
    oidc::{Answer, Begun, Oidc, Refusal, WayOut},
    passkey::{Asserted, PasskeyError, Purpose},
    password::{Passwords, Unchecked},
    session::{Secret, SignedIn},
    throttle::Throttle,
};
use crate::{
    audit::{self, Code, Record},
    desk::Desk,
    model::Account,
    store::{self, Passkey, StoreError, again, people},
};

/// Who `by` is where nobody is known yet.
const NOBODY: &str = "unknown";
/// Ways to sign in, as the audit names them.
const PASSKEY: &str = "passkey";
const PASSWORD: &str = "password";

/// Checks who people are. One for the whole process: its limits count for all.
pub struct People {
    oidc: Option<Oidc>,
    passwords: Passwords,
    throttle: Throttle,
}

/// Why somebody is not signed in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Name and password do not fit. It says no more than that.
    #[error("the name or the password is wrong")]
    Wrong,
    /// It was tried too often.
    #[error("it was tried too often; wait {}", counted(.0.as_secs().saturating_add(1), "second"))]
    TooMany(Duration),
    /// The passkey does not count.
    #[error(transparent)]
    Passkey(PasskeyError),
    /// Too many sign in at once.
    #[error(transparent)]
    Busy(#[from] Unchecked),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PasskeyError> for Refused {
    fn from(error: PasskeyError) -> Self {
        match error {
            PasskeyError::Store(error) => Self::Store(error),
            other => Self::Passkey(other),
        }
    }
}

impl Default for People {
    fn default() -> Self {
        Self::new(None)
    }
}

impl People {
    /// With a provider, people can sign in there too.
    pub fn new(oidc: Option<Oidc>) -> Self {
        Self { oidc, passwords: Passwords::new(), throttle: Throttle::new() }
    }

    /// The provider; `None`: there are only local accounts.
    pub const fn oidc(&self) -> Option<&Oidc> {
        self.oidc.as_ref()
    }

    /// Signs a browser in: a new session each time, whatever the browser had before.
    ///
    /// # Errors
    /// Name and password do not fit, or it was tried too often. Both are in the audit, once a
    /// minute for each name and network.
    pub async fn sign_in(
        &self,
        desk: &Desk,
        name: &str,
        password: Zeroizing<String>,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<Secret, Refused> {
        if let Err(wait) = self.throttle.attempt(name, from) {
            self.refused(desk, name, from, (PASSWORD, "too_many"), now_ms).await?;
            return Err(Refused::TooMany(wait));
        }
        let found = self.check(desk, name, password).await?;
        let Some(account) = found else {
            self.refused(desk, name, from, (PASSWORD, "wrong"), now_ms).await?;
            return Err(Refused::Wrong);
        };
        let fields = json!({ "account": account.name, "address": from, "way": PASSWORD });
        Ok(begin(desk, &account, fields, now_ms).await?)
    }

    /// Signs a browser in with a passkey, which says by itself whose it is. `sent`: what the
    /// browser sent, as JSON.
    ///
    /// # Errors
    /// The passkey does not count, or it was tried too often. Both are in the audit, once a minute
    /// for each account and network.
    pub async fn sign_in_by_passkey(
        &self,
        desk: &Desk,
        party: &RelyingParty,
        sent: &str,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<Secret, Refused> {
        self.anybody(desk, from, now_ms).await?;
        let (account, passkey) =
            self.prove(desk, party, (Purpose::SignIn, ""), sent, from, now_ms).await?;
        let fields = json!({
            "account": account.name, "address": from, "way": PASSKEY, "key": passkey.key_id,
        });
        Ok(begin(desk, &account, fields, now_ms).await?)
    }

    /// One attempt of somebody who has named nobody, with a passkey.
    ///
    /// # Errors
    /// There were too many from this network.
    pub async fn anybody(&self, desk: &Desk, from: IpAddr, now_ms: i64) -> Result<(), Refused> {
        let Err(wait) = self.throttle.attempt_from(from) else { return Ok(()) };
        self.refused(desk, "", from, (PASSKEY, "too_many"), now_ms).await?;
        Err(Refused::TooMany(wait))
    }

    /// Whether somebody who has signed in has one of his passkeys with him now.
    ///
    /// # Errors
    /// The passkey does not count, or is another's.
    pub async fn confirm_by_passkey(
        &self,
        desk: &Desk,
        party: &RelyingParty,
        signed_in: &SignedIn,
        sent: &str,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<(), Refused> {
        let purpose = (Purpose::Confirm, signed_in.hash());
        let (account, _) = self.prove(desk, party, purpose, sent, from, now_ms).await?;
        if account.name == signed_in.account().name {
            return Ok(());
        }
        let error = PasskeyError::NotYours;
        let why = (PASSKEY, error.word());
        self.refused(desk, &signed_in.account().name, from, why, now_ms).await?;
        Err(error.into())
    }

    /// Whose passkey has signed a challenge. Refusals are in the audit.
    async fn prove(
        &self,
        desk: &Desk,
        party: &RelyingParty,
        (purpose, owner): (Purpose, &str),
        sent: &str,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<(Account, Passkey), Refused> {
        let asserted = Asserted::of_json(sent).map_err(PasskeyError::Sent)?;
        let of = passkey::of(desk.store(), party, &asserted).await?;
        let name = of.map(|passkey| passkey.account).unwrap_or_default();
        let error = match passkey::prove(desk, party, purpose, owner, &asserted, now_ms).await {
            Ok(passkey) => {
                let account = desk.store().account(&passkey.account).await?;
                match account.filter(|account| !account.disabled) {
                    Some(account) => return Ok((account, passkey)),
                    None => PasskeyError::Unknown,
                }
            }
            Err(error) => error,
        };
        self.refused(desk, &name, from, (PASSKEY, error.word()), now_ms).await?;
        Err(error.into())
    }

    /// Signs a browser in that comes back from the provider. `begun`: what its cookie says.
    ///
    /// # Errors
    /// The provider does not prove who it is, or this person has no account. It is in the audit,
    /// once a minute for each network.
    pub async fn sign_in_at_provider(
        &self,
        desk: &Desk,
        oidc: &Oidc,
        (begun, answer): (Option<&Begun>, &Answer),
        from: IpAddr,
        now_ms: i64,
    ) -> Result<Secret, Refusal> {
        self.throttle.attempt_from(from).map_err(Refusal::TooMany)?;
        let signed_in = async {
            let (person, token) = oidc.person(desk, begun, answer, now_ms).await?;
            session::forget(desk.store(), now_ms).await?;
            let said = (&person, token.as_str());
            again(|| oidc::arrive(oidc.settings(), desk, said, from, now_ms)).await
        };
        let refusal = match signed_in.await {
            Ok(secret) => return Ok(secret),
            Err(refusal @ Refusal::Store(_)) => return Err(refusal),
            Err(refusal) => refusal,
        };
        if self.throttle.records("", from) {
            let (subject, account) = refusal.who();
            let by = if subject.is_empty() { NOBODY } else { subject };
            let fields = json!({
                "account": account, "address": from, "way": "oidc", "why": refusal.word(),
            });
            let mut tx = desk.store().begin().await?;
            let record = Record::new(Code::SignInRefused, "", by, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            tx.commit().await?;
            desk.changed();
        }
        Err(refusal)
    }

    /// Ends the sessions that the provider names (OpenID Connect Back-Channel Logout 1.0). `token`:
    /// what it has signed. A provider may end any number at once: only what it has not signed is
    /// counted.
    ///
    /// # Errors
    /// It is not the provider's, or too old.
    pub async fn end_by_provider(
        &self,
        desk: &Desk,
        oidc: &Oidc,
        token: &str,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let said = match oidc.farewell(token, now_ms).await {
            Ok(said) => said,
            Err(refusal @ Refusal::Token { .. }) => {
                self.throttle.attempt_from(from).map_err(Refusal::TooMany)?;
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let id = hex::encode(Sha256::digest(format!("logout\0{}", said.jti)));
        // As long as it counts, with room for the provider's clock.
        let ends_ms = now_ms.saturating_add(2 * 1000 * oidc::OLDEST_CALL_S);
        session::forget(desk.store(), now_ms).await?;
        let end = || async {
            let mut tx = desk.store().begin().await?;
            if !store::oidc::once(&mut tx, &id, ends_ms, now_ms).await? {
                return Ok(());
            }
            let who = (oidc.settings().issuer_text.as_str(), said.sub.as_str());
            let subject = oidc.settings().subject_of(&said.sub);
            let ended = store::oidc::end_sessions(&mut tx, who, subject, &said.sid).await?;
            for account in ended {
                let fields = json!({ "account": account, "way": "oidc" });
                let record = Record::new(Code::SignedOut, "", "oidc", fields);
                audit::append(&mut tx, now_ms, &record).await?;
            }
            tx.commit().await
        };
        again(end).await?;
        desk.changed();
        Ok(())
    }

    /// Ends a session. Returns where to sign out at the provider, if it began there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sign_out(
        &self,
        desk: &Desk,
        session: &SignedIn,
        now_ms: i64,
    ) -> Result<Option<WayOut>, StoreError> {
        let began = desk.store().provider_session(session.hash()).await?;
        let mut tx = desk.store().begin().await?;
        if people::end_session(&mut tx, session.hash()).await? {
            let account = session.account();
            let fields = json!({ "account": account.name, "way": "page" });
            let record = Record::new(Code::SignedOut, "", &account.subject, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            tx.commit().await?;
            desk.changed();
        }
        let (Some(began), Some(oidc)) = (began, &self.oidc) else { return Ok(None) };
        let hint = oidc::open_hint(session.form_key(), &began.hint);
        Ok(oidc.way_out(hint.as_deref()).await)
    }

    /// The account, if it may sign in and this is its password. It takes the same work in every
    /// case.
    ///
    /// # Errors
    /// Too many passwords are checked now; or the database.
    async fn check(
        &self,
        desk: &Desk,
        name: &str,
        password: Zeroizing<String>,
    ) -> Result<Option<Account>, Refused> {
        let account = desk.store().account(name).await?;
        let stored = desk.store().password(name).await?;
        let fits = self.passwords.fits(password, stored).await?;
        Ok(account.filter(|account| fits && !account.disabled))
    }

    /// Whether this is the password of an account, which asks for something that needs it again.
    ///
    /// # Errors
    /// It is not, or it was tried too often.
    pub async fn confirm(
        &self,
        desk: &Desk,
        account: &Account,
        password: Zeroizing<String>,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<(), Refused> {
        if let Err(wait) = self.throttle.attempt(&account.name, from) {
            return Err(Refused::TooMany(wait));
        }
        if self.check(desk, &account.name, password).await?.is_some() {
            return Ok(());
        }
        self.refused(desk, &account.name, from, (PASSWORD, "wrong"), now_ms).await?;
        Err(Refused::Wrong)
    }

    /// Gives an account a password. All of its sessions end.
    ///
    /// # Errors
    /// Too many passwords are hashed now; or the database.
    pub async fn set_password(
        &self,
        desk: &Desk,
        account: &Account,
        password: Zeroizing<String>,
        by: &str,
        now_ms: i64,
    ) -> Result<(), Refused> {
        let hash = self.passwords.hash(password).await?;
        let mut tx = desk.store().begin().await?;
        people::set_password(&mut tx, &account.name, &hash, by, now_ms).await?;
        people::end_sessions(&mut tx, &account.name).await?;
        let record = Record::new(Code::PasswordSet, "", by, json!({ "account": account.name }));
        audit::append(&mut tx, now_ms, &record).await?;
        tx.commit().await?;
        desk.changed();
        Ok(())
    }

    /// A refusal in the audit. The name only if there is such an account: people type passwords
    /// there.
    async fn refused(
        &self,
        desk: &Desk,
        name: &str,
        from: IpAddr,
        (way, why): (&str, &str),
        now_ms: i64,
    ) -> Result<(), StoreError> {
        if !self.throttle.records(name, from) {
            return Ok(());
        }
        let account = desk.store().account(name).await?;
        let by = account.as_ref().map_or(NOBODY, |account| &account.subject);
        let name = account.as_ref().map_or("", |account| &account.name);
        let fields = json!({ "account": name, "address": from, "way": way, "why": why });
        let mut tx = desk.store().begin().await?;
        audit::append(&mut tx, now_ms, &Record::new(Code::SignInRefused, "", by, fields)).await?;
        tx.commit().await?;
        desk.changed();
        Ok(())
    }
}

/// Begins a session of an account, with its record of these fields.
async fn begin(
    desk: &Desk,
    account: &Account,
    fields: Value,
    now_ms: i64,
) -> Result<Secret, StoreError> {
    session::forget(desk.store(), now_ms).await?;
    let record = Record::new(Code::SignedIn, "", &account.subject, fields);
    let secret = again(|| async {
        let mut tx = desk.store().begin().await?;
        let secret = session::begin(&mut tx, &account.name, now_ms).await?;
        audit::append(&mut tx, now_ms, &record).await?;
        tx.commit().await?;
        Ok::<_, StoreError>(secret)
    });
    let secret = secret.await?;
    desk.changed();
    Ok(secret)
}
