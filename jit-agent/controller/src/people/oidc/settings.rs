//! The section `[oidc]` of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use jit_client::controller::types::SCOPES as ALL_SCOPES;
use jit_proto::{
    text::{MAX_NAME_BYTES, check},
    toml_value::duration,
};
use reqwest::Url;
use serde::Deserialize;

use crate::here::secure;

/// What is asked for without a word about it. `openid` always is (OpenID Connect Core 1.0, section
/// 3.1.2.1).
const SCOPES: [&str; 3] = ["openid", "profile", "email"];
/// What access tokens may be used for without a word about it.
const TOKEN_SCOPES: [&str; 2] = ["read", "request"];
/// Longest audience, bytes.
const LONGEST_AUDIENCE: usize = 1024;
/// How long groups that roles give count after a sign-in.
const GROUPS_FOR: Duration = Duration::from_secs(12 * 3600);
/// What it can be set to.
const GROUPS_FOR_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(720 * 3600);
/// The most letters of a button.
const LONGEST_NAME: usize = 60;

/// The section as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// The provider, exactly as it names itself: `https://NAME`.
    pub issuer: String,
    /// What the provider calls this controller.
    pub client_id: String,
    /// File with the controller's secret at the provider; without it the controller has none.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for; without it `openid`, `profile`, `email`.
    pub scopes: Option<Vec<String>>,
    /// On the button; without it the name of the issuer's host.
    pub name: Option<String>,
    /// The claim that is the person.
    #[serde(default)]
    pub subject: SubjectClaim,
    /// The claim that names a new account; without it the person does.
    pub account: Option<String>,
    /// The claim with the provider's groups; without it `groups`.
    pub groups: Option<String>,
    /// Groups of the provider, and the groups here that they give.
    #[serde(default)]
    pub roles: BTreeMap<String, BTreeSet<String>>,
    /// Whether the first sign-in makes an account.
    #[serde(default)]
    pub create: bool,
    /// Claims that somebody must have for it, if no role gives him a group.
    #[serde(default)]
    pub require: BTreeMap<String, String>,
    /// How long groups that roles give count after a sign-in; without it 12 hours.
    pub groups_for: Option<String>,
    /// File with certificates of authorities, PEM, that the provider may have too.
    pub ca: Option<PathBuf>,
    /// Whom the provider's access tokens name as their audience; without it none count at the API.
    pub audience: Option<String>,
    /// What such tokens may be used for; without it `read` and `request`.
    pub token_scopes: Option<BTreeSet<String>>,
}

/// The claim that is the person: the subject of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectClaim {
    /// `email`, if the provider has verified it.
    Email,
    /// `sub`: it never changes, and nobody else gets it later.
    #[default]
    Sub,
}

/// Which access tokens of the provider count at the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Whom they name as their audience.
    pub audience: String,
    /// What they may be used for.
    pub scopes: BTreeSet<String>,
}

/// The section, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The provider.
    pub issuer: Url,
    /// The provider as it names itself: compared letter by letter.
    pub issuer_text: String,
    /// What the provider calls this controller.
    pub client_id: String,
    /// File with the controller's secret at the provider.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for, separated by blanks.
    pub scopes: String,
    /// On the button.
    pub name: String,
    /// The claim that is the person.
    pub subject: SubjectClaim,
    /// The claim that names a new account.
    pub account: Option<String>,
    /// The claim with the provider's groups.
    pub groups: String,
    /// Groups of the provider, and the groups here that they give.
    pub roles: BTreeMap<String, BTreeSet<String>>,
    /// Whether the first sign-in makes an account.
    pub create: bool,
    /// Claims that somebody must have for it, if no role gives him a group.
    pub require: BTreeMap<String, String>,
    /// How long groups that roles give count after a sign-in.
    pub groups_for: Duration,
    /// File with more authorities.
    pub ca: Option<PathBuf>,
    /// Which access tokens count at the API; `None`: none.
    pub programs: Option<Programs>,
    /// Where people reach this controller, without a `/` at the end.
    pub public_url: String,
}

