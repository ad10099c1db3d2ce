//! Talking to an agent: which one ([`target`]), how to reach it (`dial`, [`local`]), what to ask
//! ([`agent`]), signing for it ([`signing`], [`keys`]), its certificates (`ca`), and what a person sees
//! of its answers ([`status`]); with the feature `controller` also talking to the controller, which asks
//! many people and many agents.
//!
//! Errors come back as data ([`CallError`]); nothing here prints or ends the program.

#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod agent;
#[cfg(feature = "authenticator")]
pub mod authenticator;
mod budget;
#[cfg(feature = "pki")]
pub mod ca;
#[cfg(feature = "controller")]
pub mod controller;
mod dial;
mod error;
pub mod exit;
pub mod files;
pub mod host_uri;
#[cfg(feature = "signing")]
pub mod inspect;
#[cfg(feature = "signing")]
mod key_spec;
#[cfg(feature = "signing")]
pub mod keys;
pub mod local;
pub mod pem;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod policy_changes;
#[cfg(feature = "signing")]
pub mod public_key;
pub mod revocation;
pub mod revocation_order;
#[cfg(feature = "secret")]
pub mod secret;
#[cfg(feature = "signing")]
pub mod signing;
#[cfg(feature = "signing")]
pub mod ssh_agent;
pub mod status;
pub mod target;
mod terminal;
pub mod text;
#[cfg(feature = "signing")]
pub mod trusted;
pub mod watch;
mod wire;
#[cfg(test)]
#[cfg(feature = "signing")]
mod worked_example;

pub use agent::Agent;
pub use budget::Budget;
pub use dial::Credentials;
pub use error::CallError;
pub use host_uri::HostUri;
pub use target::Target;
