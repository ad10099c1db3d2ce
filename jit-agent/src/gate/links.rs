//! Programs on the interfaces and on the network namespace, as they were last read back.

use std::collections::BTreeSet;

use crate::{
    gate::alarms::Problem,
    kernel::datapath::{
        DatapathError, Drift, InterfaceState, LinkChange,
        guard::{self, GuardState},
    },
    rules::problem::{ProblemKind, ProblemName},
};

/// The interfaces and the socket guard.
#[derive(Debug, Default)]
pub(super) struct Links {
    interfaces: Vec<InterfaceState>,
    guard: GuardState,
    /// Why the interfaces cannot be read back.
    problem: Problem,
}

/// Something happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkNews {
    pub(super) change: LinkChange,
    pub(super) name: String,
    pub(super) hook: &'static str,
    pub(super) note: String,
}

impl Links {
    pub(super) const fn guard(&self) -> &GuardState {
        &self.guard
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.text()
    }

    /// The name of an interface; empty when it is not known.
    pub(super) fn name(&self, index: u32) -> &str {
        let state = self.interfaces.iter().find(|state| state.index == index);
        state.map_or("", |state| &state.name)
    }

    /// Takes the interfaces as they were read back. Returns what happened to them. On an error the
    /// known state stays.
    pub(super) fn set_interfaces(
        &mut self,
        interfaces: Result<Vec<InterfaceState>, DatapathError>,
    ) -> Vec<LinkNews> {
        match interfaces {
            Ok(interfaces) => {
                self.problem.set("", None);
                self.interfaces = interfaces;
                self.interfaces.iter().flat_map(interface_news).collect()
            }
            Err(error) => {
                self.problem.set("cannot check the interfaces", Some(error.to_string()));
                Vec::new()
            }
        }
    }

    /// Takes one interface more. Returns what happened to it.
    pub(super) fn add(&mut self, state: InterfaceState) -> Vec<LinkNews> {
        let news = interface_news(&state).collect();
        self.interfaces.retain(|other| other.index != state.index);
        self.interfaces.push(state);
        news
    }

    /// Takes the socket guard as it was read back. Returns what happened to it.
    pub(super) fn set_guard(&mut self, guard: GuardState) -> Vec<LinkNews> {
        let news = guard.changes.iter().map(|change| LinkNews {
            change: *change,
            name: "network namespace".to_owned(),
            hook: "socket_guard",
            note: guard.note.clone(),
        });
        let news = news.collect();
        self.guard = guard;
        news
    }

    /// All interfaces, those that are left out as well.
    pub(super) fn interfaces(&self) -> &[InterfaceState] {
        &self.interfaces
    }

    /// Indices of the interfaces without a gate.
    pub(super) fn ungated(&self) -> BTreeSet<u32> {
        let without = self.to_gate().filter(|state| state.hook.is_none());
        without.map(|state| state.index).collect()
    }

    /// The interfaces that are to have a gate.
    pub(super) fn to_gate(&self) -> impl Iterator<Item = &InterfaceState> {
        self.interfaces.iter().filter(|state| state.left_out.is_none())
    }

    /// Whether there is one.
    pub(super) fn any_to_gate(&self) -> bool {
        self.to_gate().next().is_some()
    }

    /// Whether one has a gate.
    pub(super) fn any_gated(&self) -> bool {
        self.interfaces.iter().any(|state| state.hook.is_some())
    }

