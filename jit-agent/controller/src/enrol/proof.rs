//! That a machine is a certain host: made only here below `enrol`, out of what was verified.

use std::collections::BTreeMap;

use jit_proto::{
    printable::is_hostile,
    text::{self, MAX_NAME_BYTES},
};

/// Longest id of a host, bytes, as in the inventory.
pub const MAX_ID_BYTES: usize = MAX_NAME_BYTES;

/// How a machine has proven who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// A token of its machine identity, by Entra.
    Arc,
    /// The attested document of an Azure virtual machine.
    Azure,
    /// The signed identity document of an EC2 instance.
    Ec2,
    /// An identity token of a Google Compute Engine instance.
    Gcp,
    /// A token of an administrator: whoever has it says which host it is.
    Token,
}

impl Method {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Arc, Self::Azure, Self::Ec2, Self::Gcp, Self::Token];

    /// Its word in the store and the audit.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Arc => "arc",
            Self::Azure => "azure",
            Self::Ec2 => "ec2",
            Self::Gcp => "gcp",
            Self::Token => "token",
        }
    }

    /// The one of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// What a cloud has signed of a machine, by its name there: `account`, `region`.
pub type Facts = BTreeMap<&'static str, String>;

/// That a machine is this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    host_id: String,
    method: Method,
    machine: String,
    facts: Facts,
}

impl Proof {
    /// `machine`: what the cloud calls the machine, in one spelling.
    pub(super) const fn new(
        host_id: String,
        method: Method,
        machine: String,
        facts: Facts,
    ) -> Self {
        Self { host_id, method, machine, facts }
    }

    /// The host, as grants name it.
    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// How it was proven.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The machine, in one spelling: what has enrolled once is known by it, whatever host it says
    /// it is the next time.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// What the cloud has signed of it.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Refuses what cannot be the id of a host.
///
/// # Errors
/// Why, in words.
pub fn check_id(id: &str) -> Result<(), String> {
    text::check("the host's id", id, MAX_ID_BYTES)?;
    match id.chars().find(|letter| letter.is_whitespace() || is_hostile(*letter)) {
        None => Ok(()),
        Some(letter) => Err(format!("the host's id has the letter {letter:?}, which no host has")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_that_of_one_method() {
        for method in Method::ALL {
            assert_eq!(Method::of_word(method.word()), Some(method));
        }
        assert_eq!(Method::of_word("tpm"), None);
    }

    #[test]
    fn what_no_host_is_called_is_refused() {
        assert!(check_id("//compute.googleapis.com/projects/p/zones/z/instances/1").is_ok());
        for bad in ["", "a b", "a\n", "a\u{202e}b", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
