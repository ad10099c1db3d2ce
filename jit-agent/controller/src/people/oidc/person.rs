//! Which person the provider's claims name, and which groups they give here. Pure.

use std::collections::BTreeSet;

use jit_proto::text::{MAX_NAME_BYTES, check};
use serde_json::Value;

use super::{
    settings::{Settings, SubjectClaim},
    tie::Who,
    token::Claims,
};
use crate::model::Account;

/// The claims of an address, which belong together.
const EMAIL: [&str; 2] = ["email", "email_verified"];

/// A person, as the provider names him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::people) struct Person {
    /// Who it is here: the subject of his accounts.
    pub(super) subject: String,
    /// The name for a new account.
    pub(super) name: String,
    /// The groups here that the provider's groups give.
    pub(super) groups: BTreeSet<String>,
    /// Whether an account may be made for him: a role gives him a group, or he has the claims for
    /// it.
    pub(super) is_expected: bool,
    /// Who it is there: the claim `sub`.
    pub(super) sub: String,
    /// The provider's name for its session; empty: it gave none.
    pub(super) sid: String,
}

impl Person {
    /// Who it is, there and here.
    pub(super) fn who(&self) -> Who<'_> {
        Who { sub: &self.sub, subject: &self.subject }
    }
}

/// Whether claims that are needed are not there yet.
pub(super) fn lacks(settings: &Settings, claims: &Claims) -> bool {
    let missing = |name: &str| value(claims, name).is_none();
    (settings.subject == SubjectClaim::Email && EMAIL.into_iter().any(missing))
        || settings.require.keys().any(|claim| missing(claim))
        || (!settings.roles.is_empty() && missing(&settings.groups))
        || settings.account.as_deref().is_some_and(missing)
}

/// Adds claims of another answer to those that are there. The address and whether it is verified
/// are both of one of them: what says that another address is verified says nothing of this one.
pub(super) fn merge(claims: &mut Claims, mut more: Claims) {
    let whole = EMAIL.iter().all(|name| claims.contains_key(*name));
    let other = if whole || !more.contains_key("email") { &mut more } else { &mut *claims };
    other.retain(|name, _| !EMAIL.contains(&name.as_str()));
    for (name, value) in more {
        claims.entry(name).or_insert(value);
    }
}

/// The person that claims name.
///
/// # Errors
/// They name none, in words.
pub(super) fn person(settings: &Settings, claims: &Claims) -> Result<Person, String> {
    let sub = text(claims, "sub").ok_or("the provider does not say who it is (claim sub)")?;
    let subject = match settings.subject {
        SubjectClaim::Sub => sub,
        SubjectClaim::Email => email(claims)?,
    };
    named("subject", subject)?;
    let name = settings.account.as_deref().and_then(|claim| text(claims, claim)).unwrap_or(subject);
    named("account", name)?;
    let theirs = texts(value(claims, &settings.groups));
    let roles = settings.roles.iter().filter(|(group, _)| theirs.contains(group.as_str()));
    let groups: BTreeSet<_> = roles.flat_map(|(_, ours)| ours.iter().cloned()).collect();
    let mut required = settings.require.iter();
    let has_all = required.len() > 0
        && required.all(|(claim, wanted)| texts(value(claims, claim)).contains(wanted.as_str()));
    Ok(Person {
        is_expected: has_all || !groups.is_empty(),
        subject: subject.to_owned(),
        name: name.to_owned(),
        groups,
        sub: sub.to_owned(),
        sid: text(claims, "sid").unwrap_or_default().to_owned(),
    })
}

/// The groups of an account from now on: those that `follow` the provider are what it says, others
/// stay.
pub(super) fn groups(
    follow: &BTreeSet<String>,
    before: &Account,
    person: &Person,
) -> BTreeSet<String> {
    let stay = before.groups.difference(follow).cloned();
    stay.chain(person.groups.iter().cloned()).collect()
}

