//! Which controller, and as whom: options, environment and logins become calls.

use std::{ffi::OsString, time::Duration};

use jit_client::{
    CallError,
    controller::{
        call::Call,
        http::{Access, Answer, Controller, Token, parse_url},
        types::Page,
    },
    files::read_text,
    text::printable,
};
use serde::de::DeserializeOwned;

use super::{
    ControllerArgs,
    context::{Contexts, Place},
};
use crate::{
    connect,
    failure::Failure,
    target::{AgentArgs, Environment},
};

/// The most things of a list that are read: more cannot be shown.
const MOST: usize = 100_000;
/// What a CA file is, for an error.
const CA: &str = "the controller's CA certificate";

/// Options that say which controller.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    /// `--ca` and `--timeout` are the same options as for agents.
    pub(super) agent: &'a AgentArgs,
    pub(super) controller: &'a ControllerArgs,
}

impl To<'_> {
    /// Calls the controller, and does `work` with it.
    pub(super) fn call<T>(
        self,
        work: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let session = Session::new(&access(self, |name| std::env::var_os(name))?)?;
        connect::block_on(async { work(&session).await })
    }

    /// The longest wait for an answer.
    pub(super) fn timeout(self) -> Result<Duration, Failure> {
        self.agent.timeout_or(&Environment(&|name| std::env::var_os(name)))
    }

    /// The CA's certificates that `--ca` names.
    pub(super) fn ca(self) -> Result<Option<String>, Failure> {
        Ok(self.agent.ca.as_deref().map(|path| read_text(path, CA)).transpose()?)
    }
}

/// The controller that the command line names, or the environment, or the login in use.
fn access(to: To<'_>, env: impl Fn(&str) -> Option<OsString>) -> Result<Access, Failure> {
    let variables = Environment(&env);
    let timeout = to.agent.timeout_or(&variables)?;
    let given = variables.text("JITCTL_TOKEN")?.map(|text| {
        Token::parse(&text).map_err(|why| Failure::usage(format!("JITCTL_TOKEN: {why}")))
    });
    let given = given.transpose()?;
    let url = match (&to.controller.controller, &to.controller.context) {
        (None, None) => variables.text("JITCTL_CONTROLLER")?,
        (url, _) => url.clone(),
    };
    let url = url.map(|url| parse_url(&url).map(String::from).map_err(Failure::usage));
    let url = url.transpose()?;
    let place = match (&to.controller.context, &url) {
        // Without a home directory, as in a pipeline: the address and the token say it all.
        (None, Some(_)) if given.is_some() => Place::of(&env).ok(),
        _ => Some(Place::of(&env)?),
    };
    let contexts = place.as_ref().map(Place::contexts).transpose()?.unwrap_or_default();
    let name = chosen(&contexts, to.controller.context.as_deref(), url.as_deref())?;
    let (Some(name), Some(place)) = (&name, &place) else {
        let url = url.ok_or_else(|| {
            Failure::usage(
                "which controller? Log in first: jitctl login --controller URL (or use \
                 --controller URL with JITCTL_TOKEN)",
            )
        })?;
        let token = given.ok_or_else(|| {
            Failure::usage(format!(
                "there is no login at {url}: jitctl login --controller {url}, or set JITCTL_TOKEN"
            ))
        })?;
        let ca = match to.ca()? {
            Some(ca) => Some(ca),
            None => variables.path("JITCTL_CA").map(|path| read_text(&path, CA)).transpose()?,
        };
        return Ok(Access { url, ca, token: Some(token), timeout });
    };
    let context = contexts.contexts.get(name).cloned().ok_or_else(|| {
        Failure::usage(format!("there is no login with the name {name}: jitctl context list"))
    })?;
    let token = match given {
        Some(token) => token,
        None => place.token(name)?.ok_or_else(|| {
            Failure::usage(format!("{name} is logged out: jitctl login --context {name}"))
        })?,
    };
    let ca = to.ca()?.or(context.ca);
    Ok(Access { url: context.url, ca, token: Some(token), timeout })
}

/// The name of the login that is meant; `None`: none has this address. A token never goes to
/// another address than that of its login.
fn chosen(
    contexts: &Contexts,
    name: Option<&str>,
    url: Option<&str>,
) -> Result<Option<String>, Failure> {
    let same = |name: &str| {
        contexts.contexts.get(name).is_some_and(|context| Some(context.url.as_str()) == url)
    };
    match (name, url) {
        (Some(name), Some(url)) if !same(name) => Err(Failure::usage(format!(
            "the login {name} is not at {url}; leave one of --context and --controller out"
        ))),
        (Some(name), _) => Ok(Some(name.to_owned())),
        (None, Some(_)) => {
            let current = contexts.current.iter().find(|name| same(name));
            Ok(current.or_else(|| contexts.contexts.keys().find(|name| same(name))).cloned())
        }
        (None, None) => Ok(contexts.current.clone()),
    }
}

