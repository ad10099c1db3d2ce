//! What a controller may do: the words of `[[controller]] may`, of refusals and of the audit.

use std::fmt;

use serde::Deserialize;

/// One thing that a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Push grants (which must still be signed).
    Grant,
    /// Push policies (which must still be signed).
    Policy,
    /// List, status, watch.
    Read,
    /// Revoke.
    Revoke,
}

impl Permission {
    /// Every permission, in the order of their words.
    pub const ALL: [Self; 4] = [Self::Grant, Self::Policy, Self::Read, Self::Revoke];

    /// The configuration's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Policy => "policy",
            Self::Read => "read",
            Self::Revoke => "revoke",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Grant => 1,
            Self::Policy => 2,
            Self::Read => 4,
            Self::Revoke => 8,
        }
    }
}

/// A set of permissions; empty by default.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Whether the set holds this permission.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

/// The words, separated by commas; empty for the empty set.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Permission::ALL.into_iter().filter(|permission| self.contains(*permission));
        f.write_str(&held.map(Permission::word).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_exactly_what_was_put_in() {
        for one in Permission::ALL {
            let set = Permissions::from_iter([one]);
            let held: Vec<_> =
                Permission::ALL.into_iter().filter(|other| set.contains(*other)).collect();
            assert_eq!((held, set.to_string().as_str()), (vec![one], one.word()));
        }
        let all = Permissions::from_iter(Permission::ALL);
        assert_eq!(all.to_string(), "grant, policy, read, revoke");
        assert_eq!(Permissions::default().to_string(), "");
    }
}
