//! Questions to the person at the terminal. Where nobody sits, nothing is asked.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use crate::failure::Failure;

/// The longest answer that is read, bytes.
const MAX_BYTES: u64 = 4096;

/// Whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line; empty: the person ended it.
pub(super) fn line(question: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::usage(format!("cannot read the answer: {error}"));
    let _gone = write!(io::stderr(), "{question} ");
    let mut answer = String::new();
    io::stdin().lock().take(MAX_BYTES).read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().to_owned())
}

/// Asks yes or no; all but yes is no. Without a terminal this is an error that names the option.
pub(super) fn confirm(question: &str, option: &str) -> Result<bool, Failure> {
    if !can_ask() {
        return Err(Failure::usage(format!("{question} Nobody can be asked here: add {option}")));
    }
    Ok(is_yes(&line(&format!("{question} [y/N]"))?))
}

/// Asks for one of these; `None`: for none.
pub(super) fn choose(question: &str, choices: &[String]) -> Result<Option<usize>, Failure> {
    let mut text = format!("{question}\n");
    for (number, choice) in choices.iter().enumerate() {
        text += &format!("  {}  {choice}\n", number + 1);
    }
    let answer = line(&format!("{text}Number, or Enter for none:"))?;
    Ok(number_of(&answer, choices.len()))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")
}

fn number_of(answer: &str, choices: usize) -> Option<usize> {
    answer.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y") && is_yes("YES"));
        for no in ["", "n", "yy", "ok", "1"] {
            assert!(!is_yes(no), "{no}");
        }
    }

    #[test]
    fn only_a_number_that_was_shown_is_a_choice() {
        assert_eq!(number_of("2", 2), Some(1));
        for none in ["", "0", "3", "-1", "x"] {
            assert_eq!(number_of(none, 2), None, "{none}");
        }
    }
}
