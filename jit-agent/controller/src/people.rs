//! Who a browser is: sign-in with a password or a passkey, sessions, and how often it may be tried.
//!
//! Nothing here says what an account may do: rules and groups do, anew at each call. An unknown account, a
//! disabled one, one without a password and a wrong password get the same answer after the same work.

pub mod passkey;
pub mod password;
pub mod session;
mod throttle;

use std::{net::IpAddr, time::Duration};

use jit_proto::webauthn::RelyingParty;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::{
    passkey::{Asserted, PasskeyError, Purpose},
    password::{Passwords, Unchecked},
    session::{Secret, SignedIn},
    throttle::Throttle,
};
use crate::{
    audit::{self, Code, Record},
    desk::Desk,
    model::Account,
    store::{Passkey, StoreError, people},
};

/// Who `by` is where nobody is known yet.
const NOBODY: &str = "unknown";

/// Checks who people are. One for the whole process: its limits count for all.
pub struct People {
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
    #[error("it was tried too often; wait {} seconds", .0.as_secs().saturating_add(1))]
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
        Self { passwords: Passwords::new(), throttle: Throttle::new() }
    }
}

impl People {
    /// Signs a browser in: a new session each time, whatever the browser had before.
    ///
    /// # Errors
    /// Name and password do not fit, or it was tried too often. Both are in the audit, once a minute for
    /// each name and network.
    pub async fn sign_in(
        &self,
        desk: &Desk,
        name: &str,
        password: Zeroizing<String>,
        from: IpAddr,
        now_ms: i64,
    ) -> Result<Secret, Refused> {
        if let Err(wait) = self.throttle.attempt(name, from) {
            self.refused(desk, name, from, "too_many", now_ms).await?;
            return Err(Refused::TooMany(wait));
        }
        let found = self.check(desk, name, password).await?;
        let Some(account) = found else {
            self.refused(desk, name, from, "wrong", now_ms).await?;
            return Err(Refused::Wrong);
        };
        let fields = json!({ "account": account.name, "address": from, "way": "password" });
        Ok(begin(desk, &account, fields, now_ms).await?)
    }

    /// Signs a browser in with a passkey, which says by itself whose it is. `sent`: what the browser sent, as
    /// JSON.
    ///
    /// # Errors
    /// The passkey does not count, or it was tried too often. Both are in the audit, once a minute for
    /// each account and network.
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
            "account": account.name, "address": from, "way": "passkey", "key": passkey.key_id,
        });
        Ok(begin(desk, &account, fields, now_ms).await?)
    }

    /// One attempt of somebody who has named nobody.
    ///
    /// # Errors
    /// There were too many from this network.
    pub async fn anybody(&self, desk: &Desk, from: IpAddr, now_ms: i64) -> Result<(), Refused> {
        let Err(wait) = self.throttle.attempt_unnamed(from) else { return Ok(()) };
        self.refused(desk, "", from, "too_many", now_ms).await?;
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
        self.refused(desk, &signed_in.account().name, from, error.word(), now_ms).await?;
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
        self.refused(desk, &name, from, error.word(), now_ms).await?;
        Err(error.into())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sign_out(
        &self,
        desk: &Desk,
        session: &SignedIn,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut tx = desk.store().begin().await?;
        if people::end_session(&mut tx, session.hash()).await? {
            let account = session.account();
            let fields = json!({ "account": account.name });
            let record = Record::new(Code::SignedOut, "", &account.subject, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            tx.commit().await?;
            desk.changed();
        }
        Ok(())
    }

    /// The account, if it may sign in and this is its password. It takes the same work in every case.
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
        self.refused(desk, &account.name, from, "wrong", now_ms).await?;
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

    /// A refusal in the audit. The name only if there is such an account: people type passwords there.
    async fn refused(
        &self,
        desk: &Desk,
        name: &str,
        from: IpAddr,
        why: &str,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        if !self.throttle.records(name, from) {
            return Ok(());
        }
        let account = desk.store().account(name).await?;
        let by = account.as_ref().map_or(NOBODY, |account| &account.subject);
        let name = account.as_ref().map_or("", |account| &account.name);
        let fields = json!({ "account": name, "address": from, "why": why });
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
    let mut tx = desk.store().begin().await?;
    let secret = session::begin(&mut tx, &account.name, now_ms).await?;
    let record = Record::new(Code::SignedIn, "", &account.subject, fields);
    audit::append(&mut tx, now_ms, &record).await?;
    tx.commit().await?;
    desk.changed();
    Ok(secret)
}
