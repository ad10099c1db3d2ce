//! The nouns of the controller and the arithmetic of approval. Pure: time is an argument, nothing is
//! read or written. The signer, which holds the key, uses the same functions as the rest.

pub mod account;
pub mod approval;
pub mod as_text;
pub mod form;
pub mod grant;
pub mod host;
pub mod proposal;
pub mod rollout;
pub mod state;
pub mod verdict;

pub use account::Account;
pub use approval::{Decision, Needs, Ruling};
pub use form::Form;
pub use grant::GrantPart;
pub use host::Host;
pub use proposal::{Proposal, ProposalError};
pub use state::{Answer, State};
pub use verdict::{Escalation, Outcome, Rule, Verdict};
