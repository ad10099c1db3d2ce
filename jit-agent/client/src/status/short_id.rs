//! Short ids of grants, as git has them: the shortest beginning that only one grant has.

use std::str::FromStr;

use jit_proto::{GrantId, v1, words::id_text};
use prost::Message as _;

/// Fewest characters of a short id that is shown.
const LEAST: usize = 8;
/// Fewest characters of an id that a person may write.
const SHORTEST: usize = 4;
/// Characters of a whole id.
const LONGEST: usize = 26;

/// The only field of a grant that an id needs: the others are skipped, not decoded.
#[derive(Clone, PartialEq, prost::Message)]
struct IdOnly {
    #[prost(bytes = "bytes", tag = "1")]
    id: prost::bytes::Bytes,
}

/// The id of a grant as text; empty when it cannot be read.
pub(super) fn id_of(state: &v1::GrantState) -> String {
    // A clone shares the bytes.
    IdOnly::decode(state.grant.clone()).map(|grant| id_text(&grant.id)).unwrap_or_default()
}

/// Sorted ids, to find how much of one is needed.
#[derive(Debug, Default)]
pub struct ShortIds(Vec<String>);

impl ShortIds {
    /// The ids among which a short one must be the only one: all that are known, also those that a
    /// filter hides.
    pub fn of(grants: &[v1::GrantState]) -> Self {
        let mut ids: Vec<_> = grants.iter().map(id_of).collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }

    /// The shortest beginning of an id that no other has, at least 8 characters.
    pub(super) fn short<'id>(&self, id: &'id str) -> &'id str {
        let at = self.0.partition_point(|other| other.as_str() < id);
        let after = if self.0.get(at).is_some_and(|other| other == id) { at + 1 } else { at };
        let before = at.checked_sub(1);
        let beside = [before, Some(after)].into_iter().flatten().filter_map(|at| self.0.get(at));
        let most = beside.map(|other| same(id, other) + 1).max().unwrap_or(0).max(LEAST);
        id.get(..most).unwrap_or(id)
    }
}

/// Characters that two ids begin with alike.
fn same(id: &str, other: &str) -> usize {
    id.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}

/// An id of a grant, or the begin of one, as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdBegin(String);

impl FromStr for IdBegin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let long = (SHORTEST..=LONGEST).contains(&text.len());
        if !long || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!(
                "`{text}` is no id of a grant, nor the first {SHORTEST} or more characters of one"
            ));
        }
        Ok(Self(text.to_ascii_uppercase()))
    }
}

impl From<GrantId> for IdBegin {
    fn from(id: GrantId) -> Self {
        Self(id.to_string())
    }
}

impl IdBegin {
    /// The id, if all of it was written.
    pub fn whole(&self) -> Option<GrantId> {
        self.0.parse().ok()
    }

    /// Whether an id as text begins so.
    pub fn begins(&self, id: &str) -> bool {
        id.starts_with(&self.0)
    }

    /// The one listed grant whose id begins so. One that is open or scheduled comes before those
    /// that have ended. A whole id needs no list.
    ///
    /// # Errors
    /// A sentence for a person: no grant's id begins so, or several do.
    pub fn find(&self, grants: &[v1::GrantState]) -> Result<GrantId, String> {
        let ended = |state: &v1::GrantState| {
            use v1::State::{Expired, Replaced, Revoked};
            matches!(state.state(), Expired | Replaced | Revoked)
        };
        let of = |old| grants.iter().filter(move |state| ended(state) == old).map(id_of);
        let open = self.only(of(false)).or_else(|| self.only(of(true)));
        open.unwrap_or_else(|| Err(self.none()))
    }

    /// The one of these ids that begins so. A whole id needs none.
    ///
    /// # Errors
    /// As [`IdBegin::find`].
    pub fn among(&self, ids: impl Iterator<Item = GrantId>) -> Result<GrantId, String> {
        self.only(ids.map(|id| id.to_string())).unwrap_or_else(|| Err(self.none()))
    }

    /// The only id that begins so; `None`: there is none.
    fn only(&self, ids: impl Iterator<Item = String>) -> Option<Result<GrantId, String>> {
        if let Some(id) = self.whole() {
            return Some(Ok(id));
        }
        let mut found: Vec<_> = ids.filter(|id| self.begins(id)).collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [] => None,
            [one] => Some(one.parse()),
            [one, two, ..] => Some(Err(format!(
                "the ids of {} grants begin with {}, {one} and {two} among them: write more of it",
                found.len(),
                self.0
            ))),
        }
    }

    fn none(&self) -> String {
        format!(
            "no grant that is listed has an id that begins with {}; give the whole id to bar one that \
             the agent has not seen",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: [u8; 16], state: v1::State) -> v1::GrantState {
        let grant = v1::Grant { id: id.to_vec().into(), ..v1::Grant::default() };
        let grant = grant.encode_to_vec().into();
        v1::GrantState { grant, state: state.into(), ..v1::GrantState::default() }
    }

    fn find(text: &str, grants: &[v1::GrantState]) -> Result<String, String> {
        text.parse::<IdBegin>()?.find(grants).map(|id| id.to_string())
    }

    fn near(last: u8) -> [u8; 16] {
        let mut id = [1; 16];
        id[15] = last;
        id
    }

    #[test]
    fn a_short_id_is_the_shortest_that_is_the_only_one() {
        let grants = [
            state([7; 16], v1::State::Active),
            state(near(1), v1::State::Active),
            state(near(2), v1::State::Active),
        ];
        let ids = ShortIds::of(&grants);
        let all: Vec<_> = grants.iter().map(id_of).collect();
        let short: Vec<_> = all.iter().map(|id| ids.short(id)).collect();
        assert_eq!(short[0].len(), 8);
        assert_ne!(short[1], short[2]);
        for (id, short) in all.iter().zip(&short) {
            assert_eq!(find(short, &grants).as_ref(), Ok(id));
            assert_eq!(find(&short.to_lowercase(), &grants).as_ref(), Ok(id));
        }
        let several = find(&all[1][..8], &grants).unwrap_err();
        assert!(several.contains("ids of 2 grants"), "{several}");
    }

    #[test]
    fn an_open_grant_comes_before_one_that_has_ended() {
        let grants = [state(near(1), v1::State::Revoked), state(near(2), v1::State::Active)];
        let begin = &id_of(&grants[0])[..8];
        assert_eq!(find(begin, &grants).unwrap(), id_of(&grants[1]));
        assert!(find("ZZZZ", &grants).unwrap_err().contains("no grant"));
        for bad in ["", "01", "01;DROP"] {
            assert!(find(bad, &grants).unwrap_err().contains("is no id"), "{bad}");
        }
    }
}