/// A controller, and who is calling.
pub(super) struct Session(Controller);

impl Session {
    pub(super) fn new(access: &Access) -> Result<Self, Failure> {
        Ok(Self(Controller::new(access)?))
    }

    /// The controller's address, for people.
    pub(super) fn name(&self) -> &str {
        self.0.name()
    }

    /// The host that it calls.
    pub(super) fn host(&self) -> &str {
        self.0.host()
    }

    /// A call whose answer is JSON.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        self.0.fetch(&call).await.map_err(failure)
    }

    /// The same, with the version of what was read.
    pub(super) async fn fetch_version<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<(T, Option<String>), Failure> {
        let answer = self.send(call).await?;
        Ok((self.0.read(&answer)?, answer.etag))
    }

    /// What is there; `None`: the controller knows no such thing.
    pub(super) async fn find<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>, Failure> {
        match self.0.fetch(&call).await {
            Ok(found) => Ok(Some(found)),
            Err(CallError::Refused { word, .. }) if word == "not_found" => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    /// A call and its answer as it came.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, Failure> {
        self.0.send(&call).await.map_err(failure)
    }

    /// A list, page by page, at most this number of things.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        call: Call,
        most: Option<usize>,
    ) -> Result<Vec<T>, Failure> {
        let most = most.unwrap_or(MOST);
        let mut found = Vec::new();
        let mut cursor = String::new();
        // A page may be empty where much is hidden from the caller, and have a next one all the
        // same.
        for _ in 0..MOST {
            let call = call.clone().query("cursor", &cursor);
            let page: Page<T> = self.fetch(call).await?;
            found.extend(page.items);
            found.truncate(most);
            match page.next {
                Some(next) if found.len() < most && next != cursor => cursor = next,
                _ => break,
            }
        }
        Ok(found)
    }
}

/// A refusal of the controller, whose sentence may have several lines.
fn failure(error: CallError) -> Failure {
    match error {
        CallError::Refused { word, detail } => {
            let lines = detail.lines().map(printable).collect::<Vec<_>>().join("\n");
            Failure::refused(format!("refused: {}: {lines}", printable(&word)))
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use jit_client::exit::Exit;

    use super::{super::context::Context, *};

    fn contexts() -> Contexts {
        let context = |url: &str| Context { url: url.into(), account: String::new(), ca: None };
        let contexts = [
            ("a".to_owned(), context("https://one.example/")),
            ("b".to_owned(), context("https://two.example/")),
            ("c".to_owned(), context("https://two.example/")),
        ];
        Contexts { current: Some("c".into()), contexts: contexts.into() }
    }

    #[test]
    fn a_login_is_found_by_its_name_or_address() {
        let find = |name, url| chosen(&contexts(), name, url).unwrap();
        assert_eq!(find(None, None).as_deref(), Some("c"));
        assert_eq!(find(Some("a"), None).as_deref(), Some("a"));
        assert_eq!(find(None, Some("https://one.example/")).as_deref(), Some("a"));
        assert_eq!(find(None, Some("https://two.example/")).as_deref(), Some("c"));
        assert_eq!(find(None, Some("https://three.example/")), None);
        assert!(chosen(&contexts(), Some("a"), Some("https://two.example/")).is_err());
    }

    #[test]
    fn a_token_is_not_sent_to_an_address_without_a_login() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().as_os_str().to_owned();
        let place = Place::of(|_| Some(home.clone())).unwrap();
        place.change(|all| *all = contexts()).unwrap();
        for name in ["a", "b", "c"] {
            place.set_token(name, Some(&Token::parse("jit_secret").unwrap())).unwrap();
        }
        let agent = AgentArgs::default();
        let open = |url: &str, token: Option<&str>| {
            let controller = ControllerArgs { context: None, controller: Some(url.into()) };
            let env = |name: &str| match name {
                "XDG_CONFIG_HOME" => Some(home.clone()),
                "JITCTL_TOKEN" => token.map(OsString::from),
                _ => None,
            };
            access(To { agent: &agent, controller: &controller }, env)
        };
        let failure = open("https://three.example", None).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let own = open("https://three.example", Some("jit_own")).unwrap();
        assert_eq!(own.token.unwrap().expose(), "jit_own");
        let known = open("https://one.example", None).unwrap();
        assert_eq!(known.token.unwrap().expose(), "jit_secret");
        let known = open("one.example/", Some("jit_own")).unwrap();
        assert_eq!(known.token.unwrap().expose(), "jit_own");
    }

    #[test]
    fn lines_of_a_refusal_stay_lines_and_nothing_else() {
        let error = CallError::refused("invalid", "two mistakes\n  line 3: \u{1b}[2J");
        let shown = failure(error).to_string();
        assert_eq!(shown, "refused: invalid: two mistakes\n  line 3: \\u{1b}[2J");
    }
}
