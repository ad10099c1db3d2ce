//! A person whom the provider has named begins a session: with which account, and which groups.

use std::net::IpAddr;

use serde_json::json;

use super::{
    Refusal, hint,
    person::{self, Person},
    settings::Settings,
    tie,
};
use crate::{
    audit::{self, Code, Record},
    desk::Desk,
    model::Account,
    people::session::{self, Secret},
    store::{self, Arrival, ProviderSession, StoreError, Tx, accounts},
};

/// Who changes groups, in the audit.
const PROVIDER: &str = "oidc";
/// So long the row stays by which sign-ins of one person wait for each other, milliseconds.
const PERSON_MS: i64 = 3_600_000;

/// Begins a session of a person. `token`: the ID token.
pub(in crate::people) async fn arrive(
    settings: &Settings,
    desk: &Desk,
    (person, token): (&Person, &str),
    from: IpAddr,
    now_ms: i64,
) -> Result<Secret, Refusal> {
    let mut tx = desk.store().begin().await?;
    lock_person(&mut tx, settings, &person.sub, now_ms).await?;
    let own = accounts::of_person(&mut tx, &person.subject).await?;
    let found = person::which(own, person);
    let found = found.map_err(|why| no_account(person, why))?;
    tie::is_bound(&mut tx, settings, person.who(), None).await?;
    let (account, change) = match found {
        Some(account) => follow(&mut tx, settings, account, person).await?,
        None if settings.create && person.is_expected => create(&mut tx, person, now_ms).await?,
        None => {
            let subject = &person.subject;
            let not_made = match settings.create {
                true => {
                    " and none is made: no group of [oidc.roles] is among the provider's groups, and what \
                     `require` in [oidc] asks for is not among its claims"
                }
                false => "",
            };
            let why = format!(
                "there is no account for {subject} here{not_made}; an administrator makes one: jitctl \
                 accounts set NAME --subject {subject}"
            );
            return Err(no_account(person, why));
        }
    };
    bind(&mut tx, settings, &account, person, now_ms).await?;
    let secret = session::begin(&mut tx, &account.name, now_ms).await?;
    let began = ProviderSession {
        session: secret.hash(),
        subject: person.sub.clone(),
        sid: person.sid.clone(),
        hint: hint::seal(&secret.form_key(), token),
    };
    store::oidc::add(&mut tx, &began).await?;
    let fields =
        json!({ "account": account.name, "address": from, "way": PROVIDER, "sub": person.sub });
    // The audit's tip is locked last, as by all others: of two changes, none waits for the other.
    let signed_in = Record::new(Code::SignedIn, "", &account.subject, fields);
    for record in change.iter().chain([&signed_in]) {
        audit::append(&mut tx, now_ms, record).await?;
    }
    tx.commit().await?;
    desk.changed();
    Ok(secret)
}

/// The groups of an account follow what the provider says.
async fn follow(
    tx: &mut Tx,
    settings: &Settings,
    account: Account,
    person: &Person,
) -> Result<(Account, Option<Record>), Refusal> {
    let mut follow = settings.given();
    // Also what an earlier configuration gave.
    let before = store::oidc::last(tx, &account.name).await?;
    follow.extend(before.unwrap_or_default().groups);
    let groups = person::groups(&follow, &account, person);
    let disabled =
        || Refusal::Disabled { subject: account.subject.clone(), account: account.name.clone() };
    if account.disabled {
        return Err(disabled());
    }
    if groups == account.groups {
        return Ok((account, None));
    }
    // Only the groups: what an administrator changes meanwhile stays.
    if !accounts::set_groups(tx, &account.name, &groups).await? {
        return Err(disabled());
    }
    let account = Account { groups, ..account };
    let record = changed(&account, false);
    Ok((account, Some(record)))
}

/// Two sign-ins of one person, with two subjects, come one after the other: the second one sees
/// what the first has bound.
pub(super) async fn lock_person(
    tx: &mut Tx,
    settings: &Settings,
    sub: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let until_ms = now_ms.saturating_add(PERSON_MS);
    store::oidc::lock_person(tx, (&settings.issuer_text, sub), until_ms).await
}

/// An account is one person's at the provider from its first sign-in on, whoever has the address
/// later.
async fn bind(
    tx: &mut Tx,
    settings: &Settings,
    account: &Account,
    person: &Person,
    now_ms: i64,
) -> Result<(), Refusal> {
    tie::is_bound(tx, settings, person.who(), Some(&account.name)).await?;
    let groups_for = i64::try_from(settings.groups_for.as_millis()).unwrap_or(i64::MAX);
    let arrival = Arrival {
        issuer: settings.issuer_text.clone(),
        sub: person.sub.clone(),
        groups: settings.given(),
        until_ms: now_ms.saturating_add(groups_for),
    };
    Ok(store::oidc::arrived(tx, &account.name, &arrival).await?)
}

/// Makes an account of a name that nobody has.
async fn create(
    tx: &mut Tx,
    person: &Person,
    now_ms: i64,
) -> Result<(Account, Option<Record>), Refusal> {
    for name in [&person.name, &person.subject] {
        let account = Account {
            name: name.clone(),
            subject: person.subject.clone(),
            groups: person.groups.clone(),
            disabled: false,
            created_ms: now_ms,
        };
        if accounts::add(tx, &account).await? {
            let record = changed(&account, true);
            return Ok((account, Some(record)));
        }
        // Another browser of the same person may have been first.
        let own = accounts::of_person(tx, &person.subject).await?;
        if let Some(own) = own.into_iter().find(|one| one.name == *name && !one.disabled) {
            return Ok((own, None));
        }
    }
    let why = format!(
        "the account {} is somebody else's; an administrator makes one of another name: jitctl accounts \
         set NAME --subject {}",
        person.name, person.subject
    );
    Err(no_account(person, why))
}

/// What the audit says of an account that is new, or has other groups.
fn changed(account: &Account, is_new: bool) -> Record {
    let fields = json!({
        "by_account": "", "account": account.name, "subject": account.subject,
        "groups": account.groups, "disabled": false, "is_new": is_new,
    });
    Record::new(Code::AccountChanged, "", PROVIDER, fields)
}

fn no_account(person: &Person, why: String) -> Refusal {
    Refusal::NoAccount { subject: person.subject.clone(), why }
}
