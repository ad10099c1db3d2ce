//! `jitctl login`, `logout` and `context`.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        http::{Access, parse_url},
        types::MeView,
    },
    exit::Exit,
    status::Page,
};
use serde_json::json;

use super::{
    Output, ask,
    context::{Context, Contexts, Place, parse_name},
    secret,
    session::{Session, To},
};
use crate::{
    connect,
    failure::{self, Failure},
    table::{Cell, Table, line},
    text,
};

/// A token that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(2 * 3600);

const EXAMPLES: &str = "\
Examples:
    jitctl login --controller https://jit.example.org
    jitctl login --controller https://jit.example.org:8443 --ca ca.pem --context prod < token

The token comes from an administrator (jitctl tokens make) or from `jit-controller init`. It is
typed without being shown, or read from standard input. Logins are kept in ~/.config/jitctl, which
only you can read. JITCTL_TOKEN in the environment replaces the token of every login, and needs
none.";

/// Arguments of `login`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoginArgs {
    #[command(flatten)]
    output: Output,
}

/// Arguments of `logout`.
#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// Also revoke the token on the controller: wherever else it is used, it ends
    #[arg(long)]
    revoke: bool,
}

/// Arguments of `context`.
#[derive(Args, Debug)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// List the logins; the one in use has a star
    List(Output),
    /// Use this login from now on
    Use {
        /// Its name
        name: String,
    },
    /// Show a login and who it is
    Show {
        /// Its name [default: the one in use]
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Forget a login and its token
    Remove {
        /// Its name
        name: String,
    },
}

fn place() -> Result<Place, Failure> {
    Place::of(|name| std::env::var_os(name))
}

/// Checks a token with the controller, and keeps it.
pub(super) fn login(to: To<'_>, args: &LoginArgs) -> Result<Exit, Failure> {
    let place = place()?;
    let contexts = place.contexts()?;
    let variable = std::env::var("JITCTL_CONTROLLER").ok().filter(|url| !url.is_empty());
    let given = to.controller.controller.clone().or(variable);
    let (name, url) = named(&contexts, to.controller.context.as_deref(), given.as_deref())?;
    let before = contexts.contexts.get(&name).filter(|context| context.url == url);
    let ca = match to.ca()? {
        Some(ca) => Some(ca),
        None => before.and_then(|context| context.ca.clone()),
    };
    let token = secret::read_token(&format!("token for {url}"))?;
    let access = Access {
        url: url.clone(),
        ca: ca.clone(),
        token: Some(token.clone()),
        timeout: to.timeout()?,
    };
    let session = Session::new(&access)?;
    let me: MeView = connect::block_on(session.fetch(Call::get(["me"])))?;
    // The old token goes first: it must never be sent to a new address.
    place.set_token(&name, None)?;
    let context = Context { url, account: me.account.clone(), ca };
    place.change(|all| {
        all.contexts.insert(name.clone(), context);
        all.current = Some(name.clone());
    })?;
    place.set_token(&name, Some(&token))?;
    if std::env::var_os("JITCTL_TOKEN").is_some_and(|token| !token.is_empty()) {
        failure::warn("JITCTL_TOKEN is set: it replaces the token of this login; unset it");
    }
    show(&me, &name, session.name(), args.output)?;
    Ok(Exit::Success)
}

/// The name and the address of the login that is to be made.
fn named(
    contexts: &Contexts,
    name: Option<&str>,
    url: Option<&str>,
) -> Result<(String, String), Failure> {
    let name = name.map(parse_name).transpose().map_err(Failure::usage)?;
    let Some(url) = url else {
        let name = name.or_else(|| contexts.current.clone());
        let found = name.as_ref().and_then(|name| contexts.contexts.get_key_value(name));
        let found = found.map(|(name, context)| (name.clone(), context.url.clone()));
        return found.ok_or_else(|| {
            Failure::usage("where? Say jitctl login --controller https://HOST[:PORT]")
        });
    };
    let url = parse_url(url).map_err(Failure::usage)?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).replace(':', "-");
    let url = String::from(url);
    let same = contexts.contexts.iter().find(|(_, context)| context.url == url);
    let name = name.or_else(|| same.map(|(name, _)| name.clone())).unwrap_or(host);
    Ok((parse_name(&name).map_err(Failure::usage)?, url))
}

fn show(me: &MeView, name: &str, url: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return text::print_pretty(&json!({ "context": name, "controller": url, "me": me }));
    }
    let page = Page::of_stdout(output.colours.style());
    let list = |words: &std::collections::BTreeSet<String>| {
        words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let left = me.token_ends_ms.saturating_sub(Timestamp::now().as_millisecond());
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
    let admin = if me.admin { " (administrator)" } else { "" };
    let lines = [
        line(page, "context", name),
        line(page, "controller", &format!("{url} ({})", me.version)),
        line(page, "you", &format!("{}, account {}{admin}", me.subject, me.account)),
        line(page, "groups", &list(&me.groups)),
        line(page, "may", &list(&me.scopes)),
        line(page, "until", &format!("{} ({} left)", me.token_ends, text::duration(left))),
    ];
    text::print(&lines.concat())?;
    if left < SOON {
        failure::warn("the token ends soon: ask for a new one, or make it: jitctl tokens make");
    }
    Ok(())
}

