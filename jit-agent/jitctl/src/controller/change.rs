//! `jitctl withdraw`, `extend`, `shorten`, and `revoke --request`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{ExtendInput, ReasonInput, RequestView, ShortenInput},
    },
    exit::Exit,
    status::Page,
};
use jit_proto::words::counted;
use serde::Serialize;

use super::{ControllerArgs, Output, session::To, show, wait};
use crate::{
    agent_args::RevokeArgs,
    failure::{self, Failure},
    target::AgentArgs,
    text,
};

/// How long `revoke` waits for the hosts.
const HOSTS: Duration = Duration::from_secs(5);

/// Arguments of `withdraw`.
#[derive(Args, Debug)]
pub(crate) struct WithdrawArgs {
    /// Id of the request
    id: String,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `extend`.
#[derive(Args, Debug)]
#[command(after_help = "\
More time is another request. It begins at the end of this one, and needs what this one needed.

Example:
    jitctl extend 01KPEXAMP1E000000000000001 --for 30m --reason 'restore still runs'")]
pub(crate) struct ExtendArgs {
    /// Id of the request
    id: String,
    /// How much longer: 30m
    #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
    more: Duration,
    /// Why, in words
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `shorten`.
#[derive(Args, Debug)]
pub(crate) struct ShortenArgs {
    /// Id of the request
    id: String,
    #[command(flatten)]
    end: End,
    /// Why, in words
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    output: Output,
}

/// When it ends: exactly one of these.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
struct End {
    /// It ends at this time: 2027-03-01T08:00:00Z
    #[arg(long, value_name = "RFC3339")]
    until: Option<Timestamp>,
    /// It ends this long from now: 5m
    #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
    lasts: Option<Duration>,
}

impl End {
    fn at_ms(self, now_ms: i64) -> Result<i64, Failure> {
        let lasts = self.lasts.map(|lasts| i64::try_from(lasts.as_millis()).ok());
        match (self.until, lasts) {
            (Some(until), _) => Ok(until.as_millisecond()),
            (None, Some(Some(lasts))) => Ok(now_ms.saturating_add(lasts)),
            (None, _) => Err(Failure::usage("--for is too long")),
        }
    }
}

/// Takes back a request that is not approved.
pub(super) fn withdraw(to: To<'_>, args: &WithdrawArgs) -> Result<Exit, Failure> {
    say(to, &args.id, change(&args.id, "withdraw", &ReasonInput::default()), args.output)
}

/// Asks for more time.
pub(super) fn extend(to: To<'_>, args: &ExtendArgs) -> Result<Exit, Failure> {
    let more = i64::try_from(args.more.as_millis());
    let input = ExtendInput {
        duration_ms: Some(more.map_err(|_| Failure::usage("--for is too long"))?),
        reason: args.reason.clone(),
        ..ExtendInput::default()
    };
    say(to, &args.id, change(&args.id, "extend", &input), args.output)
}

/// Lets it end earlier.
pub(super) fn shorten(to: To<'_>, args: &ShortenArgs) -> Result<Exit, Failure> {
    let input = ShortenInput {
        ends_ms: Some(args.end.at_ms(Timestamp::now().as_millisecond())?),
        reason: args.reason.clone(),
        ..ShortenInput::default()
    };
    // Sent twice, the second one would meet a request that is replaced already.
    let call = Call::post(["requests", args.id.as_str(), "shorten"]).json(&input);
    say(to, &args.id, call, args.output)
}

/// Ends a request: `jitctl revoke --request ID`.
pub(crate) fn revoke(
    agent: &AgentArgs,
    controller: &ControllerArgs,
    id: &str,
    args: &RevokeArgs,
) -> Result<Exit, Failure> {
    if args.cut {
        return Err(Failure::usage(
            "--cut goes to an agent: over the controller each port's own rule decides on sessions, \
             or the request's --sessions; leave it out",
        ));
    }
    let to = To { agent, controller };
    let input = ReasonInput { reason: args.reason.clone() };
    to.call(async |session| {
        let call = change(id, "revoke", &input);
        let view: RequestView = session.fetch(call).await?;
        // Hosts answer within moments, and what does not is worth to be seen.
        let view = ended(session, view).await?;
        let open = view.answers.iter().filter(|answer| answer.pending);
        let exit = match open.clone().next() {
            Some(_) => Exit::Unavailable,
            None => Exit::Success,
        };
        if args.json {
            text::print_pretty(&view)?;
            return Ok(exit);
        }
        if let Some(other) = &view.replaced_by {
            failure::warn(&format!("{other} has replaced it and goes on: revoke that, too"));
        }
        let hosts = view.answers.len() - open.clone().count();
        text::print(&format!(
            "revoked {}: ended on {}\n",
            text::printable(&view.id),
            counted(hosts, "host")
        ))?;
        if exit != Exit::Success {
            let page = Page::of_stdout(jit_client::status::Style::of_stdout());
            text::print(&show::answers(open, page))?;
        }
        Ok(exit)
    })
}

/// The request once every host has answered, or after a while.
async fn ended(
    session: &super::session::Session,
    mut view: RequestView,
) -> Result<RequestView, Failure> {
    let until = tokio::time::Instant::now() + HOSTS;
    while view.answers.iter().any(|answer| answer.pending) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        view = session.fetch(wait::read(&view.id)).await?;
    }
    Ok(view)
}

/// A change of a request; sent twice, it is done once.
pub(super) fn change(id: &str, what: &str, input: &impl Serialize) -> Call {
    Call::post(["requests", id, what]).json(input).key(ulid::Ulid::generate().to_string())
}

fn say(to: To<'_>, id: &str, call: Call, output: Output) -> Result<Exit, Failure> {
    let view: RequestView = to.call(async |session| session.fetch(call).await)?;
    if output.json {
        text::print_pretty(&view)?;
        return Ok(Exit::Success);
    }
    let ends = view.ends.as_ref().map(|ends| format!(", ends {ends}")).unwrap_or_default();
    let whose = match &view.replaces {
        _ if view.id == id => String::new(),
        Some(replaces) => format!(" (replaces {replaces})"),
        None => format!(" (after {id})"),
    };
    let state = match view.state.as_str() {
        "pending" => wait::sentence(&view),
        state => state.to_owned(),
    };
    let line = format!("request {}{whose}: {state}{ends}", view.id);
    text::print(&format!("{}\n", text::printable(&line)))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_a_time_or_counts_from_now() {
        let end = |until: Option<&str>, lasts| End {
            until: until.map(|time| time.parse().unwrap()),
            lasts,
        };
        let at = end(Some("2027-03-01T08:00:00Z"), None).at_ms(5).unwrap();
        assert_eq!(text::moment(at), "2027-03-01T08:00:00Z");
        assert_eq!(end(None, Some(Duration::from_secs(60))).at_ms(5).unwrap(), 60_005);
        assert!(end(None, Some(Duration::MAX)).at_ms(5).is_err());
    }
}
