//! Who must agree, who has, and whether that is enough.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Groups that must all agree, each with a number of its members. Empty: nobody must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs(pub BTreeMap<String, u32>);

/// What somebody said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// Yes.
    Approve,
    /// No: one is enough.
    Deny,
}

impl Ruling {
    /// Its word in the store and the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

/// One person's decision on a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The request.
    pub request: String,
    /// The person who decided.
    pub subject: String,
    /// The account that was used.
    pub account: String,
    /// Yes or no.
    pub ruling: Ruling,
    /// Groups of the person, at that moment, that the rules let decide here.
    pub groups: BTreeSet<String>,
    /// Why, in words; a denial has one.
    pub reason: String,
    /// Hash of what was agreed to ([`super::Proposal::hash`]).
    pub hash: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Needs {
    /// Adds the needs of another rule: of each group the higher number.
    pub fn join(&mut self, other: &Self) {
        for (group, count) in &other.0 {
            let have = self.0.entry(group.clone()).or_default();
            *have = (*have).max(*count);
        }
    }

    /// What is still missing, by group. Empty: it is enough.
    ///
    /// Each person counts once, for one group, and for the groups where that helps most. The requester
    /// counts nowhere, nor does a decision about something else (another hash).
    pub fn missing(&self, requester: &str, hash: &str, decisions: &[Decision]) -> Self {
        let mut people: BTreeMap<&str, &BTreeSet<String>> = BTreeMap::new();
        for decision in decisions {
            let counts = decision.ruling == Ruling::Approve
                && decision.subject != requester
                && decision.hash == hash;
            if counts {
                people.insert(&decision.subject, &decision.groups);
            }
        }
        let places = self.places();
        let mut of_place: Vec<Option<&str>> = vec![None; places.len()];
        for person in people.keys() {
            let mut tried = BTreeSet::new();
            seat(person, &people, &places, &mut of_place, &mut tried);
        }
        let mut missing = BTreeMap::new();
        for (place, person) in places.iter().zip(&of_place) {
            if person.is_none() {
                *missing.entry((*place).to_owned()).or_insert(0) += 1;
            }
        }
        Self(missing)
    }

    /// Whether nobody must agree.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|count| *count == 0)
    }

    /// Number of people that must agree.
    pub fn count(&self) -> u32 {
        self.0.values().sum()
    }

    /// For people: `1 of sre and 2 of dba`.
    pub fn text(&self) -> String {
        let each = self.0.iter().map(|(group, count)| format!("{count} of {group}"));
        each.collect::<Vec<_>>().join(" and ")
    }

    /// One place for each person who must agree, by group.
    fn places(&self) -> Vec<&str> {
        self.0.iter().flat_map(|(group, count)| (0..*count).map(move |_| group.as_str())).collect()
    }
}

/// Gives a person a place, and moves others where that makes room (augmenting paths, Kuhn 1955).
fn seat<'p>(
    person: &'p str,
    people: &BTreeMap<&'p str, &BTreeSet<String>>,
    places: &[&str],
    of_place: &mut [Option<&'p str>],
    tried: &mut BTreeSet<usize>,
) -> bool {
    let Some(groups) = people.get(person) else { return false };
    for (index, group) in places.iter().enumerate() {
        if !groups.contains(*group) || !tried.insert(index) {
            continue;
        }
        let sitting = of_place.get(index).copied().flatten();
        let free = match sitting {
            None => true,
            Some(other) => seat(other, people, places, of_place, tried),
        };
        if free {
            if let Some(place) = of_place.get_mut(index) {
                *place = Some(person);
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(groups: &[(&str, u32)]) -> Needs {
        Needs(groups.iter().map(|(group, count)| ((*group).to_owned(), *count)).collect())
    }

    fn approval(subject: &str, groups: &[&str]) -> Decision {
        Decision {
            request: "R".into(),
            subject: subject.into(),
            account: subject.into(),
            ruling: Ruling::Approve,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            reason: String::new(),
            hash: "h".into(),
            at_ms: 0,
        }
    }

    fn missing(wanted: &Needs, decisions: &[Decision]) -> Needs {
        wanted.missing("ana", "h", decisions)
    }

    #[test]
    fn each_group_needs_its_own_people() {
        let both = needs(&[("dba", 1), ("sre", 1)]);
        let li = approval("li", &["dba", "sre"]);
        assert_eq!(missing(&both, std::slice::from_ref(&li)).count(), 1);
        // Li, who is in both groups, moves to the other group for the one who is in one.
        for other in ["dba", "sre"] {
            let decisions = [li.clone(), approval("bo", &[other])];
            assert!(missing(&both, &decisions).is_empty(), "{other}");
        }
    }

    #[test]
    fn nobody_counts_twice_or_for_himself_or_for_something_else() {
        let two = needs(&[("sre", 2)]);
        let li = approval("li", &["sre"]);
        let second_account = Decision { account: "li-admin".into(), ..li.clone() };
        assert_eq!(missing(&two, &[li.clone(), second_account]), needs(&[("sre", 1)]));
        assert_eq!(missing(&two, &[li.clone(), approval("ana", &["sre"])]), needs(&[("sre", 1)]));
        let other = Decision { hash: "another".into(), ..approval("bo", &["sre"]) };
        assert_eq!(missing(&two, &[li.clone(), other]), needs(&[("sre", 1)]));
        let no = Decision { ruling: Ruling::Deny, ..approval("bo", &["sre"]) };
        assert_eq!(missing(&two, &[li, no]), needs(&[("sre", 1)]));
    }

    #[test]
    fn of_two_rules_the_higher_number_counts() {
        let mut wanted = needs(&[("sre", 1)]);
        wanted.join(&needs(&[("dba", 1), ("sre", 2)]));
        assert_eq!(wanted, needs(&[("dba", 1), ("sre", 2)]));
        assert_eq!(wanted.text(), "1 of dba and 2 of sre");
    }
}