    /// One interface without a gate is reported, and the others hold; where nothing holds there is
    /// no gate to speak of. Interfaces that are not there yet are waited for.
    pub(super) fn ensure_gated(&self) -> Result<(), DatapathError> {
        let there = || self.to_gate().filter(|interface| interface.index != 0);
        let holds = self.guard.attached || there().any(|interface| interface.hook.is_some());
        match there().next() {
            Some(InterfaceState { name, note, .. }) if !holds => Err(DatapathError::Attach {
                interface: name.clone(),
                hook: "no hook",
                cause: note.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Interfaces and guard, with the changes that somebody made. A changed one is not shown as
    /// protected.
    pub(super) fn with_drift(
        &self,
        drift: Result<Vec<Drift>, DatapathError>,
    ) -> (Vec<InterfaceState>, GuardState, Vec<String>) {
        let (mut interfaces, mut guard) = (self.interfaces.clone(), self.guard.clone());
        let drifts = match drift {
            Ok(drifts) => drifts,
            Err(error) => return (interfaces, guard, vec![error.to_string()]),
        };
        let mut problems = Vec::new();
        for Drift { what, index, gated, why } in drifts {
            if what == guard::NAME && !gated {
                guard.attached = false;
                why.clone_into(&mut guard.note);
            }
            let of_it = |state: &&mut InterfaceState| !gated && index != 0 && state.index == index;
            for state in interfaces.iter_mut().filter(of_it) {
                state.hook = None;
                why.clone_into(&mut state.note);
            }
            problems.push(format!("{what}: {why}"));
        }
        (interfaces, guard, problems)
    }

    /// The problems of interfaces. Each has a text, which may change, and a name, which does not.
    /// `forwarded`: the protected ports that this host only forwards, for people.
    pub(super) fn problems(&self, forwarded: &str) -> Vec<(ProblemName, String)> {
        let mut problems = Vec::new();
        for state in &self.interfaces {
            let InterfaceState { name, note, foreign_first, .. } = state;
            if *foreign_first {
                problems.push((ProblemKind::PassedBy.of(name), format!("{name}: {note}")));
            }
            let text = problem(state, &self.guard, forwarded);
            problems.extend(text.map(|text| (ProblemKind::Interface.of(name), text)));
        }
        problems
    }
}

fn interface_news(state: &InterfaceState) -> impl Iterator<Item = LinkNews> + '_ {
    let InterfaceState { name, hook, note, changes, .. } = state;
    changes.iter().map(|change| LinkNews {
        change: *change,
        name: name.clone(),
        hook: hook.map_or("none", |hook| hook.word()),
        note: note.clone(),
    })
}

/// The problem of an interface without a program, if it is one. `forwarded`: the protected ports
/// that this host only forwards, for people.
pub(crate) fn problem(
    state: &InterfaceState,
    guard: &GuardState,
    forwarded: &str,
) -> Option<String> {
    let InterfaceState { name, hook, note, left_out, .. } = state;
    if hook.is_some() {
        return None;
    }
    let Some(reason) = left_out else {
        let is = if guard.attached {
            "is left to the socket guard, which does not see what this host forwards"
        } else {
            "is not gated"
        };
        return Some(format!("{name} {is}: {note}"));
    };
    let reached = match (guard.attached, forwarded) {
        _ if !reason.is_empty() => return None,
        // The guard holds there, too.
        (true, "") => return None,
        (true, forwarded) => format!("{forwarded}, which this host forwards,"),
        (false, _) => "every protected port".to_owned(),
    };
    Some(format!(
        "{name} is left out by [gate] interfaces or exclude: {reached} can be reached by it; gate it, \
         or say why not: exclude = [{{ name = \"{name}\", reason = \"...\" }}]"
    ))
}

#[cfg(test)]
mod tests {

    use jit_proto::Hook;

    use super::*;

    fn gated(name: &str, index: u32) -> InterfaceState {
        let changes = vec![LinkChange::Attached];
        let without = InterfaceState::without(name, index, "fine");
        InterfaceState { hook: Some(Hook::Tcx), changes, ..without }
    }

    fn without(name: &str, index: u32) -> InterfaceState {
        InterfaceState::without(name, index, "no hook fits")
    }

    fn links(interfaces: Vec<InterfaceState>) -> Links {
        Links { interfaces, ..Links::default() }
    }

    #[test]
    fn where_nothing_holds_there_is_no_gate() {
        assert!(links(vec![without("eth0", 2)]).ensure_gated().is_err());
        assert!(links(vec![without("eth0", 2), gated("eth1", 3)]).ensure_gated().is_ok());
        assert!(links(vec![without("eth9", 0)]).ensure_gated().is_ok(), "it is not there yet");
        let guard = GuardState { attached: true, ..GuardState::default() };
        let guarded = Links { guard, ..links(vec![without("eth0", 2)]) };
        assert!(guarded.ensure_gated().is_ok());
    }

    #[test]
    fn what_drifted_is_not_called_protected() {
        let links = links(vec![gated("eth0", 2), gated("eth1", 3)]);
        let drift = |gated| Drift { what: "eth0".into(), index: 2, gated, why: "gone".into() };
        let (interfaces, _, problems) = links.with_drift(Ok(vec![drift(false)]));
        assert_eq!(
            interfaces.iter().map(|state| state.hook).collect::<Vec<_>>(),
            [None, Some(Hook::Tcx)]
        );
        assert_eq!(problems, ["eth0: gone"]);
        let (interfaces, ..) = links.with_drift(Ok(vec![drift(true)]));
        assert!(interfaces.iter().all(|state| state.hook.is_some()));
    }

    #[test]
    fn an_interface_without_a_gate_is_a_problem_and_its_changes_are_news() {
        let mut links = Links::default();
        let news = links.set_interfaces(Ok(vec![gated("eth0", 2), without("eth1", 3)]));
        let names: Vec<_> = news.iter().map(|news| (news.name.as_str(), news.change)).collect();
        assert_eq!(names, [("eth0", LinkChange::Attached)]);
        assert_eq!(links.ungated(), [3].into());
        let names: Vec<_> =
            links.problems("").into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["interface eth1"]);
        let failed = DatapathError::Load("busy".into());
        assert_eq!(links.set_interfaces(Err(failed)), []);
        assert!(links.problem().is_some() && links.name(2) == "eth0", "what was known stays");
    }
}
