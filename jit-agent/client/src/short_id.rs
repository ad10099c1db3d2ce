//! Ids of grants as people type them: all 26 letters, or the first ones, if only one grant begins
//! with them.

use std::str::FromStr;

use jit_proto::{GrantId, v1};

/// Fewer letters are not taken: they would soon mean another grant.
const LEAST: usize = 4;
/// Letters of a whole id.
const WHOLE: usize = 26;
/// The alphabet of ULIDs (Crockford's base 32).
const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Most ids that an error names.
const NAMED: usize = 4;

/// A whole id, or its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShortId {
    /// The beginning of an id, in capitals.
    Beginning(String),
    /// The whole id.
    Whole(GrantId),
}

impl FromStr for ShortId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let capitals = text.to_ascii_uppercase();
        if capitals.len() >= WHOLE || !capitals.chars().all(|letter| ALPHABET.contains(letter)) {
            return text.parse().map(Self::Whole);
        }
        if capitals.len() < LEAST {
            return Err(format!(
                "`{text}` is too short for a grant id: give at least {LEAST} letters"
            ));
        }
        Ok(Self::Beginning(capitals))
    }
}

impl ShortId {
    /// The id that it stands for among these grants. A whole id needs none.
    ///
    /// # Errors
    /// No grant's id begins like this, or several do; for a person.
    pub fn among(&self, grants: &[v1::GrantState]) -> Result<GrantId, String> {
        let ids = grants.iter().filter_map(v1::GrantState::signed);
        let ids: Vec<_> = ids.filter_map(|grant| GrantId::from_bytes(&grant.id)).collect();
        self.among_ids(&ids)
    }

    /// Whether a whole id, as text, begins like this.
    pub fn begins(&self, id: &str) -> bool {
        match self {
            Self::Beginning(beginning) => id.starts_with(beginning),
            Self::Whole(whole) => id == whole.to_string(),
        }
    }

    /// As [`ShortId::among`], with ids.
    ///
    /// # Errors
    /// The same.
    pub fn among_ids(&self, ids: &[GrantId]) -> Result<GrantId, String> {
        let beginning = match self {
            Self::Beginning(beginning) => beginning,
            Self::Whole(id) => return Ok(*id),
        };
        let begins = |id: &&GrantId| id.to_string().starts_with(beginning);
        let found: Vec<_> = ids.iter().filter(begins).copied().collect();
        match found.as_slice() {
            [] => Err(format!(
                "no grant's id begins with {beginning}; give the whole id to bar one that the agent \
                 has not seen"
            )),
            [only] => Ok(*only),
            several => {
                let named: Vec<_> = several.iter().take(NAMED).map(GrantId::to_string).collect();
                let more = match several.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                Err(format!(
                    "{beginning} is not unique: {}{more}; type more of it",
                    named.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn grants(ids: &[&str]) -> Vec<v1::GrantState> {
        let state = |id: &&str| {
            let id: GrantId = id.parse().unwrap();
            let grant = v1::Grant { id: id.0.to_vec().into(), ..v1::Grant::default() };
            v1::GrantState { grant: grant.encode_to_vec().into(), ..v1::GrantState::default() }
        };
        ids.iter().map(state).collect()
    }

    const ONE: &str = "01J9W7K3AAAAAAAAAAAAAAAAAA";
    const OTHER: &str = "01J9W81QBBBBBBBBBBBBBBBBBB";

    #[test]
    fn a_beginning_means_the_only_grant_that_begins_with_it() {
        let held = grants(&[ONE, OTHER]);
        let find = |text: &str| text.parse::<ShortId>().unwrap().among(&held);
        assert_eq!(find("01J9W7"), Ok(ONE.parse().unwrap()));
        assert_eq!(find("01j9w8"), Ok(OTHER.parse().unwrap()));
        let both = find("01J9W").unwrap_err();
        assert!(both.contains(ONE) && both.contains(OTHER), "{both}");
        assert!(find("01J0").unwrap_err().contains("no grant"));
        assert_eq!(find("01J0W7K3AAAAAAAAAAAAAAAAAA").unwrap().to_string().len(), WHOLE);
    }

    #[test]
    fn what_is_no_beginning_of_an_id_is_refused() {
        for bad in ["", "01J", "not-a-ulid", "01J9_", "01J9W7K3AAAAAAAAAAAAAAAAAAA"] {
            assert!(bad.parse::<ShortId>().is_err(), "{bad}");
        }
    }
}
