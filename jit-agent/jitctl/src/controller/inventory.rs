//! `jitctl hosts import`: a file of hosts, which the controller reads and checks.

use std::path::Path;

use jit_client::{
    controller::{
        call::Call,
        types::{ImportMistake, ImportResult},
    },
    exit::Exit,
    files::read_up_to,
};

use super::{Output, session::To, show};
use crate::{failure::Failure, text};

/// The largest file that is sent, bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Sends the file.
pub(super) fn import(
    to: To<'_>,
    file: &Path,
    dry_run: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let kind = match file.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => "text/csv",
        Some("toml") => "application/toml",
        _ => {
            return Err(Failure::usage(format!(
                "{} is CSV or TOML? Give it the ending .csv or .toml",
                file.display()
            )));
        }
    };
    let bytes = read_up_to(file, "the file of hosts", MAX_BYTES)?;
    let call = Call::post(["hosts", "import"])
        .query("dry_run", if dry_run { "true" } else { "" })
        .text(kind, bytes)
        .key(ulid::Ulid::generate().to_string());
    let result: ImportResult = to.call(async |session| session.fetch(call).await)?;
    let exit = if result.mistakes.is_empty() { Exit::Success } else { Exit::Configuration };
    if output.json {
        text::print_pretty(&result)?;
    } else {
        text::print(&said(&result, file))?;
    }
    Ok(exit)
}

fn said(result: &ImportResult, file: &Path) -> String {
    let ImportResult { added, changed, unchanged, dry_run, mistakes } = result;
    let mut out = String::new();
    for ImportMistake { line, text } in mistakes {
        let text = text::printable(text);
        out += &match line {
            0 => format!("{}: {text}\n", file.display()),
            line => format!("{}:{line}: {text}\n", file.display()),
        };
    }
    if !mistakes.is_empty() {
        return format!("{out}nothing was changed\n");
    }
    for (word, names) in [("added", added), ("changed", changed)] {
        let names = match names.len() {
            0 => String::new(),
            count => format!(": {}", text::printable(&show::first(names, count))),
        };
        let count = if word == "added" { added.len() } else { changed.len() };
        out += &format!("{word} {count}{names}\n");
    }
    out += &format!("unchanged {unchanged}\n");
    if *dry_run {
        out += "this was only a trial: nothing was changed\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_shown_with_their_lines() {
        let mistakes = vec![ImportMistake { line: 3, text: "no address".into() }];
        let result = ImportResult { mistakes, ..ImportResult::default() };
        let text = said(&result, Path::new("hosts.csv"));
        assert_eq!(text, "hosts.csv:3: no address\nnothing was changed\n");
        let added = vec!["web-1".to_owned()];
        let result = ImportResult { added, unchanged: 2, dry_run: true, ..ImportResult::default() };
        let text = said(&result, Path::new("hosts.csv"));
        assert!(
            text.starts_with("added 1: web-1\nchanged 0\nunchanged 2\nthis was only"),
            "{text}"
        );
    }
}
