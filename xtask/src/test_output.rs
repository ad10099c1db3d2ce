//! Reads the output of a Rust test program: the numbers of tests that passed, failed or did not
//! run, and the names of those that failed. `test` judges them.

/// Results of one test program, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that were ignored or filtered out.
    pub(crate) skipped: usize,
    /// Names of the tests that failed.
    pub(crate) failures: Vec<String>,
    /// Number of programs that printed their closing line.
    pub(crate) closed: usize,
    /// The last test whose name was printed.
    pub(crate) running: String,
}

impl Tally {
    /// Reads one line of a test program's output. It may contain colours.
    pub(crate) fn read(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, verdict)) = rest.rsplit_once(" ...")
        {
            self.running = name.to_owned();
            if verdict.trim_start().starts_with("FAILED") {
                self.failures.push(name.to_owned());
            }
        } else if line == "FAILED" {
            // With one test at a time, the test's own output comes before its result.
            self.failures.push(self.running.clone());
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.closed += 1;
            self.passed += before(rest, " passed");
            self.failed += before(rest, " failed");
            self.skipped += before(rest, " ignored") + before(rest, " filtered out");
        }
    }

    /// Number of tests in the program.
    pub(crate) fn known(&self) -> usize {
        self.passed + self.failed + self.skipped
    }

    /// Adds the results of another program.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped, failures, closed, running: _ } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
        self.failures.extend(failures);
        self.closed += closed;
    }
}

/// The number before this word.
fn before(text: &str, word: &str) -> usize {
    text.split_once(word)
        .and_then(|(head, _)| head.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The line without the escape sequences for colours.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((head, tail)) = rest.split_once("\x1b[") {
        plain.push_str(head);
        rest = tail.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn closing_line_is_counted() {
        let tally = tally(&[
            "running 9 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 1 filtered out; \
             finished in 0.01s",
        ]);
        let expected = Tally {
            passed: 5,
            failed: 1,
            skipped: 3,
            failures: vec!["a::c".to_owned()],
            closed: 1,
            running: "a::c".to_owned(),
        };
        assert_eq!(tally, expected);
        assert_eq!(tally.known(), 9);
    }

    #[test]
    fn a_verdict_may_stand_after_what_its_test_printed() {
        let tally = tally(&["test a ... ok", "test b ... ", "thread 'b' panicked", "FAILED"]);
        assert_eq!(tally.failures, ["b"]);
    }

    #[test]
    fn colours_hide_nothing() {
        let tally = tally(&[
            "test x ... \x1b[31mFAILED\x1b[0m",
            "test result: \x1b[31mFAILED\x1b[0m. 0 passed; 1 failed; 0 ignored; 0 measured; 0 \
             filtered out; finished in 0.00s",
        ]);
        assert_eq!((tally.failed, tally.failures.as_slice()), (1, &["x".to_owned()][..]));
    }

    #[test]
    fn a_program_that_dies_never_closes() {
        assert_eq!(tally(&["running 3 tests", "test a ... ok"]).closed, 0);
    }
}
