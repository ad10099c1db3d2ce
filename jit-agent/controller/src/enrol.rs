//! How a machine becomes a host that is believed: what its cloud has signed, or a token of an
//! administrator, once; a person where it comes again.
//!
//! Everything here is decided without a network: what a machine sends, the configuration, the store
//! and a time are arguments. Only [`keys`] reads what clouds publish. Nothing here has a key but
//! [`issue`], which belongs to the signer's process. [`ask`] answers a host, [`certify`] has
//! certificates issued, [`renew`] the next ones.

pub mod admit;
pub mod ask;
pub mod attest;
pub mod certify;
pub mod issue;
pub mod keys;
pub mod nonce;
pub mod opened;
pub mod proof;
pub mod renew;
pub mod request;
pub mod settings;
pub mod token;
