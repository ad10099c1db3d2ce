//! Results of all machines: the failures on each kernel, the table of all kernels, and the same as
//! JSON.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};

use super::{
    checks::{FEATURES, FEATURES_STEP, Step},
    console::{Ended, Reported},
};
use crate::test_output::Tally;

/// Exit code of a program that was killed because its time was up.
const KILLED: i32 = 137;

/// One kernel's run.
pub(super) struct Machine {
    /// Which kernel of the matrix.
    pub(super) label: &'static str,
    /// The version of its package.
    pub(super) version: String,
    /// The time from start to power-off.
    pub(super) took: Duration,
    /// The checks that it had to run.
    pub(super) steps: Vec<Step>,
    /// What its console reported.
    pub(super) reported: Reported,
    /// Why it broke off, if it did.
    pub(super) broke_off: Option<String>,
}

impl Machine {
    /// All failures. An empty list is a success.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong: Vec<String> = self.broke_off.clone().into_iter().collect();
        let asked = self.steps.iter().any(|step| step.name == FEATURES_STEP);
        for feature in FEATURES.iter().filter(|_| asked) {
            let name = feature.name;
            let expected = feature.expected(&self.version);
            match self.reported.features.get(name) {
                None => wrong.push(format!("{name}: it was not reported")),
                Some((true, _)) if !expected => {
                    wrong.push(format!("{name}: the kernel has it, but should not"));
                }
                Some((false, why)) if expected => {
                    wrong.push(format!("{name}: the kernel should have it, but does not: {why}"));
                }
                Some(_) => {}
            }
        }
        for Step { name, .. } in &self.steps {
            match self.reported.checks.get(*name) {
                None => wrong.push(format!("{name}: did not end")),
                Some(ended) => wrong.extend(failure(ended).map(|why| format!("{name}: {why}"))),
            }
        }
        wrong
    }

    /// What each failed check printed, after its name.
    pub(super) fn failed(&self) -> impl Iterator<Item = (&str, &VecDeque<String>)> {
        let checks = self.reported.checks.iter().filter(|(_, ended)| failure(ended).is_some());
        checks.map(|(name, ended)| (name.as_str(), &ended.output))
    }

    /// Results of its tests. The name of the kernel is part of each test's name.
    pub(super) fn tests(&self) -> Tally {
        let mut total = Tally::default();
        for Ended { tests, .. } in self.reported.checks.values() {
            let failures = tests.failures.iter().map(|name| format!("{}: {name}", self.label));
            // Tests that were left out are not about the kernel, so they do not count as skipped.
            total.add(Tally { skipped: 0, failures: failures.collect(), ..tests.clone() });
        }
        total
    }

    fn json(&self) -> Value {
        let features = FEATURES.iter().map(|feature| {
            let (there, detail) = self.reported.features.get(feature.name).cloned().unzip();
            let expected = feature.expected(&self.version);
            let value = json!({ "there": there, "expected": expected, "detail": detail });
            (feature.name.to_owned(), value)
        });
        let checks = self.reported.checks.iter().map(|(name, ended)| {
            let Ended { code, centiseconds, tests, output: _ } = ended;
            let value = json!({
                "ok": failure(ended).is_none(),
                "code": code,
                "passed": tests.passed,
                "failed": tests.failed,
                "milliseconds": centiseconds * 10,
            });
            (name.clone(), value)
        });
        json!({
            "kernel": self.label,
            "package": self.version,
            "release": self.reported.release,
            "milliseconds": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "features": features.collect::<serde_json::Map<_, _>>(),
            "checks": checks.collect::<serde_json::Map<_, _>>(),
            "wrong": self.wrong(),
        })
    }

    fn feature_cell(&self, name: &str, expected: bool) -> String {
        match self.reported.features.get(name) {
            Some((true, _)) if expected => "yes".to_owned(),
            Some((false, _)) if !expected => "no, as known".to_owned(),
            Some((true, _)) => "✗ yes".to_owned(),
            Some((false, _)) => "✗ no".to_owned(),
            None => "?".to_owned(),
        }
    }

    fn step_cell(&self, name: &str) -> String {
        if self.steps.iter().all(|step| step.name != name) {
            return "-".to_owned();
        }
        match self.reported.checks.get(name) {
            None => "✗ did not end".to_owned(),
            Some(ended) => cell(ended),
        }
    }
}

fn cell(ended: &Ended) -> String {
    let Ended { centiseconds, tests, .. } = ended;
    let sign = if failure(ended).is_none() { "✓" } else { "✗" };
    let of = tests.passed + tests.failed;
    format!("{sign} {} of {of}, {} s", tests.passed, centiseconds.div_ceil(100))
}

/// The result of a check, in one line.
pub(super) fn sentence(name: &str, ended: &Ended) -> String {
    let why = failure(ended).map(|why| format!(": {why}")).unwrap_or_default();
    format!("{name:<14} {}{why}", cell(ended))
}

/// Why a check failed; `None` if it did not.
fn failure(ended: &Ended) -> Option<String> {
    let Ended { code, tests, .. } = ended;
    if *code == KILLED {
        Some("did not end in its time".to_owned())
    } else if tests.failed > 0 {
        Some(format!("failed: {}", tests.failures.join(", ")))
    } else if *code != 0 {
        Some(format!("ended with {code}"))
    } else if tests.closed == 0 || tests.passed == 0 {
        Some("ran no test".to_owned())
    } else {
        None
    }
}