impl Settings {
    /// The subject of accounts of whom the provider names so (claim `sub`); empty: it does not
    /// follow from that.
    pub(in crate::people) const fn subject_of<'s>(&self, sub: &'s str) -> &'s str {
        match self.subject {
            SubjectClaim::Email => "",
            SubjectClaim::Sub => sub,
        }
    }

    /// Checks the section. Relative paths begin at `directory`; `public_url` is that of `[api]`.
    ///
    /// # Errors
    /// The first value that is wrong, in words.
    pub fn of(
        raw: RawSettings,
        public_url: Option<&str>,
        directory: &Path,
    ) -> Result<Self, String> {
        let public_url = public_url.ok_or(
            "oidc: the provider sends people back to `public_url` of [api], which is missing; write \
             `public_url = \"https://NAME\"` there",
        )?;
        let issuer = secure(&raw.issuer).map_err(|why| format!("oidc.issuer: {why}"))?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(format!("oidc.issuer: {:?} has a query or a fragment", raw.issuer));
        }
        if raw.client_id.trim().is_empty() {
            return Err(
                "oidc.client_id: it is empty; the provider shows it where this controller \
                        is registered"
                    .into(),
            );
        }
        let name = raw.name.unwrap_or_else(|| issuer.host_str().unwrap_or("SSO").to_owned());
        check("oidc.name", name.trim(), LONGEST_NAME)?;
        for group in raw.roles.values().flatten() {
            check("oidc.roles: a group", group.trim(), MAX_NAME_BYTES)?;
        }
        let mut scopes: Vec<_> = SCOPES.iter().map(|&scope| scope.to_owned()).collect();
        if let Some(asked) = raw.scopes {
            scopes.truncate(1);
            scopes.extend(asked.into_iter().filter(|scope| scope != "openid"));
        }
        // RFC 6749 section 3.3.
        let letter = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        if let Some(bad) = scopes.iter().find(|one| one.is_empty() || !one.bytes().all(letter)) {
            return Err(format!("oidc.scopes: {bad:?} is no scope"));
        }
        let programs = programs(raw.audience, raw.token_scopes, &raw.client_id)?;
        for (claim, wanted) in &raw.require {
            check("oidc.require: a claim", claim.trim(), MAX_NAME_BYTES)?;
            check("oidc.require: the text of a claim", wanted.trim(), MAX_NAME_BYTES)?;
        }
        let groups_for = match &raw.groups_for {
            None => GROUPS_FOR,
            Some(text) => duration("oidc.groups_for", text)?,
        };
        if !GROUPS_FOR_BOUNDS.contains(&groups_for) {
            return Err("oidc.groups_for: from 1m to 720h is possible".into());
        }
        Ok(Self {
            issuer,
            issuer_text: raw.issuer,
            client_id: raw.client_id,
            client_secret_file: raw.client_secret_file.map(|file| directory.join(file)),
            scopes: scopes.join(" "),
            name,
            subject: raw.subject,
            account: raw.account,
            groups: raw.groups.unwrap_or_else(|| "groups".into()),
            roles: raw.roles,
            create: raw.create,
            require: raw.require,
            groups_for,
            ca: raw.ca.map(|file| directory.join(file)),
            programs,
            public_url: public_url.trim_end_matches('/').to_owned(),
        })
    }

    /// The groups that roles can give: they follow the provider.
    pub(super) fn given(&self) -> BTreeSet<String> {
        self.roles.values().flatten().cloned().collect()
    }

    /// Whether `create` makes no account for anybody.
    pub fn creates_nobody(&self) -> bool {
        self.create && self.require.is_empty() && self.roles.values().all(BTreeSet::is_empty)
    }

    /// Where the provider sends people back to.
    pub(super) fn back(&self) -> String {
        format!("{}/sign-in/oidc/back", self.public_url)
    }
}

