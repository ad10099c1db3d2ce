//! What was measured on which machine, and when.

use std::{fs, thread};

use serde::{Deserialize, Serialize};

use crate::shell;

/// The machine, the time and the sources.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Machine {
    /// Model of the processor.
    pub(super) processor: String,
    /// Processors that this task may use.
    pub(super) cores: usize,
    /// Version of Linux.
    pub(super) kernel: String,
    /// When the report was made, RFC 3339.
    pub(super) date: String,
    /// The commit, with `+` if files differ from it.
    pub(super) commit: String,
}

/// This machine, now.
pub(super) fn describe() -> Machine {
    let git = |arguments: &[&str]| {
        shell::answer(shell::program("git", arguments).current_dir(shell::root()))
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain"]).is_some_and(|changed| !changed.is_empty());
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        processor: processor(&cpuinfo).unwrap_or("unknown").to_owned(),
        cores: thread::available_parallelism().map_or(1, usize::from),
        kernel: kernel.trim().to_owned(),
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        commit: commit.map_or_else(
            || "unknown".to_owned(),
            |commit| if changed { commit + "+" } else { commit },
        ),
    }
}

/// The first model that `/proc/cpuinfo` names.
fn processor(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_the_first_model() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Example CPU @ 2.5GHz\n";
        assert_eq!(processor(cpuinfo), Some("Example CPU @ 2.5GHz"));
        assert_eq!(processor("processor : 0\n"), None);
    }
}
