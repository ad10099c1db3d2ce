//! Whether the agent has the three capabilities that it needs, and no others.

use rustix::thread::CapabilitySet;

use super::{
    finding::Finding,
    host::{Agent, Host},
};

const NAME: &str = "capabilities";
/// What the unit gives (`AmbientCapabilities`).
const NEEDED: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON);

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let process = host.process.as_ref();
    let found = match process.and_then(|process| Some((process.pid, process.capabilities?))) {
        Some((pid, held)) => of_agent(pid, held),
        None if host.agent == Agent::Answers => {
            Finding::unseen(NAME, "the agent's process is not in sight: another PID namespace")
        }
        None if host.is_root => of_root(&host.lacks),
        None => Finding::unseen(NAME, "no agent's process is in sight, and this is not root"),
    };
    vec![found]
}

/// Judges those of the running agent.
fn of_agent(pid: u32, held: CapabilitySet) -> Finding {
    let (missing, more) = (NEEDED.difference(held), held.difference(NEEDED));
    let unit = "systemctl cat jit-agent: AmbientCapabilities= and CapabilityBoundingSet= must be \
                CAP_BPF CAP_NET_ADMIN CAP_PERFMON";
    if !missing.is_empty() {
        let seen = format!("the agent (process {pid}) lacks {}", names(missing));
        return Finding::failure(NAME, seen).fix(unit);
    }
    if !more.is_empty() {
        let seen = format!("the agent (process {pid}) has more than it needs: {}", names(more));
        return Finding::warning(NAME, seen).fix(unit);
    }
    Finding::ok(NAME, format!("the agent has {} and no others", names(held)))
}

/// Judges what root can give, where no agent runs.
fn of_root(lacks: &[&str]) -> Finding {
    if lacks.is_empty() {
        return Finding::ok(NAME, "root can give the agent what it needs");
    }
    let seen = format!("root lacks {} here: no agent can start", lacks.join(", "));
    Finding::failure(NAME, seen)
        .fix("run it outside of the container, or give the container these capabilities")
}

/// The names of capabilities; at most a few.
fn names(set: CapabilitySet) -> String {
    const MOST: usize = 6;
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    let more = names.len().saturating_sub(MOST);
    let more = (more > 0).then(|| format!("{more} more"));
    names.into_iter().take(MOST).chain(more).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn exactly_the_three_are_good() {
        let good = of_agent(7, NEEDED);
        assert_eq!(good.level, Level::Ok);
        assert!(good.seen.contains("CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"), "{}", good.seen);
    }

    #[test]
    fn a_missing_one_is_named_also_where_there_are_others() {
        let held = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
        let finding = of_agent(7, held);
        assert_eq!(finding.level, Level::Failure);
        assert!(finding.seen.ends_with("lacks CAP_PERFMON"), "{}", finding.seen);
    }

    #[test]
    fn more_than_needed_is_a_warning() {
        let finding = of_agent(7, CapabilitySet::all());
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.seen.contains("CAP_CHOWN") && finding.seen.ends_with(" more"));
        assert_eq!(of_root(&[]).level, Level::Ok);
        assert!(of_root(&["CAP_BPF"]).seen.contains("lacks CAP_BPF"));
    }
}
