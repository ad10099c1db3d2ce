//! `jitctl rules`: who may ask for what, and who must agree. The controller reads and judges the text.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jit_client::{
    controller::{
        call::Call,
        types::{RulesDiff, RulesInput, RulesTestInput, RulesTestResult, RulesView, TextMistake},
    },
    exit::Exit,
    files::read,
    status::Page,
};
use jit_proto::{printable::clean_lines, words::counted};

use super::{
    Output, ask,
    session::{Session, To},
};
use crate::{
    failure::Failure,
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl rules show > rules.cedar
    jitctl rules check rules.cedar                 mistakes, with line and column
    jitctl rules diff --file rules.cedar           against what is in force
    jitctl rules test rules.cedar cases.toml       for a pipeline: exit code 1 when a case fails
    jitctl rules save rules.cedar --note 'CHG-17: databases need a second approval'
    jitctl rules rollback 3";

/// Arguments of `rules`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Print the rules in force
    Show {
        /// An older version: jitctl rules history
        #[arg(long, value_name = "N")]
        version: Option<i64>,
        #[command(flatten)]
        output: Output,
    },
    /// Look for mistakes in a text; nothing is changed
    Check {
        /// Rules in Cedar
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Try cases against a text; nothing is changed
    Test {
        /// Rules in Cedar; `-`: those in force
        file: PathBuf,
        /// The cases, TOML
        cases: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Put a text in force as a new version
    Save {
        /// Rules in Cedar
        file: PathBuf,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        note: String,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the versions
    History(Output),
    /// Show what differs between two versions, or between a text and what is in force
    Diff {
        /// The older version
        #[arg(value_name = "FROM", required_unless_present = "file")]
        from: Option<i64>,
        /// The newer version [default: the one in force]
        #[arg(value_name = "TO")]
        to: Option<i64>,
        /// A text, compared with what is in force
        #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
        file: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Put the text of an older version in force again, as a new version
    Rollback {
        /// Its number: jitctl rules history
        version: i64,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Shows, tests and changes rules.
pub(super) fn run(to: To<'_>, args: &RulesArgs) -> Result<Exit, Failure> {
    match &args.command {
        RulesCommand::Show { version, output } => {
            let call = version
                .iter()
                .fold(Call::get(["rules"]), |call, version| call.query("version", version));
            let view: RulesView = to.call(async |session| session.fetch(call).await)?;
            if output.json {
                text::print_pretty(&view)?;
            } else {
                text::print(&whole(&view.text))?;
            }
            Ok(Exit::Success)
        }
        RulesCommand::Check { file, output } => {
            let input = RulesTestInput { text: Some(read_rules(file)?), cases: String::new() };
            tried(to, &input, file, *output)
        }
        RulesCommand::Test { file, cases, output } => {
            let rules = if file == Path::new("-") { None } else { Some(read_rules(file)?) };
            let input = RulesTestInput { text: rules, cases: text_of(cases, "the cases")? };
            tried(to, &input, file, *output)
        }
        RulesCommand::Save { file, note, yes, output } => {
            let input = RulesInput { text: read_rules(file)?, note: note.clone() };
            to.call(async |session| save(session, &input, *yes, *output).await)
        }
        RulesCommand::History(output) => {
            let found: Vec<RulesView> =
                to.call(async |session| session.list(Call::get(["rules", "history"]), None).await)?;
            if output.json {
                text::print_pretty(&found)?;
            } else {
                text::print(&history(&found).text(Page::of_stdout(output.colours.style())))?;
            }
            Ok(Exit::Success)
        }
        RulesCommand::Diff { from, to: newer, file, output } => {
            let call = match file {
                Some(file) => posted_diff(&read_rules(file)?),
                None => {
                    let call = Call::get(["rules", "diff"]);
                    let call = from.iter().fold(call, |call, from| call.query("from", from));
                    newer.iter().fold(call, |call, newer| call.query("to", newer))
                }
            };
            let diff: RulesDiff = to.call(async |session| session.fetch(call).await)?;
            if output.json {
                text::print_pretty(&diff)?;
            } else {
                text::print(&coloured(&diff, *output))?;
            }
            Ok(Exit::Success)
        }
        RulesCommand::Rollback { version, yes, output } => to.call(async |session| {
            let call = Call::get(["rules"]).query("version", version);
            let old: RulesView = session.fetch(call).await?;
            let note = format!("rollback to version {version}");
            save(session, &RulesInput { text: old.text, note }, *yes, *output).await
        }),
    }
}

/// Shows what changes, asks, and saves: only if nobody has saved meanwhile.
async fn save(
    session: &Session,
    input: &RulesInput,
    yes: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let (before, version) = session.fetch_version::<RulesView>(Call::get(["rules"])).await?;
    let diff: RulesDiff = session.fetch(posted_diff(&input.text)).await?;
    if diff.text.is_empty() {
        return Err(Failure::refused(format!(
            "nothing to save: version {} says the same",
            before.version
        )));
    }
    if !output.json {
        text::print(&coloured(&diff, output))?;
    }
    if !yes && !ask::confirm("Put these rules in force?", "--yes")? {
        return Err(Failure::refused("nothing was saved"));
    }
    let version = version.unwrap_or_else(|| format!("\"{}\"", before.version));
    let call = Call::put(["rules"]).json(input).if_match(version);
    let view: RulesView = session.fetch(call).await?;
    if output.json {
        text::print_pretty(&view)?;
    } else {
        text::print(&format!("version {} is in force\n", view.version))?;
    }
    Ok(Exit::Success)
}

fn posted_diff(rules: &str) -> Call {
    let input = RulesInput { text: rules.to_owned(), note: String::new() };
    Call::post(["rules", "diff"]).json(&input)
}

/// Mistakes and cases; 0: none and all passed, 1: a case failed, 78: the text has mistakes.
fn tried(to: To<'_>, input: &RulesTestInput, file: &Path, output: Output) -> Result<Exit, Failure> {
    let call = Call::post(["rules", "test"]).json(input);
    let result: RulesTestResult = to.call(async |session| session.fetch(call).await)?;
    if output.json {
        text::print_pretty(&result)?;
    } else {
        text::print(&said(&result, file, Page::of_stdout(output.colours.style())))?;
    }
    Ok(match (result.mistakes.is_empty(), result.passed) {
        (false, _) => Exit::Configuration,
        (true, true) => Exit::Success,
        (true, false) => Exit::Degraded,
    })
}

fn said(result: &RulesTestResult, file: &Path, page: Page) -> String {
    let mut out = String::new();
    for TextMistake { line, column, text } in &result.mistakes {
        out += &format!("{}:{line}:{column}: {}\n", file.display(), text::printable(text));
    }
    if !result.mistakes.is_empty() {
        return out;
    }
    if result.cases.is_empty() {
        return "no mistakes\n".into();
    }
    let mut table = Table::new(&["LINE", "CASE", "RESULT", "RULES SAY", "WRONG"]);
    for case in &result.cases {
        let word = if case.passed { "passed" } else { "failed" };
        let says = match case.verdict.needs_text.as_str() {
            "" => case.verdict.outcome.clone(),
            needs => format!("{}: {needs}", case.verdict.outcome),
        };
        table.row([
            case.line.to_string().into(),
            case.name.as_str().into(),
            Cell::word(word),
            says.into(),
            case.wrong.join("; ").into(),
        ]);
    }
    let failed = result.cases.iter().filter(|case| !case.passed).count();
    format!("{}{}, {failed} failed\n", table.text(page), counted(result.cases.len(), "case"))
}

fn history(versions: &[RulesView]) -> Table {
    let mut table = Table::new(&["VERSION", "SAVED", "BY", "NOTE"]);
    for one in versions {
        table.row([
            one.version.to_string().into(),
            one.saved.as_str().into(),
            one.author.as_str().into(),
            one.note.as_str().into(),
        ]);
    }
    table
}

fn coloured(diff: &RulesDiff, output: Output) -> String {
    if diff.text.is_empty() {
        return "no difference\n".into();
    }
    let style = output.colours.style();
    let mut out = String::new();
    for line in clean_lines(diff.text.trim_end()).lines() {
        out += &match line.bytes().next() {
            Some(b'+') => style.paint("32", line),
            Some(b'-') => style.paint("31", line),
            _ => line.to_owned(),
        };
        out.push('\n');
    }
    out
}

/// A text of many lines, with one newline at its end.
fn whole(text: &str) -> String {
    format!("{}\n", clean_lines(text.trim_end()))
}

fn read_rules(path: &Path) -> Result<String, Failure> {
    text_of(path, "the rules")
}

fn text_of(path: &Path, what: &str) -> Result<String, Failure> {
    String::from_utf8(read(path, what)?)
        .map_err(|_| Failure::files(format!("cannot read {what} {}: not UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use jit_client::{
        controller::types::{RulesCaseView, VerdictView},
        status::Style,
    };

    use super::*;

    const PAGE: Page = Page::endless(Style::Plain);

    #[test]
    fn mistakes_are_shown_as_editors_read_them() {
        let mistakes = vec![TextMistake { line: 3, column: 7, text: "no entity Hots".into() }];
        let result = RulesTestResult { mistakes, ..RulesTestResult::default() };
        assert_eq!(said(&result, Path::new("r.cedar"), PAGE), "r.cedar:3:7: no entity Hots\n");
    }

    #[test]
    fn cases_are_counted() {
        let case = |name: &str, passed: bool| RulesCaseView {
            name: name.into(),
            line: 3,
            passed,
            wrong: if passed { Vec::new() } else { vec!["nobody may".into()] },
            verdict: VerdictView {
                outcome: "manual".into(),
                needs_text: "1 of sre".into(),
                ..VerdictView::default()
            },
        };
        let cases = vec![case("a", true), case("b", false)];
        let result = RulesTestResult { cases, ..RulesTestResult::default() };
        let text = said(&result, Path::new("r"), PAGE);
        assert!(text.ends_with("2 cases, 1 failed\n"), "{text}");
        assert!(text.contains("3     b     failed  manual: 1 of sre  nobody may\n"), "{text}");
        let none = RulesTestResult { passed: true, ..RulesTestResult::default() };
        assert_eq!(said(&none, Path::new("r"), PAGE), "no mistakes\n");
    }
}
