//! `jit-agent identity`: what each metadata service says, for the engineer who sets a host up.

use std::{path::Path, process::ExitCode};

use jit_client::exit::Exit;
use jit_proto::printable::clean;
use serde_json::{Value, json};

use crate::{
    config::{AUTO, Glimpse},
    disk::host_id::KeptId,
    oncall::{
        failure::Failure,
        names,
        output::{print, print_json},
    },
    system::metadata::{Report, Verdict, ask_all},
};

/// Version of the JSON that `identity --json` prints (docs/json.md).
const SCHEMA_VERSION: u32 = 1;
/// The longest text of an answer that is shown, characters.
const SHOWN: usize = 600;

/// The command's options.
#[derive(clap::Args)]
pub struct IdentityArgs {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

/// Asks all sources and prints what they say.
pub async fn run(args: &IdentityArgs) -> Result<ExitCode, Failure> {
    let reports = ask_all().await;
    let verdict = Verdict::of(&reports);
    if args.json {
        print_json(&message(&reports, &verdict))?;
    } else {
        print(&text(&reports, &verdict))?;
    }
    let is_found = matches!(verdict, Verdict::Found(_));
    Ok(if is_found { Exit::Success } else { Exit::Unavailable }.into())
}

fn message(reports: &[Report], verdict: &Verdict) -> Value {
    let source = |one: &Report| {
        let (id, fault, detail) = match &one.answer {
            Ok(id) => (id.as_str(), "", String::new()),
            Err(fault) => ("", fault.word(), fault.to_string()),
        };
        json!({ "source": one.source.word(), "id": id, "fault": fault, "detail": detail })
    };
    let (word, id, by) = match verdict {
        Verdict::Ambiguous(_) => ("ambiguous", "", ""),
        Verdict::Found(found) => ("found", found.id.as_str(), found.source.word()),
        Verdict::Nothing => ("none", "", ""),
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "verdict": word,
        "id": id,
        "source": by,
        "sources": reports.iter().map(source).collect::<Vec<_>>(),
    })
}

fn text(reports: &[Report], verdict: &Verdict) -> String {
    let line = |one: &Report| format!("{:<10} {}\n", one.source.text(), clean(&answer(one), SHOWN));
    let lines: String = reports.iter().map(line).collect();
    format!("{lines}\n{}\n", clean(&conclusion(verdict), SHOWN))
}

/// What one source answered, in words.
pub(super) fn answer(report: &Report) -> String {
    match &report.answer {
        Ok(id) => id.clone(),
        Err(fault) => fault.to_string(),
    }
}

/// What follows from all answers.
pub(super) fn conclusion(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Ambiguous(all) => {
            let named: Vec<_> = all.iter().map(|found| found.source.text()).collect();
            format!(
                "{} both say that this is their machine: with [host] id = \"auto\" no grant would open \
                 anything; write the id into the file",
                named.join(" and ")
            )
        }
        Verdict::Found(found) => format!(
            "[host] id = \"auto\" is {} ({} says so; it is a name, not a proof)",
            found.id, found.source
        ),
        Verdict::Nothing => {
            "no metadata service gives an id: write one into the file ([host] id)".into()
        }
    }
}

/// The host's id by the file, or as the agent found it last; empty: not known.
pub(super) fn known(glimpse: &Glimpse, config: &Path) -> String {
    if glimpse.host != AUTO {
        return glimpse.host.clone();
    }
    let (states, path) = (glimpse.states.clone(), config.to_owned());
    let found = names::within_patience(move || {
        let path = std::path::absolute(&path).unwrap_or(path);
        KeptId::find(&states, &path).0
    });
    found.ok().flatten().map(|kept| kept.found.id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::metadata::{Fault, Source};

    fn reports(ec2: Result<String, Fault>) -> Vec<Report> {
        let absent = |source| Report { source, answer: Err(Fault::Absent) };
        let mut all: Vec<_> = Source::ALL.into_iter().map(absent).collect();
        all[2].answer = ec2;
        all
    }

    #[test]
    fn each_source_has_a_line_and_what_it_says_cannot_rewrite_the_screen() {
        let good = reports(Ok("arn:aws:ec2:eu-1:1:instance/i-1".into()));
        let shown = text(&good, &Verdict::of(&good));
        assert_eq!(shown.lines().count(), 6, "{shown}");
        assert!(shown.contains("EC2        arn:aws:ec2:eu-1:1:instance/i-1\n"), "{shown}");
        assert!(shown.contains("Azure Arc  absent: nobody listens there\n"), "{shown}");
        let bad = reports(Err(Fault::Malformed("\u{1b}[2J\nEC2 good".into())));
        let shown = text(&bad, &Verdict::of(&bad));
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 6, "{shown}");
    }

    #[test]
    fn json_names_every_source_with_its_id_or_its_fault() {
        let bad = reports(Err(Fault::HopLimit));
        let message = message(&bad, &Verdict::of(&bad));
        assert_eq!(message["verdict"], "none");
        assert_eq!(message["sources"][2]["source"], "ec2");
        assert_eq!(message["sources"][2]["fault"], "hop_limit");
        assert!(
            message["sources"][2]["detail"].as_str().unwrap().contains("HttpPutResponseHopLimit")
        );
    }
}
