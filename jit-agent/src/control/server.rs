//! The gRPC service `jit.v1.JitAgent`, for controllers over TLS and for the command line over a
//! unix socket. It authorizes and translates; the gate decides.

mod accept;
mod answer;
mod authority;
mod call;
mod peer;
mod policy;
mod service;

pub use accept::{Trust, bind_tcp, bind_unix, serve_tcp, serve_unix};
pub use peer::{Caller, Identity, Peer, Who};
pub use service::Service;