/// Kernel by feature and check, for a person.
pub(super) fn table(machines: &[Machine]) -> String {
    let mut rows = vec![line("", machines.iter().map(|machine| machine.label.to_owned()))];
    rows.push(line("package", machines.iter().map(|machine| machine.version.clone())));
    for feature in &FEATURES {
        let cells = machines
            .iter()
            .map(|machine| machine.feature_cell(feature.name, feature.expected(&machine.version)));
        rows.push(line(feature.name, cells));
    }
    let mut names: Vec<&str> = Vec::new();
    for step in machines.iter().flat_map(|machine| &machine.steps) {
        if !names.contains(&step.name) {
            names.push(step.name);
        }
    }
    for name in names {
        rows.push(line(name, machines.iter().map(|machine| machine.step_cell(name))));
    }
    let whole = machines.iter().map(|machine| {
        let sign = if machine.wrong().is_empty() { "✓" } else { "✗" };
        format!("{sign} {} s", machine.took.as_secs())
    });
    rows.push(line("all", whole));
    rows.concat()
}

/// The results as JSON, for programs.
pub(super) fn json(machines: &[Machine]) -> Value {
    json!({
        "ok": machines.iter().all(|machine| machine.wrong().is_empty()),
        "kernels": machines.iter().map(Machine::json).collect::<Vec<_>>(),
    })
}

fn line(head: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("  {cell:<20}")).collect();
    format!("  {head:<22}{}\n", cells.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(version: &str, console: &[&str]) -> Machine {
        let mut reported = Reported::default();
        console.iter().for_each(|line| reported.read(line));
        let step = |name| Step { name, limit: Duration::from_secs(1), command: String::new() };
        Machine {
            label: "5.10",
            version: version.to_owned(),
            took: Duration::from_secs(7),
            steps: vec![step(FEATURES_STEP), step("load")],
            broke_off: (!reported.done).then(|| "broke off".to_owned()),
            reported,
        }
    }

    fn features(there: bool) -> Vec<String> {
        let word = if there { "yes" } else { "no" };
        let said = FEATURES.iter().map(|feature| format!("@vm feature {} {word}", feature.name));
        let closing = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 32 filtered";
        ["@vm begin features".to_owned()]
            .into_iter()
            .chain(said)
            .chain([closing.to_owned(), "@vm end features 0 50".to_owned()])
            .collect()
    }

    fn run(version: &str, features: &[String], rest: &[&str]) -> Machine {
        let lines: Vec<&str> = features.iter().map(String::as_str).chain(rest.to_vec()).collect();
        machine(version, &lines)
    }

    const GOOD: &[&str] = &[
        "@vm begin load",
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 32 filtered out",
        "@vm end load 0 212",
        "@vm done",
    ];

    #[test]
    fn a_kernel_with_all_that_is_expected_is_right() {
        let machine = run("7.2.13-1", &features(true), GOOD);
        assert_eq!(machine.wrong(), Vec::<String>::new());
        assert_eq!(json(&[machine]).get("ok"), Some(&Value::Bool(true)));
    }

    #[test]
    fn a_feature_that_is_missing_or_too_many_is_wrong() {
        let missing = run("7.2.13-1", &features(false), GOOD).wrong();
        assert_eq!(missing.len(), FEATURES.len(), "{missing:?}");
        let known = FEATURES.iter().filter(|feature| !feature.expected("5.10.262-1")).count();
        let unexpected = run("5.10.262-1", &features(true), GOOD).wrong();
        assert_eq!(unexpected.len(), known, "{unexpected:?}");
        let unsaid = run("7.2.13-1", &[], GOOD).wrong();
        assert_eq!(unsaid.len(), FEATURES.len() + 1, "{unsaid:?}");
    }

    #[test]
    fn a_check_that_fails_dies_or_runs_nothing_is_wrong() {
        let begin = "@vm begin load";
        let ended = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered";
        let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 33 filtered";
        for (lines, why) in [
            (&[begin, "test a ... FAILED", ended, "@vm end load 101 9", "@vm done"][..], "a"),
            (&[begin, "@vm end load 137 900", "@vm done"], "time"),
            (&[begin, "@vm end load 127 1", "@vm done"], "127"),
            (&[begin, nothing, "@vm end load 0 9", "@vm done"], "no test"),
            (&["@vm done"], "did not end"),
        ] {
            let wrong = run("7.2.13-1", &features(true), lines).wrong();
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong.iter().all(|text| text.contains(why)), "{wrong:?}");
        }
        let lines = [begin, "test a ... FAILED", ended, "@vm end load 101 9", "@vm begin more"];
        let machine = run("7.2.13-1", &features(true), &lines);
        let printed: Vec<_> = machine.failed().collect();
        assert!(matches!(printed[..], [("load", output)] if output[0] == "test a ... FAILED"));
        let broken = run("7.2.13-1", &features(true), &[begin]).wrong();
        assert_eq!(broken, ["broke off", "load: did not end"]);
    }

    #[test]
    fn tests_count_with_the_name_of_their_kernel() {
        let failed = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 3 filtered";
        let lines = ["@vm begin load", "test a ... FAILED", failed, "@vm end load 101 9"];
        let tests = run("7.2.13-1", &features(true), &lines).tests();
        assert_eq!((tests.passed, tests.failed, tests.skipped), (2, 2, 0));
        assert_eq!(tests.failures, ["5.10: a"]);
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel_and_marks_what_is_wrong() {
        let machines =
            [run("7.2.13-1", &features(true), GOOD), run("7.2.13-1", &features(true), &[])];
        let table = table(&machines);
        let load = table.lines().find(|line| line.trim_start().starts_with("load")).unwrap();
        assert!(load.contains("✓ 1 of 1, 3 s") && load.contains("✗ did not end"), "{load}");
    }
}