/// Which of a person's accounts signs in: the only one, or the one that is named as the provider
/// says.
///
/// # Errors
/// It is not clear, in words.
pub(super) fn which(
    mut accounts: Vec<Account>,
    person: &Person,
) -> Result<Option<Account>, String> {
    if accounts.len() <= 1 {
        return Ok(accounts.pop());
    }
    let names: Vec<_> = accounts.iter().map(|account| account.name.clone()).collect();
    let named = accounts.into_iter().find(|account| account.name == person.name);
    named.map(Some).ok_or_else(|| {
        format!(
            "{} has the accounts {}, and the provider does not name one of them: an administrator sets \
             `account` in [oidc] to a claim that does",
            person.subject,
            names.join(", ")
        )
    })
}

/// The address, if it is known to be the person's.
fn email(claims: &Claims) -> Result<&str, String> {
    let email = text(claims, "email").ok_or(
        "the provider does not say the address of this person (claim email); it is asked for by the \
         scope `email`",
    )?;
    // As a text in Amazon's service.
    let verified = claims.get("email_verified");
    match verified.is_some_and(|value| *value == Value::Bool(true) || *value == "true") {
        true => Ok(email),
        false => Err(format!(
            "the provider has not verified that the address {email} is this person's (claim \
             email_verified)"
        )),
    }
}

fn named(what: &str, name: &str) -> Result<(), String> {
    check(what, name.trim(), MAX_NAME_BYTES).map_err(|why| format!("the provider's claims: {why}"))
}

/// A claim: by its name, or by a JSON pointer (RFC 6901) to what is deeper.
fn value<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.strip_prefix('/')?.split_once('/')?;
    claims.get(first)?.pointer(&format!("/{rest}"))
}

fn text<'c>(claims: &'c Claims, name: &str) -> Option<&'c str> {
    value(claims, name)?.as_str().filter(|text| !text.trim().is_empty())
}

