//! Whether the limits on memory leave room for the kernel's tables and the agent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{finding::Finding, host::Host, kernel};
use crate::{config::Limits, kernel::datapath::need::Need};

const GROUPS: &str = "/sys/fs/cgroup";
const MIB: u64 = 1024 * 1024;
/// From this release on tables are charged to the control group, not to the locked memory.
const CHARGED: (u32, u32) = (5, 11);

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let limits = host.config.as_ref().map_or_else(|_| Limits::default(), |config| config.limits);
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    let need = Need::of(limits, u64::try_from(cpus).unwrap_or(1));
    let mut found = Vec::new();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel::version(release.trim()).is_some_and(|version| version < CHARGED) {
        let process = host.process.as_ref();
        found.push(memlock(process.and_then(|process| process.may_lock), need));
    }
    found.push(match &host.process {
        Some(process) => group(lowest(Path::new(GROUPS), &process.groups), need),
        None => Finding::unseen("memory-limit", "no agent runs whose limit could be read"),
    });
    found
}

fn memlock(may_lock: Option<u64>, need: Need) -> Finding {
    const NAME: &str = "memlock";
    match may_lock {
        None => Finding::unseen(NAME, "no agent runs whose limit could be read"),
        Some(u64::MAX) => Finding::ok(NAME, "the agent may lock any memory"),
        Some(most) if most < need.tables => {
            let seen = format!(
                "this kernel counts tables as locked memory; the agent may lock {} MiB, and full \
                 tables take {} MiB",
                most / MIB,
                need.tables / MIB
            );
            Finding::failure(NAME, seen).fix("systemctl edit jit-agent: LimitMEMLOCK=infinity")
        }
        Some(most) => Finding::ok(NAME, format!("the agent may lock {} MiB", most / MIB)),
    }
}

/// A limit, and the file that sets it.
type Limit = (u64, PathBuf);

fn group(limit: Option<Limit>, need: Need) -> Finding {
    const NAME: &str = "memory-limit";
    let Some((most, file)) = limit else {
        return Finding::ok(NAME, "no control group limits the agent's memory");
    };
    let Need { start, full, .. } = need;
    let needs = format!(
        "the agent may use {} MiB ({}); with its tables it takes {} MiB at its start, and {} MiB \
         with full tables",
        most / MIB,
        file.display(),
        start / MIB,
        full / MIB
    );
    let fix = format!(
        "systemctl edit jit-agent: MemoryMax={}M, or lower [limits]",
        full.div_ceil(256 * MIB).saturating_mul(256)
    );
    if most < start {
        Finding::failure(NAME, needs).fix(fix)
    } else if most < full {
        Finding::warning(NAME, needs).fix(fix)
    } else {
        Finding::ok(NAME, format!("{} MiB of {} MiB at most", full / MIB, most / MIB))
    }
}

/// The lowest limit among a process's control groups and those above them. `groups`:
/// `/proc/PID/cgroup`; `root`: where the hierarchies are mounted.
fn lowest(root: &Path, groups: &str) -> Option<Limit> {
    let mut lowest: Option<Limit> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mounts, file) = match controllers {
            "" => (vec![root.to_owned(), root.join("unified")], "memory.max"),
            "memory" => (vec![root.join("memory")], "memory.limit_in_bytes"),
            _ => continue,
        };
        let below = path.trim_start_matches('/');
        for mount in mounts {
            let own = mount.join(below);
            for directory in own.ancestors().take_while(|at| at.starts_with(&mount)) {
                let file = directory.join(file);
                let text = fs::read_to_string(&file).unwrap_or_default();
                // "max" is no number; the first version writes a huge one.
                let limit = text.trim().parse().ok().filter(|limit| *limit < u64::MAX / 4);
                if let Some(limit) = limit
                    && lowest.as_ref().is_none_or(|(least, _)| limit < *least)
                {
                    lowest = Some((limit, file));
                }
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    const NEED: Need = Need { start: 100 * MIB, full: 600 * MIB, tables: 300 * MIB };

    #[test]
    fn a_limit_below_what_is_needed_is_found() {
        let level = |most: u64| group(Some((most * MIB, "memory.max".into())), NEED).level;
        assert_eq!(
            [level(99), level(100), level(599)],
            [Level::Failure, Level::Warning, Level::Warning]
        );
        assert_eq!((level(600), group(None, NEED).level), (Level::Ok, Level::Ok));
        let fix = group(Some((0, "memory.max".into())), NEED).fix;
        assert!(fix[0].contains("MemoryMax=768M"), "{fix:?}");
    }

    #[test]
    fn locked_memory_must_hold_the_tables() {
        assert_eq!(memlock(Some(u64::MAX), NEED).level, Level::Ok);
        assert_eq!(memlock(Some(300 * MIB), NEED).level, Level::Ok);
        assert_eq!(memlock(Some(8 * MIB), NEED).level, Level::Failure);
        assert_eq!(memlock(None, NEED).level, Level::Unseen);
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let unit = root.join("system.slice/jit-agent.service");
        fs::create_dir_all(&unit).unwrap();
        fs::write(unit.join("memory.max"), "max\n").unwrap();
        let groups = "4:memory:/box\n0::/system.slice/jit-agent.service\n";
        assert_eq!(lowest(root, groups), None);
        fs::write(root.join("system.slice/memory.max"), "1000\n").unwrap();
        assert_eq!(lowest(root, groups), Some((1000, root.join("system.slice/memory.max"))));
        let first = root.join("memory/box/memory.limit_in_bytes");
        fs::create_dir_all(first.parent().unwrap()).unwrap();
        fs::write(&first, "9223372036854771712\n").unwrap();
        assert_eq!(lowest(root, groups).unwrap().0, 1000);
        fs::write(&first, "900\n").unwrap();
        assert_eq!(lowest(root, groups), Some((900, first)));
        assert_eq!(lowest(root, "odd"), None);
    }
}
