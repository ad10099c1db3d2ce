//! Short ids of grants, as git has them: the shortest beginning that only one grant has.

use jit_proto::{v1, words::id_text};
use prost::Message as _;

/// Fewest characters of a short id.
const LEAST: usize = 8;

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
pub(super) struct Ids(Vec<String>);

impl Ids {
    pub(super) fn of(grants: &[v1::GrantState]) -> Self {
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

/// The one grant whose id begins with `text`, among those that are listed. A grant that is open or
/// scheduled comes before those that have ended.
///
/// # Errors
/// A sentence for a person: no grant, or several, begin with it.
pub fn find_id(text: &str, grants: &[v1::GrantState]) -> Result<String, String> {
    let wanted = text.to_ascii_uppercase();
    if wanted.len() < 4 || !wanted.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("`{text}` is no id of a grant, nor 4 or more characters of its begin"));
    }
    let ended = |state: &v1::GrantState| {
        use v1::State::{Expired, Replaced, Revoked};
        matches!(state.state(), Expired | Replaced | Revoked)
    };
    for old in [false, true] {
        let listed = grants.iter().filter(|state| ended(state) == old).map(id_of);
        let mut found: Vec<_> = listed.filter(|id| id.starts_with(&wanted)).collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one.clone()),
            [one, two, ..] => {
                let number = found.len();
                return Err(format!(
                    "`{text}` is the begin of {number} grants, {one} and {two} among them: write \
                     more of it"
                ));
            }
        }
    }
    Err(format!("no grant has an id that begins with `{text}`; see `jit-agent grants --all`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: [u8; 16], state: v1::State) -> v1::GrantState {
        let grant = v1::Grant { id: id.to_vec().into(), ..v1::Grant::default() };
        let grant = grant.encode_to_vec().into();
        v1::GrantState { grant, state: state.into(), ..v1::GrantState::default() }
    }

    fn near(last: u8) -> [u8; 16] {
        let mut id = [1; 16];
        id[15] = last;
        id
    }

    #[test]
    fn a_short_id_is_the_shortest_that_is_the_only_one() {
        let grants =
            [state([7; 16], v1::State::Active), state(near(1), v1::State::Active), state(near(2), v1::State::Active)];
        let ids = Ids::of(&grants);
        let all: Vec<_> = grants.iter().map(id_of).collect();
        let short: Vec<_> = all.iter().map(|id| ids.short(id)).collect();
        assert_eq!(short[0].len(), 8);
        assert_ne!(short[1], short[2]);
        for (id, short) in all.iter().zip(&short) {
            assert_eq!(find_id(short, &grants).as_ref(), Ok(id));
            assert_eq!(find_id(&short.to_lowercase(), &grants).as_ref(), Ok(id));
        }
        let several = find_id(&all[1][..8], &grants).unwrap_err();
        assert!(several.contains("2 grants"), "{several}");
    }

    #[test]
    fn an_open_grant_comes_before_one_that_has_ended() {
        let grants = [state(near(1), v1::State::Revoked), state(near(2), v1::State::Active)];
        let begin = &id_of(&grants[0])[..8];
        assert_eq!(find_id(begin, &grants).unwrap(), id_of(&grants[1]));
        assert!(find_id("ZZZZ", &grants).unwrap_err().contains("no grant"));
        for bad in ["", "01", "01;DROP"] {
            assert!(find_id(bad, &grants).unwrap_err().contains("is no id"), "{bad}");
        }
    }
}