/// Forgets a token.
pub(super) fn logout(to: To<'_>, args: &LogoutArgs) -> Result<Exit, Failure> {
    let place = place()?;
    let name = of_login(&place.contexts()?, to.controller.context.as_deref())?;
    if args.revoke {
        let controller = super::ControllerArgs { context: Some(name.clone()), controller: None };
        To { agent: to.agent, controller: &controller }.call(async |session| {
            let me: MeView = session.fetch(Call::get(["me"])).await?;
            session.send(Call::delete(["tokens", me.token.as_str()])).await
        })?;
    }
    let was = place.set_token(&name, None)?;
    let ended = if args.revoke { "; the token is revoked" } else { "" };
    let had = if was { "logged out of" } else { "there was no token of" };
    text::print(&format!("{had} {name}{ended}\n"))?;
    Ok(Exit::Success)
}

/// The login that is meant: the named one, or the one in use.
fn of_login(contexts: &Contexts, name: Option<&str>) -> Result<String, Failure> {
    let name = name.map(str::to_owned).or_else(|| contexts.current.clone());
    let name = name.ok_or_else(|| {
        Failure::usage("no login is in use: jitctl context list shows what there is")
    })?;
    match contexts.contexts.contains_key(&name) {
        true => Ok(name),
        false => Err(Failure::usage(format!(
            "there is no login with the name {name}: jitctl context list"
        ))),
    }
}

/// Lists, chooses, shows and removes logins.
pub(super) fn context(to: To<'_>, args: &ContextArgs) -> Result<Exit, Failure> {
    let place = place()?;
    let contexts = place.contexts()?;
    match &args.command {
        ContextCommand::List(output) => list(&place, &contexts, *output)?,
        ContextCommand::Use { name } => {
            let name = of_login(&contexts, Some(name))?;
            place.change(|all| all.current = Some(name.clone()))?;
            text::print(&format!("using {name}\n"))?;
        }
        ContextCommand::Show { name, output } => {
            let asked = name.as_deref().or(to.controller.context.as_deref());
            let name = of_login(&contexts, asked)?;
            let controller =
                super::ControllerArgs { context: Some(name.clone()), controller: None };
            To { agent: to.agent, controller: &controller }.call(async |session| {
                let me: MeView = session.fetch(Call::get(["me"])).await?;
                show(&me, &name, session.name(), *output)
            })?;
        }
        ContextCommand::Remove { name } => {
            let name = of_login(&contexts, Some(name))?;
            if ask::can_ask() && !ask::confirm(&format!("Forget the login {name}?"), "")? {
                return Err(Failure::refused("nothing was removed"));
            }
            place.set_token(&name, None)?;
            place.change(|all| {
                all.contexts.remove(&name);
                if all.current.as_deref() == Some(name.as_str()) {
                    all.current = None;
                }
            })?;
            text::print(&format!("removed {name}\n"))?;
        }
    }
    Ok(Exit::Success)
}

fn list(place: &Place, contexts: &Contexts, output: Output) -> Result<(), Failure> {
    let mut table = Table::new(&["", "NAME", "CONTROLLER", "ACCOUNT", "TOKEN"]);
    let mut values = Vec::new();
    for (name, Context { url, account, ca }) in &contexts.contexts {
        let current = contexts.current.as_deref() == Some(name.as_str());
        let token = place.token(name)?.is_some();
        values.push(json!({
            "name": name, "controller": url, "account": account, "current": current,
            "own_ca": ca.is_some(), "logged_in": token,
        }));
        let (star, token) =
            (if current { "*" } else { "" }, if token { "yes" } else { "logged out" });
        table.row([star.into(), name.into(), url.into(), account.into(), Cell::from(token)]);
    }
    if output.json {
        return text::print_pretty(&values);
    }
    if table.is_empty() {
        return text::print("no logins: jitctl login --controller URL\n");
    }
    text::print(&table.text(Page::of_stdout(output.colours.style())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_the_name_that_was_given_or_its_host() {
        let mut contexts = Contexts::default();
        let find = |contexts: &Contexts, name, url| named(contexts, name, url);
        let url = "https://jit.example.org/".to_owned();
        let found = find(&contexts, None, Some("jit.example.org")).unwrap();
        assert_eq!(found, ("jit.example.org".into(), url.clone()));
        let found = find(&contexts, None, Some("https://[2001:db8::1]:8443")).unwrap();
        assert_eq!(found.0, "2001-db8--1");
        let found = find(&contexts, Some("prod"), Some("jit.example.org")).unwrap();
        assert_eq!(found, ("prod".into(), url.clone()));
        assert!(find(&contexts, Some("a/b"), Some("jit.example.org")).is_err());
        assert!(find(&contexts, None, None).is_err());
        let context = Context { url: url.clone(), account: String::new(), ca: None };
        contexts.contexts.insert("prod".into(), context);
        contexts.current = Some("prod".into());
        assert_eq!(find(&contexts, None, None).unwrap(), ("prod".into(), url));
        assert_eq!(find(&contexts, None, Some("jit.example.org")).unwrap().0, "prod");
        assert!(find(&contexts, Some("other"), None).is_err());
    }
}
