//! The gRPC service `jit.v1.JitAgent`, for controllers over TLS and for the command line over a
//! unix socket. It authorizes and translates; the gate decides.

mod accept;
mod activity;
mod answer;
mod authority;
mod budget;
mod call;
mod denials;
mod handshake;
mod intake;
mod listen;
mod network;
mod peer;
mod places;
mod policy;
mod service;
mod shape;
mod trial;
mod verifier;

pub use accept::{Trust, serve_tcp, serve_unix};
pub use listen::{bind_tcp, bind_unix};
pub use peer::{Caller, Identity, Who};
pub use service::Service;
