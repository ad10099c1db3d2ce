//! Questions on a terminal: one on a line, with the answer that Enter gives in brackets.

use std::io::{BufRead, Write};

use jit_proto::printable::clean;

use crate::oncall::failure::Failure;

/// The longest line that is read, bytes: a terminal gives no longer one (`N_TTY_BUF_SIZE`).
const LONGEST: u64 = 4096;
/// The most wrong answers to one question.
const TRIES: usize = 20;

/// Asks on one side, reads on the other.
pub(super) struct Asker<R, W> {
    answers: R,
    questions: W,
}

impl<R: BufRead, W: Write> Asker<R, W> {
    pub(super) const fn new(answers: R, questions: W) -> Self {
        Self { answers, questions }
    }

    /// Says something before a question.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.questions, "{}", clean(text, usize::MAX))?)
    }

    /// Asks until the answer can be taken. An empty answer is `default`; what is shown for an empty
    /// default is "none".
    ///
    /// # Errors
    /// The answers ended, or too many were wrong.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        take: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        for _ in 0..TRIES {
            let shown = default.map(|default| if default.is_empty() { "none" } else { default });
            let shown = shown.map(|shown| format!(" [{shown}]")).unwrap_or_default();
            write!(self.questions, "{}: ", clean(&format!("{question}{shown}"), usize::MAX))?;
            self.questions.flush()?;
            let answer = self.line()?;
            let answer = match (answer.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match take(answer) {
                Ok(taken) => return Ok(taken),
                Err(why) => self.say(&format!("  {why}"))?,
            }
        }
        Err(Failure::Refused(format!(
            "{question}: {TRIES} answers could not be taken: nothing is written"
        )))
    }

    /// Asks for yes or no.
    pub(super) fn confirm(&mut self, question: &str, default: bool) -> Result<bool, Failure> {
        let shown = if default { "Y/n" } else { "y/N" };
        self.ask(question, Some(shown), |answer| match answer.to_lowercase().as_str() {
            "y/n" => Ok(default),
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err("answer y or n".into()),
        })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let mut limited = std::io::Read::take(&mut self.answers, LONGEST);
        limited.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(Failure::Refused("the answers ended: nothing is written".into()));
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Words with spaces or commas between them; "none" and nothing at all: no word.
pub(super) fn words(answer: &str) -> Vec<&str> {
    let words: Vec<_> = answer.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        ["none"] => Vec::new(),
        _ => words,
    }
}

/// The same, each parsed.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    answer: &str,
) -> Result<Vec<T>, String> {
    words(answer).into_iter().map(|word| word.parse().map_err(|error| format!("{error}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(answers: &str) -> (Result<u16, Failure>, String) {
        let mut questions = Vec::new();
        let mut asker = Asker::new(answers.as_bytes(), &mut questions);
        let taken = asker.ask("A number", Some("7"), |text| {
            text.parse().map_err(|_| format!("{text:?} is no number"))
        });
        (taken, String::from_utf8(questions).unwrap())
    }

    #[test]
    fn enter_takes_the_default_and_a_wrong_answer_is_asked_again() {
        assert_eq!(asked("\n").0.unwrap(), 7);
        let (taken, said) = asked("many\n 9 \n");
        assert_eq!(taken.unwrap(), 9);
        assert_eq!(said, "A number [7]:   \"many\" is no number\nA number [7]: ");
    }

    #[test]
    fn no_more_answers_are_an_error_and_so_are_wrong_ones_without_end() {
        assert!(asked("").0.unwrap_err().to_string().contains("nothing is written"));
        let (taken, said) = asked(&"x\n".repeat(100));
        assert!(taken.unwrap_err().to_string().contains("20 answers"));
        assert_eq!(said.matches("A number").count(), 20);
    }

    #[test]
    fn yes_and_no_have_a_default() {
        for (answers, default, expected) in [
            ("\n", true, true),
            ("\n", false, false),
            ("YES\n", false, true),
            ("?\nn\n", true, false),
        ] {
            let mut asker = Asker::new(answers.as_bytes(), Vec::new());
            assert_eq!(asker.confirm("Sure", default).unwrap(), expected, "{answers:?}");
        }
    }

    #[test]
    fn lists_take_spaces_and_commas() {
        assert_eq!(words("22, 3389/tcp ,5985"), ["22", "3389/tcp", "5985"]);
        assert_eq!(words(" none "), [""; 0]);
        assert!(parsed::<u16>("1 x").is_err());
    }
}
