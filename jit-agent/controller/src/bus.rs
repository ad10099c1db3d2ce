//! The bus of a fleet with several hubs: NATS JetStream between the side that has the store and the
//! hubs, which have neither a database nor a key.
//!
//! The outbox in the store stays the truth, and the bus only makes it quick. The side with the
//! store publishes what is signed for each host ([`Bus::publish`]) and reads what hubs report
//! ([`Bus::reports`]). A hub first listens ([`Bus::changes`]), then reads each host's mailbox
//! ([`Bus::mailbox`]), and reports ([`Bus::report`]).
//!
//! What comes out of the bus is bytes: this verifies nothing, and nobody may believe anything that
//! it returns. A broker that replays, reorders, forges or drops opens nothing, since each host
//! verifies; and it loses nothing, since the outbox publishes again until the host has answered.
//! Its acknowledgement only says that it need not be published again at once.

#[cfg(feature = "nats")]
mod call;
#[cfg(feature = "nats")]
mod changes;
#[cfg(feature = "nats")]
mod error;
#[cfg(feature = "nats")]
mod inbox;
#[cfg(feature = "nats")]
mod intake;
#[cfg(feature = "nats")]
mod mailbox;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod publish;
#[cfg(feature = "nats")]
mod report;
mod settings;
#[cfg(feature = "nats")]
mod sign;
#[cfg(feature = "nats")]
mod stream;
#[cfg(feature = "nats")]
pub mod subject;

pub use self::settings::{RawSettings, Settings};
#[cfg(feature = "nats")]
pub use self::{
    call::{Answer, Answers, Ask, Call, Refusal, Said},
    changes::{Change, Changes},
    error::BusError,
    intake::{Received, Reports},
    mailbox::Stored,
    nats::Bus,
    publish::{Letter, Published},
    report::{Outcome, Presence, Report},
    sign::{Beat, Comparison, Sign, Signs},
};
