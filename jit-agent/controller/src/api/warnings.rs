//! What will probably go wrong with a request, said before it is submitted.

use std::collections::BTreeSet;

use jit_proto::PortRange;

use crate::{desk::Preview, model::host::Condition, store::StoredHost};

/// The most sentences.
const MOST: usize = 20;

/// Sentences, the worst first; at most 20 of them.
pub(super) fn of(preview: &Preview, now_ms: i64) -> Vec<String> {
    let mut all = people(preview);
    all.extend(preview.hosts.iter().filter_map(|host| silent(host, now_ms)));
    all.extend(preview.hosts.iter().flat_map(|host| ports(host, preview)));
    let more = all.len().saturating_sub(MOST);
    if more > 0 {
        all.truncate(MOST - 1);
        all.push(format!("and {} more", more + 1));
    }
    all
}

/// Groups that have too few people.
fn people(preview: &Preview) -> Vec<String> {
    let short = preview.verdict.needs.0.iter().filter_map(|(group, count)| {
        let able = preview.eligible.iter().filter(|one| one.groups.contains(group));
        let able: BTreeSet<_> = able.map(|one| one.subject.as_str()).collect();
        let enough = able.len() >= usize::try_from(*count).unwrap_or(usize::MAX);
        (!enough).then(|| {
            format!("{count} of {group} must agree, and only {} can: {}", able.len(), list(&able))
        })
    });
    short.collect()
}

fn list(names: &BTreeSet<&str>) -> String {
    if names.is_empty() {
        return "nobody".into();
    }
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

/// A host that does not answer, or whose gate is not in force.
fn silent(host: &StoredHost, now_ms: i64) -> Option<String> {
    let (id, observed) = (&host.host.id, &host.observed);
    let since = jit_proto::words::duration(now_ms.saturating_sub(observed.since_ms));
    match observed.condition {
        Condition::Unreachable => {
            Some(format!("{id} has not answered for {since}: {}", observed.trouble))
        }
        Condition::Unknown => Some(format!("{id} has not answered yet")),
        Condition::NotEnforcing => {
            Some(format!("{id} does not enforce: its ports may be open to anybody"))
        }
        Condition::Degraded | Condition::Enforcing => None,
    }
}

/// What the host's own limits will refuse.
fn ports(host: &StoredHost, preview: &Preview) -> Vec<String> {
    let (id, asked) = (&host.host.id, &preview.proposal);
    if host.observed.ports.is_empty() {
        return Vec::new();
    }
    let known = host.observed.ports.iter();
    let protected: Vec<_> =
        known.filter_map(|port| Some((port.port.parse::<PortRange>().ok()?, port))).collect();
    let mut all = Vec::new();
    for wanted in &asked.ports {
        for number in wanted.ports() {
            let Some((_, port)) = protected.iter().find(|(range, _)| range.has(number)) else {
                all.push(format!("{id} does not protect {wanted}: a grant changes nothing there"));
                break;
            };
            if port.max_duration_ms > 0 && asked.duration_ms > port.max_duration_ms {
                let longest = jit_proto::words::duration(port.max_duration_ms);
                all.push(format!("{id} lets nobody in at {} for more than {longest}", port.port));
                break;
            }
            if port.approvals > 1 {
                all.push(format!(
                    "{id} asks for {} signatures at {}: others add theirs with `jitctl \
                     approve ID --signing-key KEY`",
                    port.approvals, port.port
                ));
                break;
            }
        }
    }
    all
}