fn programs(
    audience: Option<String>,
    scopes: Option<BTreeSet<String>>,
    client_id: &str,
) -> Result<Option<Programs>, String> {
    let Some(audience) = audience else {
        return match scopes {
            None => Ok(None),
            Some(_) => {
                Err("oidc.token_scopes: without `audience` no token of the provider counts; \
                            write `audience = \"api://jit\"`, or leave this out"
                    .into())
            }
        };
    };
    check("oidc.audience", audience.trim(), LONGEST_AUDIENCE)?;
    if audience == client_id {
        return Err(format!(
            "oidc.audience: {audience:?} is client_id, which is the audience of ID tokens too; register \
             the API at the provider under a name of its own"
        ));
    }
    let default = || TOKEN_SCOPES.iter().map(|&scope| scope.to_owned()).collect();
    let scopes = scopes.unwrap_or_else(default);
    if let Some(bad) = scopes.iter().find(|scope| !ALL_SCOPES.contains(&scope.as_str())) {
        return Err(format!(
            "oidc.token_scopes: {bad:?} is no scope; one of {}",
            ALL_SCOPES.join(", ")
        ));
    }
    if scopes.is_empty() {
        return Err(
            "oidc.token_scopes: a token without a scope can do nothing; leave out `audience` \
                    too"
            .into(),
        );
    }
    Ok(Some(Programs { audience, scopes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "issuer = \"https://idp.example.org/realms/x\"\nclient_id = \"jit\"\n";

    fn read(text: &str, public_url: Option<&str>) -> Result<Settings, String> {
        let raw = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Settings::of(raw, public_url, Path::new("/var/lib/jit-controller"))
    }

    fn here() -> Option<&'static str> {
        Some("https://jit.example.org")
    }

    #[test]
    fn two_lines_are_enough() {
        let settings = read(GOOD, Some("https://jit.example.org/")).unwrap();
        assert_eq!(settings.scopes, "openid profile email");
        assert_eq!(settings.name, "idp.example.org");
        assert_eq!(settings.back(), "https://jit.example.org/sign-in/oidc/back");
        assert_eq!((settings.subject, settings.create), (SubjectClaim::Sub, false));
        assert_eq!(settings.programs, None);
        let more = format!(
            "{GOOD}scopes = [\"openid\", \"groups\"]\nclient_secret_file = \"s\"\nname = \"SSO\"\n\
             subject = \"email\"\n[roles]\n\"jit admins\" = [\"admins\"]\n"
        );
        let settings = read(&more, Some("https://jit.example.org")).unwrap();
        assert_eq!(settings.scopes, "openid groups");
        assert_eq!(settings.client_secret_file.unwrap(), Path::new("/var/lib/jit-controller/s"));
        assert!(settings.roles["jit admins"].contains("admins"));
        let of = |more: &str| {
            let text = format!("{GOOD}audience = \"api://jit\"\n{more}");
            let programs = read(&text, Some("https://jit.example.org")).unwrap().programs.unwrap();
            (programs.audience, programs.scopes.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(of(""), ("api://jit".into(), vec!["read".into(), "request".into()]));
        assert_eq!(of("token_scopes = [\"audit\"]\n").1, ["audit"]);
        assert_eq!(settings.groups_for, Duration::from_secs(43_200));
        let settings = read(&format!("{GOOD}groups_for = \"30m\"\n"), here()).unwrap();
        assert_eq!(settings.groups_for, Duration::from_secs(1800));
    }

    #[test]
    fn to_create_accounts_for_nobody_is_noticed() {
        for (more, nobody) in [
            ("", false),
            ("create = true\n", true),
            ("create = true\n[roles]\nsre = []\n", true),
            ("create = true\n[roles]\nsre = [\"sre\"]\n", false),
            ("create = true\nrequire = { hd = \"example.org\" }\n", false),
        ] {
            let settings = read(&format!("{GOOD}{more}"), here()).unwrap();
            assert_eq!(settings.creates_nobody(), nobody, "{more}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(read(GOOD, None).unwrap_err().contains("public_url"));
        for (text, part) in [
            (GOOD.replace("https", "http"), "oidc.issuer"),
            (GOOD.replace("realms/x", "?x=1"), "oidc.issuer"),
            (GOOD.replace("idp.", "user:word@idp."), "oidc.issuer"),
            (GOOD.replace("\"jit\"", "\" \""), "oidc.client_id"),
            (format!("{GOOD}scopes = [\"a b\"]\n"), "oidc.scopes"),
            (format!("{GOOD}name = \" \"\n"), "oidc.name"),
            (format!("{GOOD}subject = \"name\"\n"), "name"),
            (format!("{GOOD}[roles]\nsre = [\"\"]\n"), "oidc.roles"),
            (format!("{GOOD}secret = \"x\"\n"), "secret"),
            (format!("{GOOD}audience = \" \"\n"), "oidc.audience"),
            (format!("{GOOD}audience = \"jit\"\n"), "client_id"),
            (format!("{GOOD}token_scopes = [\"read\"]\n"), "audience"),
            (format!("{GOOD}audience = \"a\"\ntoken_scopes = []\n"), "oidc.token_scopes"),
            (format!("{GOOD}audience = \"a\"\ntoken_scopes = [\"all\"]\n"), "oidc.token_scopes"),
            (format!("{GOOD}groups_for = \"0s\"\n"), "oidc.groups_for"),
            (format!("{GOOD}groups_for = \"721h\"\n"), "oidc.groups_for"),
            (format!("{GOOD}groups_for = \"soon\"\n"), "oidc.groups_for"),
            (format!("{GOOD}require = {{ hd = \" \" }}\n"), "oidc.require"),
        ] {
            let why = read(&text, here()).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
