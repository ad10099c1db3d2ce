//! The control plane: gRPC for controllers and for the local command line. It decides who may ask;
//! what is granted is decided by the gate.

pub mod certificate;
mod judge;
pub(crate) mod link;
pub(crate) mod metrics;
pub mod server;
pub mod tls;
