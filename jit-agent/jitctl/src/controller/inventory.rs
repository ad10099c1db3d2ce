//! `jitctl hosts import`: a file of hosts, which the controller reads and checks.

use std::path::Path;

use jit_client::{
    controller::{call::Call, types::ImportResult},
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
    remove: bool,
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
        .query("remove", if remove { "true" } else { "" })
        .text(kind, bytes)
        .key(ulid::Ulid::generate().to_string());
    let result: ImportResult = to.call(async |session| session.fetch(call).await)?;
    if output.json {
        text::print_pretty(&result)?;
    } else {
        text::print(&said(&result))?;
    }
    Ok(Exit::Success)
}

fn said(result: &ImportResult) -> String {
    let ImportResult { added, changed, removed, unchanged, dry_run } = result;
    let mut out = String::new();
    for (word, names) in [("added", added), ("changed", changed), ("removed", removed)] {
        let shown = match names.len() {
            0 => String::new(),
            count => format!(": {}", text::printable(&show::first(names, count))),
        };
        out += &format!("{word} {}{shown}\n", names.len());
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
    fn a_trial_says_that_it_was_one() {
        let added = vec!["web-1".to_owned()];
        let result = ImportResult { added, unchanged: 2, dry_run: true, ..ImportResult::default() };
        let text = said(&result);
        let begin = "added 1: web-1\nchanged 0\nremoved 0\nunchanged 2\nthis was only a trial";
        assert!(text.starts_with(begin), "{text}");
    }
}
