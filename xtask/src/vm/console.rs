//! The lines that the machine's first process (`init.sh`) prints for the host on the serial
//! console. The kernel and other programs print there, too.

use std::collections::{BTreeMap, VecDeque};

use crate::test_output::Tally;

/// Number of lines of its output that a failed check shows.
const SHOWN: usize = 60;

/// Such a line begins with this. The unfinished line of another program may be in front of it.
const MARK: &str = "@vm ";

/// One line for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The release of the running kernel.
    Kernel(String),
    /// A check begins.
    Begin(String),
    /// A check has ended.
    End {
        /// Its name.
        check: String,
        /// The exit code. 0: success. 137: its time was up.
        code: i32,
        /// The time that it took, hundredths of a second.
        centiseconds: u64,
    },
    /// Whether the kernel has a feature.
    Feature {
        /// Its name.
        name: String,
        /// Whether it is there.
        there: bool,
        /// In which form, or why not.
        detail: String,
    },
    /// All checks have run.
    Done,
}

impl Line {
    /// Reads a line of the console.
    pub(super) fn read(line: &str) -> Option<Self> {
        let (_, said) = line.trim_end().split_once(MARK)?;
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        let mut fields = rest.splitn(3, ' ');
        let mut field = || fields.next().filter(|field| !field.is_empty());
        match word {
            "kernel" => Some(Self::Kernel(field()?.to_owned())),
            "begin" => Some(Self::Begin(field()?.to_owned())),
            "end" => {
                let (check, code) = (field()?.to_owned(), field()?.parse().ok()?);
                Some(Self::End { check, code, centiseconds: field()?.parse().ok()? })
            }
            "feature" => {
                let (name, word) = (field()?.to_owned(), field()?);
                let there = word == "yes";
                let detail = field().unwrap_or_default().to_owned();
                (there || word == "no").then_some(Self::Feature { name, there, detail })
            }
            "done" => Some(Self::Done),
            _ => None,
        }
    }
}

/// Result of a check.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The exit code, as in [`Line::End`].
    pub(super) code: i32,
    /// The time that it took, hundredths of a second.
    pub(super) centiseconds: u64,
    /// Results of its tests.
    pub(super) tests: Tally,
    /// The last lines of what was printed while it ran.
    pub(super) output: VecDeque<String>,
}

/// Everything that the console has reported so far.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// The kernel's release.
    pub(super) release: Option<String>,
    /// The kernel's features: whether each is there, with details.
    pub(super) features: BTreeMap<String, (bool, String)>,
    /// The checks that ended.
    pub(super) checks: BTreeMap<String, Ended>,
    /// Names of the checks, in the order in which they ended.
    pub(super) order: Vec<String>,
    /// The check that runs.
    pub(super) running: Option<String>,
    /// Whether the machine has run all checks.
    pub(super) done: bool,
    tests: Tally,
    output: VecDeque<String>,
}

impl Reported {
    /// Reads one line of the console.
    pub(super) fn read(&mut self, line: &str) {
        let Some(said) = Line::read(line) else {
            self.tests.read(line);
            if self.output.len() == SHOWN {
                self.output.pop_front();
            }
            self.output.push_back(line.to_owned());
            return;
        };
        match said {
            Line::Kernel(release) => self.release = Some(release),
            Line::Begin(check) => {
                self.tests = Tally::default();
                self.output.clear();
                self.running = Some(check);
            }
            Line::End { check, code, centiseconds } => {
                self.running = None;
                let tests = std::mem::take(&mut self.tests);
                let output = std::mem::take(&mut self.output);
                self.order.push(check.clone());
                self.checks.insert(check, Ended { code, centiseconds, tests, output });
            }
            Line::Feature { name, there, detail } => {
                self.features.insert(name, (there, detail));
            }
            Line::Done => self.done = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_the_host_are_found_after_unfinished_ones() {
        let end = Line::End { check: "frames".to_owned(), code: 137, centiseconds: 1234 };
        assert_eq!(Line::read("half a line@vm end frames 137 1234\r"), Some(end));
        let begin = Line::Begin("frames".to_owned());
        assert_eq!(Line::read("@vm begin frames"), Some(begin));
        assert_eq!(Line::read("@vm done"), Some(Line::Done));
    }

    #[test]
    fn a_feature_has_a_name_an_answer_and_perhaps_a_detail() {
        let read = |line| match Line::read(line) {
            Some(Line::Feature { name, there, detail }) => Some((name, there, detail)),
            _ => None,
        };
        let of =
            |name: &str, there, detail: &str| Some((name.to_owned(), there, detail.to_owned()));
        assert_eq!(
            read("@vm feature frags no load: Invalid argument (22)"),
            of("frags", false, "load: Invalid argument (22)")
        );
        assert_eq!(read("@vm feature tcx yes"), of("tcx", true, ""));
        assert_eq!(read("@vm feature tcx maybe"), None);
    }

    #[test]
    fn what_the_kernel_prints_is_not_for_us() {
        for line in ["[    0.52] Run /init as init process", "", "@vm", "@vm end x", "@vm hello"] {
            assert_eq!(Line::read(line), None, "{line}");
        }
    }

    #[test]
    fn tests_are_counted_for_the_check_that_they_ran_in() {
        let mut reported = Reported::default();
        for line in [
            "@vm kernel 5.10.0-46-cloud-amd64",
            "@vm begin one",
            "test a ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out",
            "@vm end one 0 150",
            "@vm begin two",
            "test b ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out",
            "@vm end two 101 20",
            "@vm begin three",
        ] {
            reported.read(line);
        }
        assert_eq!(reported.release.as_deref(), Some("5.10.0-46-cloud-amd64"));
        let one = reported.checks.get("one").unwrap();
        assert_eq!((one.code, one.tests.passed, one.tests.failed), (0, 1, 0));
        let two = reported.checks.get("two").unwrap();
        assert_eq!((two.code, two.tests.passed, two.tests.failed), (101, 2, 1));
        assert_eq!(two.tests.failures, ["b"]);
        assert_eq!(two.output.front().map(String::as_str), Some("test b ... FAILED"));
        assert_eq!((reported.running.as_deref(), reported.done), (Some("three"), false));
    }
}
