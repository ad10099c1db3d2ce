//! Talking to the controller: the JSON of `/api/v1` ([`types`]), and how to call it (`call`, `http`).

#[cfg(feature = "controller-http")]
pub mod call;
#[cfg(feature = "controller-http")]
pub mod http;
#[cfg(feature = "controller-http")]
mod trouble;
pub mod types;
