//! The controller of jit-agent: who may ask, who must agree, what is signed, and how it reaches the hosts.
//!
//! From the bottom: `model` (nouns, pure), `rules` (Cedar, pure), `store` (the database), `audit`,
//! `signer` (a process of its own, the only one with a key), `desk` (what may be done with a
//! request), `checkpoint` (what each host must have received), `fleet` (hosts: connections,
//! deliveries, what they answer), `bus` (NATS between the store and hubs), `messages` (chats and
//! mail), `health` (what does not work), `people` (who a browser is), `enrol` (who a machine is),
//! `api` (HTTP), `defender` (Microsoft Defender's API over it), `portal` (pages), `app` (wiring),
//! `commands`.
//!
//! Nothing here can open a port: only what the signer signs can, and each host checks that by
//! itself.

pub mod api;
pub mod app;
pub mod audit;
pub mod bus;
mod calls;
mod causes;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod defender;
pub mod desk;
pub mod enrol;
pub mod fleet;
mod health;
mod here;
mod keyed;
pub mod messages;
pub mod model;
pub mod people;
pub mod portal;
mod published;
pub mod rules;
mod secret;
pub mod signer;
mod sites;
pub mod store;
