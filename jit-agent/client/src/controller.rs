//! Talking to the controller: the JSON of `/api/v1` ([`types`]), that of `/subscriptions`
//! ([`defender`]), and how to call them (`call`, `http`).

#[cfg(feature = "controller-http")]
pub mod call;
pub mod defender;
#[cfg(feature = "controller-http")]
pub mod http;
#[cfg(feature = "controller-http")]
mod trouble;
pub mod types;
