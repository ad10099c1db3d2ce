//! The states of a request, and what hosts have answered.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its word in the store and the API.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one with this word.
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.word() == word)
            }
        }
    };
}

pub(super) use words;

words! {
    /// The state of a request.
    State {
        /// Enough people have agreed; nothing is signed yet.
        Approved = "approved",
        /// Signed by the controller, and more signatures are needed: `jitctl approve
        /// --signing-key`.
        AwaitingSignatures = "awaiting_signatures",
        /// Signed, on its way to hosts.
        Delivering = "delivering",
        /// Somebody said no, or the rules forbid it.
        Denied = "denied",
        /// Its time has passed, or it was replaced.
        Ended = "ended",
        /// Nobody agreed in time.
        ExpiredUnapproved = "expired_unapproved",
        /// Every host has accepted it.
        Open = "open",
        /// Some hosts have accepted it.
        Partly = "partly",
        /// People must agree.
        Pending = "pending",
        /// Every host has refused it.
        Refused = "refused",
        /// Somebody ended it.
        Revoked = "revoked",
        /// Every host has accepted it, and its time has not begun.
        Scheduled = "scheduled",
        /// The requester took it back.
        Withdrawn = "withdrawn",
    }
}

impl State {
    /// Whether nothing can become of it any more.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Denied
            | Self::Ended
            | Self::ExpiredUnapproved
            | Self::Refused
            | Self::Revoked
            | Self::Withdrawn => true,
            Self::Approved
            | Self::AwaitingSignatures
            | Self::Delivering
            | Self::Open
            | Self::Partly
            | Self::Pending
            | Self::Scheduled => false,
        }
    }

    /// Whether something of it may be on hosts, so that it can be revoked.
    pub const fn is_on_hosts(self) -> bool {
        matches!(self, Self::Delivering | Self::Open | Self::Partly | Self::Scheduled)
    }
}

words! {
    /// What one host has answered.
    Answer {
        /// It has ended, and the host knows.
        Closed = "closed",
        /// The host lets the sources in.
        Open = "open",
        /// The host refuses it, with a reason word.
        Refused = "refused",
        /// The host has accepted it, and its time has not begun.
        Scheduled = "scheduled",
        /// The host has not answered yet.
        Waiting = "waiting",
    }
}

/// How many hosts have answered what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<(Answer, u64)>);

impl Tally {
    /// Adds hosts with this answer.
    pub fn add(&mut self, answer: Answer, hosts: u64) {
        self.0.push((answer, hosts));
    }

    /// Number of hosts with this answer.
    pub fn of(&self, wanted: Answer) -> u64 {
        self.0.iter().filter(|(answer, _)| *answer == wanted).map(|(_, count)| count).sum()
    }

    /// Number of hosts.
    pub fn all(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

/// The state of a request whose hosts have answered this, if its end has not come.
pub fn of_answers(answers: &Tally) -> State {
    let (open, scheduled) = (answers.of(Answer::Open), answers.of(Answer::Scheduled));
    match answers.all() {
        0 => State::Delivering,
        all if open == all => State::Open,
        all if open + scheduled == all => State::Scheduled,
        all if answers.of(Answer::Refused) == all => State::Refused,
        _ if open + scheduled > 0 => State::Partly,
        // None waits, and at least one has ended what it had.
        _ if answers.of(Answer::Waiting) == 0 => State::Ended,
        _ => State::Delivering,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        for state in State::ALL {
            assert_eq!(State::of_word(state.word()), Some(*state));
        }
        for answer in Answer::ALL {
            assert_eq!(Answer::of_word(answer.word()), Some(*answer));
        }
        assert_eq!(State::of_word("opened"), None);
    }

    #[test]
    fn a_request_is_open_only_where_every_host_has_said_so() {
        use Answer::{Closed, Open, Refused, Scheduled, Waiting};
        for (answers, state) in [
            (&[Open, Open][..], State::Open),
            (&[Open, Waiting], State::Partly),
            (&[Open, Refused], State::Partly),
            (&[Scheduled, Scheduled], State::Scheduled),
            (&[Open, Scheduled], State::Scheduled),
            (&[Refused, Refused], State::Refused),
            (&[Refused, Waiting], State::Delivering),
            (&[Waiting], State::Delivering),
            (&[Closed, Open], State::Partly),
            (&[Closed, Waiting], State::Delivering),
            (&[Closed, Refused], State::Ended),
            (&[Closed, Closed], State::Ended),
            (&[], State::Delivering),
        ] {
            let mut tally = Tally::default();
            for answer in answers {
                tally.add(*answer, 1);
            }
            assert_eq!(of_answers(&tally), state, "{answers:?}");
        }
    }
}