/// A list of texts, or one.
fn texts(value: Option<&Value>) -> BTreeSet<&str> {
    match value {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => [one.as_str()].into(),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::people::oidc::RawSettings;

    fn settings(more: &str) -> Settings {
        let text = format!("issuer = \"https://idp.example.org\"\nclient_id = \"jit\"\n{more}");
        let raw: RawSettings = toml::from_str(&text).unwrap();
        let here = Some("https://jit.example.org");
        Settings::of(raw, here, std::path::Path::new("/")).unwrap()
    }

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn account(name: &str, groups: &[&str]) -> Account {
        Account {
            name: name.into(),
            subject: "ana@example.org".into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            disabled: false,
            created_ms: 1,
        }
    }

    const ROLES: &str = "[roles]\nops = [\"sre\", \"approvers\"]\nroot = [\"admins\"]\n";

    #[test]
    fn groups_that_roles_give_follow_the_provider_and_others_stay() {
        let settings = settings(ROLES);
        let said = claims(json!({ "sub": "7", "groups": ["ops", "other"], "sid": "s" }));
        let person = person(&settings, &said).unwrap();
        assert_eq!(person.subject, "7");
        assert_eq!((person.name.as_str(), person.sid.as_str()), ("7", "s"));
        let before = account("ana", &["admins", "oncall"]);
        let follow = settings.given();
        let after: Vec<_> = groups(&follow, &before, &person).into_iter().collect();
        assert_eq!(after, ["approvers", "oncall", "sre"]);
        let none = super::person(&settings, &claims(json!({ "sub": "7" }))).unwrap();
        let after: Vec<_> = groups(&follow, &before, &none).into_iter().collect();
        assert_eq!(after, ["oncall"], "a provider that says nothing gives nothing");
    }

    #[test]
    fn groups_may_be_one_text_or_deeper_and_are_never_guessed() {
        for (claim, said) in
            [("groups", json!("ops")), ("https://example.org/groups", json!(["ops"]))]
        {
            let settings = settings(&format!("groups = \"{claim}\"\n{ROLES}"));
            let person = person(&settings, &claims(json!({ "sub": "7", claim: said }))).unwrap();
            assert!(person.groups.contains("sre"), "{claim}");
        }
        let settings = settings(&format!("groups = \"/realm_access/roles\"\n{ROLES}"));
        let said = claims(json!({ "sub": "7", "realm_access": { "roles": ["root"] } }));
        assert!(person(&settings, &said).unwrap().groups.contains("admins"));
        for other in [json!({ "ops": true }), json!([["ops"]]), json!(7), Value::Null] {
            let said = claims(json!({ "sub": "7", "realm_access": { "roles": other } }));
            assert!(person(&settings, &said).unwrap().groups.is_empty(), "{said:?}");
        }
    }

    #[test]
    fn an_address_counts_only_if_it_is_verified() {
        let settings = settings("subject = \"email\"\n");
        let of = |verified: Value| {
            let said =
                json!({ "sub": "7", "email": "ana@example.org", "email_verified": verified });
            person(&settings, &claims(said))
        };
        assert_eq!(of(json!(true)).unwrap().subject, "ana@example.org");
        assert_eq!(of(json!("true")).unwrap().subject, "ana@example.org");
        for verified in [json!(false), json!("false"), json!(1), Value::Null] {
            assert!(of(verified).unwrap_err().contains("email_verified"));
        }
        assert!(lacks(&settings, &claims(json!({ "sub": "7" }))));
        assert!(person(&settings, &claims(json!({ "email": "a@b" }))).is_err(), "no sub");
    }

    #[test]
    fn an_address_and_its_verification_are_of_one_answer() {
        let settings = settings("subject = \"email\"\n");
        let (ana, eve, yes) = ("ana@example.org", "eve@example.org", "email_verified");
        for (token, userinfo, wanted) in [
            (json!({ "email": ana }), json!({ yes: true }), None),
            (json!({ yes: true }), json!({ "email": ana }), None),
            (json!({ "email": ana, yes: false }), json!({ "email": eve, yes: true }), None),
            (json!({ "email": ana, yes: true }), json!({ "email": eve, yes: true }), Some(ana)),
            (json!({ "email": ana }), json!({ "email": eve, yes: true }), Some(eve)),
            (json!({ "email": ana }), json!({ "email": eve }), None),
            (json!({}), json!({ "email": ana, yes: true }), Some(ana)),
        ] {
            let mut all = claims(token.clone());
            all.insert("sub".into(), json!("7"));
            merge(&mut all, claims(userinfo.clone()));
            let found = person(&settings, &all).ok().map(|person| person.subject);
            assert_eq!(found.as_deref(), wanted, "{token} {userinfo}");
        }
        assert!(lacks(&settings, &claims(json!({ "sub": "7", "email": ana }))));
    }

    #[test]
    fn only_somebody_with_a_group_or_the_claims_is_expected() {
        let of =
            |more: &str, said: Value| person(&settings(more), &claims(said)).unwrap().is_expected;
        assert!(!of("", json!({ "sub": "7", "groups": ["ops"] })));
        assert!(of(ROLES, json!({ "sub": "7", "groups": ["ops"] })));
        assert!(!of(ROLES, json!({ "sub": "7", "groups": ["other"] })));
        let both = "require = { hd = \"example.org\", \"/org/units\" = \"it\" }\n";
        let units = json!({ "units": ["it", "hr"] });
        assert!(of(both, json!({ "sub": "7", "hd": "example.org", "org": units })));
        assert!(!of(both, json!({ "sub": "7", "hd": "example.org" })));
        assert!(!of(both, json!({ "sub": "7", "hd": "example.org.evil", "org": units })));
        assert!(lacks(&settings(both), &claims(json!({ "sub": "7" }))));
    }

    #[test]
    fn of_several_accounts_the_provider_names_one() {
        let settings = settings("subject = \"email\"\naccount = \"login\"\n");
        let said = json!({
            "sub": "7", "email": "ana@example.org", "email_verified": true, "login": "ana-admin",
        });
        let person = person(&settings, &claims(said)).unwrap();
        let both = vec![account("ana", &[]), account("ana-admin", &[])];
        assert_eq!(which(both.clone(), &person).unwrap().unwrap().name, "ana-admin");
        let other = Person { name: "x".into(), ..person.clone() };
        assert!(which(both, &other).unwrap_err().contains("ana, ana-admin"));
        assert_eq!(which(vec![account("ana", &[])], &other).unwrap().unwrap().name, "ana");
        assert!(which(Vec::new(), &person).unwrap().is_none());
    }
}
