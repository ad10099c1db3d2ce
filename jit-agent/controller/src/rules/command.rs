//! `jit-controller rules`: check, test and compare files of rules, without a server. For continuous
//! integration: the exit code says what was found.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use jit_client::exit::Exit;
use jit_proto::words::counted;
use serde_json::json;

use super::{
    Action, DEFAULT, DEFAULT_CASES, MAX_BYTES, Mistake, Rules, SCHEMA, cases,
    diff::{self, in_words},
};

/// `jit-controller rules`
#[derive(Args, Clone, Debug)]
pub struct RulesArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RulesCommand,
}

/// The commands of `jit-controller rules`.
#[derive(Clone, Debug, Subcommand)]
pub enum RulesCommand {
    /// Check a file of rules: every mistake with its line and column
    Check {
        /// Rules, Cedar
        rules: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the rules that `init` writes, their cases, or the schema
    Default {
        /// What to print
        #[arg(value_enum, default_value_t = Which::Rules)]
        which: Which,
    },
    /// Compare two files of rules: by rule, as text, and which cases change
    Diff {
        /// Rules as they are
        old: PathBuf,
        /// Rules as they will be
        new: PathBuf,
        /// Cases, TOML
        #[arg(long)]
        cases: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Test a file of rules with cases: exits with 1 if one is not as expected
    Test {
        /// Rules, Cedar
        rules: PathBuf,
        /// Cases, TOML
        cases: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What `rules default` prints.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Which {
    /// Cases for the rules
    Cases,
    /// The rules
    Rules,
    /// What rules can speak of
    Schema,
}

/// Runs a command. Answers go to `out`, mistakes to `err`.
///
/// # Errors
/// Those of `out` and `err`.
pub fn run(
    args: &RulesArgs,
    out: &mut impl io::Write,
    err: &mut impl io::Write,
) -> io::Result<Exit> {
    match carry_out(&args.command) {
        Ok((text, exit)) => {
            out.write_all(text.as_bytes())?;
            out.flush()?;
            Ok(exit)
        }
        Err(text) => {
            writeln!(err, "{}", text.trim_end())?;
            Ok(Exit::Configuration)
        }
    }
}

/// What is printed, and the exit code; or what is wrong with a file.
fn carry_out(command: &RulesCommand) -> Result<(String, Exit), String> {
    match command {
        RulesCommand::Check { rules, json } => {
            let text = contents(rules)?;
            match (Rules::parse(0, &text), json) {
                (Ok(_), true) => Ok((line(&json!({ "mistakes": [] })), Exit::Success)),
                (Ok(read), false) => {
                    let (table, count) = (table(&read), read.0.written.len());
                    let end =
                        format!("{}: {}, no mistake\n", rules.display(), counted(count, "rule"));
                    Ok((format!("{table}{end}"), Exit::Success))
                }
                (Err(all), true) => Ok((line(&json!({ "mistakes": all })), Exit::Configuration)),
                (Err(all), false) => Err(with_path(rules, &all)),
            }
        }
        RulesCommand::Default { which } => {
            let text = match which {
                Which::Cases => DEFAULT_CASES,
                Which::Rules => DEFAULT,
                Which::Schema => SCHEMA,
            };
            Ok((text.to_owned(), Exit::Success))
        }
        RulesCommand::Diff { old, new, cases, json } => {
            let (before, after) = (parsed(1, old)?, parsed(2, new)?);
            let found = diff::diff(&before, &after);
            let changes = match cases {
                None => Vec::new(),
                Some(path) => diff::cases(&before, &after, &contents(path)?)
                    .map_err(|mistakes| with_path(path, &mistakes))?,
            };
            let exit = if found.unified.is_empty() { Exit::Success } else { Exit::Degraded };
            if *json {
                return Ok((line(&json!({ "rules": found, "cases": changes })), exit));
            }
            let mut text = found.unified;
            for (word, rules) in
                [("new", found.added), ("changed", found.changed), ("removed", found.removed)]
            {
                text.extend(rules.iter().map(|rule| format!("{word}: {rule}\n")));
            }
            for change in changes {
                let fails = if change.passes { "" } else { "  NOT AS EXPECTED" };
                let diff::CaseChange { name, before, after, .. } = change;
                text.push_str(&format!("case {name:?}: {before} -> {after}{fails}\n"));
            }
            Ok((text, exit))
        }
        RulesCommand::Test { rules, cases: path, json } => {
            let results = cases::run(&parsed(0, rules)?, &contents(path)?)
                .map_err(|mistakes| with_path(path, &mistakes))?;
            let failed = results.iter().filter(|result| !result.passed()).count();
            let exit = if failed == 0 { Exit::Success } else { Exit::Degraded };
            if *json {
                return Ok((line(&json!({ "cases": results, "failed": failed })), exit));
            }
            let mut text = String::new();
            let width = results.iter().map(|result| result.name.chars().count()).max().unwrap_or(0);
            for result in &results {
                let mark = if result.passed() { "ok  " } else { "FAIL" };
                let (name, words) = (&result.name, in_words(&result.verdict));
                text.push_str(&format!("{mark}  {name:width$}  {words}\n"));
                for why in &result.wrong {
                    let place = format!("{}:{}", path.display(), result.line);
                    text.push_str(&format!("      {place}: {why}\n"));
                }
            }
            text.push_str(&format!(
                "{}, {failed} not as expected\n",
                counted(results.len(), "case")
            ));
            Ok((text, exit))
        }
    }
}

/// A line for each rule: name, effect, actions, what it asks for.
fn table(rules: &Rules) -> String {
    let written = &rules.0.written;
    let width = written.iter().map(|rule| rule.id.chars().count()).max().unwrap_or(0);
    let row = |rule: &super::written::Written| {
        let actions = match rule.actions.len() {
            all if all == Action::ALL.len() => "everything".to_owned(),
            _ => rule.actions.iter().map(|action| action.word()).collect::<Vec<_>>().join(" "),
        };
        let (id, effect, asks) = (&rule.id, rule.effect_word(), rule.asks().join(", "));
        let row = format!("{id:width$}  {effect}  {actions}  {asks}");
        format!("{}\n", row.trim_end())
    };
    written.iter().map(row).collect()
}

fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

fn parsed(version: i64, path: &Path) -> Result<Rules, String> {
    Rules::parse(version, &contents(path)?).map_err(|mistakes| with_path(path, &mistakes))
}

fn with_path(path: &Path, mistakes: &[Mistake]) -> String {
    let line = |Mistake { line, column, text }: &Mistake| {
        format!("{}:{line}:{column}: {text}\n", path.display())
    };
    mistakes.iter().map(line).collect()
}

fn contents(path: &Path) -> Result<String, String> {
    let cannot = |why: String| format!("cannot read {}: {why}", path.display());
    let size = fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    // Cases are larger than rules.
    if size > 16 * MAX_BYTES as u64 {
        return Err(cannot(format!(
            "it has {size} bytes; no file of rules or cases is that large"
        )));
    }
    fs::read_to_string(path).map_err(|error| cannot(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code, standard output and standard error.
    fn outcome(command: RulesCommand) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(&RulesArgs { command }, &mut out, &mut err).unwrap();
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_pipeline_learns_from_the_exit_code_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let rules = file("default.cedar", DEFAULT);
        let other = file("other.cedar", &DEFAULT.replace("\"3h\"", "\"30m\""));
        let bad = file("bad.cedar", "permit (principal, action == Action::\"raed\", resource);");
        let good_cases = file("cases.toml", DEFAULT_CASES);

        let check = |rules: &Path, json| outcome(RulesCommand::Check { rules: rules.into(), json });
        let (exit, out, _) = check(&rules, false);
        assert_eq!(exit, Exit::Success);
        assert!(out.ends_with("rules, no mistake\n"), "{out}");
        assert!(
            out.contains("\nprod                     permit  initiate  1 of approvers, "),
            "{out}"
        );
        let (exit, out, err) = check(&bad, false);
        assert_eq!((exit, out.as_str()), (Exit::Configuration, ""));
        assert!(err.contains("bad.cedar:1:30: "), "{err}");
        let (exit, out, _) = check(&bad, true);
        assert_eq!((exit, out.starts_with("{\"mistakes\":[{\"")), (Exit::Configuration, true));
        let (exit, _, err) = check(&directory.path().join("none"), false);
        assert_eq!((exit, err.starts_with("cannot read ")), (Exit::Configuration, true));

        let test = |rules: &Path, cases: &Path| {
            let (rules, cases) = (rules.into(), cases.into());
            outcome(RulesCommand::Test { rules, cases, json: false })
        };
        let (exit, out, _) = test(&rules, &good_cases);
        assert_eq!((exit, out.contains("0 not as expected")), (Exit::Success, true), "{out}");
        let (exit, out, _) = test(&other, &good_cases);
        assert_eq!((exit, out.contains("FAIL  sre needs")), (Exit::Degraded, true), "{out}");
        assert!(out.contains("cases.toml:5: it is denied, not manual: 22/tcp on"), "{out}");
        assert_eq!(test(&rules, &bad).0, Exit::Configuration);

        let compare = |new: &Path| {
            let (old, new, cases) = (rules.clone(), new.into(), Some(good_cases.clone()));
            outcome(RulesCommand::Diff { old, new, cases, json: false })
        };
        assert_eq!(compare(&rules), (Exit::Success, String::new(), String::new()));
        let (exit, out, _) = compare(&other);
        assert_eq!(exit, Exit::Degraded);
        assert!(out.contains("\nchanged: sre\n"), "{out}");
        assert!(out.contains("denied: at most 30m (sre)  NOT AS EXPECTED\n"), "{out}");
        let default = outcome(RulesCommand::Default { which: Which::Rules });
        assert_eq!(default, (Exit::Success, DEFAULT.to_owned(), String::new()));
    }
}
