//! `jitctl policies`: the policies that the controller keeps. What a policy would change is computed by
//! each host's agent; hosts get a policy by a rollout.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{PolicyInput, PolicyPreview, PolicyView},
    },
    exit::Exit,
    files::read_text,
    status::Page,
};
use jit_proto::printable::clean_lines;
use serde::Serialize;

use super::{
    Output,
    requests::age,
    session::{Session, To},
};
use crate::{
    failure::Failure,
    many::worst,
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
A policy is a TOML file with the [[port]] sections of the agent's configuration, without `hosts`
and `version`: a rollout decides both. Policies are kept for ever: rollouts refer to them.

Examples:
    jitctl policies                                       those that the controller keeps
    jitctl policies show 01KPEXAMP1E000000000000001 > policy.toml
    jitctl policies save policy.toml --why CHG-77         changes no host
    jitctl policies diff 01KPEXAMP1E000000000000001 --host web-1 --host web-2
    jitctl rollouts start policy.toml --why CHG-77 --wave env=canary --wave all

One agent directly, without a controller: jitctl policy";

/// Arguments of `policies`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct PoliciesArgs {
    #[command(subcommand)]
    command: Option<PoliciesCommand>,
    /// The most policies to list, the newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum PoliciesCommand {
    /// Print the text of a policy
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Keep a policy, and print its id; no host changes
    Save {
        /// The policy, TOML
        file: PathBuf,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show what a policy would change on hosts, as their agents say; nothing changes
    Diff {
        /// Its id
        id: String,
        /// A host; may be repeated
        #[arg(long, value_name = "ID", required = true)]
        host: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// Lists, shows, keeps and compares policies.
pub(super) fn run(to: To<'_>, args: &PoliciesArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => list(to, args),
        Some(PoliciesCommand::Show { id, output }) => {
            let view: PolicyView =
                to.call(async |session| session.fetch(Call::get(["policies", id])).await)?;
            if output.json {
                text::print_pretty(&view)?;
            } else {
                text::print(&format!("{}\n", clean_lines(view.text.trim_end())))?;
            }
            Ok(Exit::Success)
        }
        Some(PoliciesCommand::Save { file, why, output }) => {
            let input = read(file, why)?;
            let view = to.call(async |session| save(session, &input).await)?;
            if output.json {
                text::print_pretty(&view)?;
            } else {
                text::print(&format!("{}\n", text::printable(&view.id)))?;
            }
            Ok(Exit::Success)
        }
        Some(PoliciesCommand::Diff { id, host, output }) => diff(to, id, host, *output),
    }
}

/// A policy of a file, as it is sent.
pub(super) fn read(file: &Path, why: &str) -> Result<PolicyInput, Failure> {
    Ok(PolicyInput { text: read_text(file, "the policy")?, justification: why.to_owned() })
}

/// Keeps a policy.
pub(super) async fn save(session: &Session, input: &PolicyInput) -> Result<PolicyView, Failure> {
    session.fetch(Call::post(["policies"]).json(input)).await
}

fn list(to: To<'_>, args: &PoliciesArgs) -> Result<Exit, Failure> {
    let call = Call::get(["policies"]).query("limit", args.limit.clamp(1, 500));
    let found: Vec<PolicyView> =
        to.call(async |session| session.list(call, Some(args.limit)).await)?;
    if args.output.json {
        text::print_pretty(&found)?;
    } else if found.is_empty() {
        text::print("no policies: jitctl policies save FILE --why TEXT\n")?;
    } else {
        let page = Page::of_stdout(args.output.colours.style());
        text::print(&table(&found, Timestamp::now().as_millisecond()).text(page))?;
    }
    Ok(Exit::Success)
}

fn table(policies: &[PolicyView], now_ms: i64) -> Table {
    let mut table = Table::new(&["ID", "AGE", "BY", "WHY"]);
    for one in policies {
        table.row([
            one.id.as_str().into(),
            age(now_ms, one.saved_ms).into(),
            one.author.as_str().into(),
            one.justification.as_str().into(),
        ]);
    }
    table
}

/// What one host says, or why it says nothing.
#[derive(Serialize)]
struct Compared<'a> {
    host: &'a str,
    /// Exit code for this host alone.
    exit: u8,
    error: Option<String>,
    reason: Option<&'a str>,
    detail: Option<&'a str>,
    changes: &'a [String],
}

impl<'a> Compared<'a> {
    fn new(host: &'a str, answer: &'a Result<PolicyPreview, Failure>) -> Self {
        let preview = answer.as_ref().ok();
        Self {
            host,
            exit: exit(answer).code(),
            error: answer.as_ref().err().map(ToString::to_string),
            reason: preview.map(|preview| preview.reason.as_str()),
            detail: preview.map(|preview| preview.detail.as_str()),
            changes: preview.map(|preview| preview.changes.as_slice()).unwrap_or_default(),
        }
    }
}

fn diff(to: To<'_>, id: &str, hosts: &[String], output: Output) -> Result<Exit, Failure> {
    let answers = to.call(async |session| {
        // A wrong id is one mistake, not one of each host.
        session.fetch::<PolicyView>(Call::get(["policies", id])).await?;
        let mut answers = Vec::new();
        for host in hosts {
            let call = Call::get(["policies", id, "preview"]).query("host", host);
            answers.push(session.fetch::<PolicyPreview>(call).await);
        }
        Ok(answers)
    })?;
    if output.json {
        let compared = hosts.iter().zip(&answers);
        let compared = compared.map(|(host, answer)| Compared::new(host, answer));
        text::print_pretty(&compared.collect::<Vec<_>>())?;
    } else {
        let page = Page::of_stdout(output.colours.style());
        for (host, answer) in hosts.iter().zip(&answers) {
            text::print(&said(host, answer, page))?;
        }
    }
    Ok(worst(answers.iter().map(exit)))
}

fn exit(answer: &Result<PolicyPreview, Failure>) -> Exit {
    match answer {
        Ok(preview) if matches!(preview.reason.as_str(), "ok" | "known") => Exit::Success,
        Ok(_) => Exit::Permission,
        Err(failure) => failure.exit,
    }
}

fn said(host: &str, answer: &Result<PolicyPreview, Failure>, page: Page) -> String {
    let mut table = Table::new(&["HOST", "SAYS", "DETAIL"]);
    let (word, detail, changes) = match answer {
        Ok(preview) => {
            let word = if preview.reason == "known" { "ok" } else { preview.reason.as_str() };
            let nothing = "this is in force there already".to_owned();
            let detail = match (preview.reason.as_str(), preview.changes.is_empty()) {
                ("known", true) => nothing,
                _ => preview.detail.clone(),
            };
            (word, detail, preview.changes.as_slice())
        }
        Err(failure) => ("no answer", failure.to_string(), [].as_slice()),
    };
    table.row([host.into(), Cell::word(word), detail.into()]);
    let mut out = table.text(page);
    for line in changes {
        out += &format!("  {}\n", text::printable(line));
    }
    out
}

#[cfg(test)]
mod tests {
    use jit_client::status::Style;

    use super::*;

    const PAGE: Page = Page::endless(Style::Plain);

    #[test]
    fn what_a_host_would_change_stands_under_its_word() {
        let preview = PolicyPreview {
            host: "web-1".into(),
            reason: "ok".into(),
            detail: String::new(),
            changes: vec!["ports    + 2222/tcp armed".into()],
        };
        let text = said("web-1", &Ok(preview.clone()), PAGE);
        assert!(text.ends_with("web-1  ok\n  ports    + 2222/tcp armed\n"), "{text}");
        assert_eq!(exit(&Ok(preview.clone())), Exit::Success);
        let refused = PolicyPreview { reason: "ceiling".into(), ..preview };
        assert_eq!(exit(&Ok(refused)), Exit::Permission);
        let silent = Err(Failure::unavailable("cannot connect"));
        assert_eq!(exit(&silent), Exit::Unavailable);
        assert!(said("web-2", &silent, PAGE).contains("no answer  cannot connect"));
    }
}
