//! The table of a run.

use std::time::Duration;

/// A step that was done.
pub(super) struct Result {
    pub(super) name: &'static str,
    pub(super) took: Duration,
    /// What was seen, or why it failed.
    pub(super) seen: std::result::Result<String, String>,
}

impl Result {
    /// The step as one line, or more if it failed.
    pub(super) fn line(&self) -> String {
        let Self { name, took, seen } = self;
        let (mark, text) = match seen {
            Ok(seen) => ("PASS", seen),
            Err(why) => ("FAIL", why),
        };
        format!("{mark}  {name:<20} {:>5.0} s  {text}", took.as_secs_f64())
    }
}

/// All steps, as a table of Markdown.
pub(super) fn table(results: &[Result]) -> String {
    let mut text = "| step | result | s | seen |\n|---|---|---|---|\n".to_owned();
    for Result { name, took, seen } in results {
        let (mark, seen) = match seen {
            Ok(seen) => ("pass", seen),
            Err(why) => ("**FAIL**", why),
        };
        let seen = seen.replace('\n', " ").replace('|', "/");
        text += &format!("| {name} | {mark} | {:.0} | {seen} |\n", took.as_secs_f64());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stays_one_row() {
        let seen = Err("a | b\nc".to_owned());
        let results = [Result { name: "boot", took: Duration::from_millis(1600), seen }];
        let table = table(&results);
        assert_eq!(table.lines().last(), Some("| boot | **FAIL** | 2 | a / b c |"));
    }
}
