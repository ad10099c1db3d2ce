//! The gRPC service `jit.v1.JitAgent`, for controllers over TLS and for the command line over a
//! unix socket. It authorizes and translates; the gate decides.

mod accept;
mod activity;
mod answer;
mod authority;
mod budget;
mod call;
mod compare;
mod connect;
mod denials;
mod front_board;
mod handshake;
mod heartbeat;
mod http2;
mod intake;
mod listen;
mod lists;
mod network;
mod peer;
mod places;
mod policy;
mod relay;
mod renewals;
mod revoke;
mod service;
mod shape;
mod trial;
mod uplink;
mod uplinks;
mod upstream;
mod verifier;

pub(crate) use accept::{Entrance, accept, serve_network};
pub use accept::{Trust, serve_unix};
pub use authority::Trusted;
pub use front_board::FrontBoard;
pub use heartbeat::Heartbeat;
pub(crate) use http2::OLDEST;
pub use listen::{bind_tcp, bind_unix};
pub use peer::{Caller, Identity, Who};
pub use relay::{Fate, Fronted};
pub use renewals::{Renewals, Renewing};
pub use service::Service;
pub(crate) use uplink::uplink;
pub use uplinks::{Phase, Uplinks};
pub(crate) use upstream::Upstream;
