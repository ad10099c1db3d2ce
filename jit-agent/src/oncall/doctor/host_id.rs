//! Which host this is: the id of the file, or what the metadata services say.

use super::{
    finding::Finding,
    host::{Agent, Host},
};
use crate::{
    oncall::identity::{answer, conclusion},
    system::metadata::{Report, Verdict},
};

const CHECK: &str = "host-id";

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let Some(reports) = &host.identity else { return Vec::new() };
    let in_force = host.status.as_ref().ok().filter(|_| host.agent == Agent::Answers);
    vec![finding(reports, in_force.map(|status| status.host.as_str()))]
}

/// `in_force`: the id of the agent that runs.
fn finding(reports: &[Report], in_force: Option<&str>) -> Finding {
    let verdict = Verdict::of(reports);
    let answers: Vec<_> =
        reports.iter().map(|one| format!("{}: {}", one.source, answer(one))).collect();
    let answers = answers.join("; ");
    let conclusion = conclusion(&verdict);
    let Verdict::Found(found) = verdict else {
        let seen = format!("{conclusion} ({answers})");
        return match in_force {
            Some(id) if !id.is_empty() => {
                Finding::warning(CHECK, format!("{seen}; the id found before is in force: {id}"))
            }
            _ => Finding::failure(CHECK, format!("{seen}; no grant opens anything")),
        }
        .fix("jit-agent identity")
        .fix("or write the id into the file ([host] id), then systemctl restart jit-agent");
    };
    match in_force {
        Some(id) if !id.eq_ignore_ascii_case(&found.id) => {
            let seen = format!(
                "{} says {}, and the agent has {id:?} in force ({answers})",
                found.source, found.id
            );
            Finding::warning(CHECK, seen).fix("systemctl restart jit-agent")
        }
        _ => Finding::ok(CHECK, format!("{conclusion}; {answers}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oncall::finding::Level,
        system::metadata::{Fault, Source},
    };

    fn reports(id: Option<&str>) -> Vec<Report> {
        let answer = id.map(str::to_owned).ok_or(Fault::Slow);
        vec![Report { source: Source::Ec2, answer }]
    }

    #[test]
    fn an_id_is_well_none_is_a_failure_and_another_one_in_force_is_named() {
        for (found, in_force, level) in [
            (Some("e"), None, Level::Ok),
            (Some("e"), Some("e"), Level::Ok),
            (Some("e"), Some("f"), Level::Warning),
            (None, Some("e"), Level::Warning),
            (None, Some(""), Level::Failure),
            (None, None, Level::Failure),
        ] {
            let one = finding(&reports(found), in_force);
            assert_eq!(one.level, level, "{one:?}");
            assert!(one.seen.contains("EC2"), "{one:?}");
            assert_eq!(one.fix.is_empty(), level == Level::Ok, "{one:?}");
        }
    }
}
