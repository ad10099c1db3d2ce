//! The contract of jit-agent: package `jit.v1` with its generated client and server, and the
//! contract's own types, which controller, command lines and agent share.
//!
//! Nothing here opens a socket, a file or a kernel table, or reads a clock.

pub mod confirm;
pub mod dsse;
pub mod exact;
pub mod grant_id;
mod grant_state;
pub mod hook;
pub mod mailbox;
pub mod merkle;
pub mod payload_type;
pub mod pem;
pub mod permission;
pub mod port_range;
pub mod port_section;
pub mod prefix;
pub mod printable;
pub mod refusal;
pub mod sessions;
pub mod text;
pub mod toml_value;
pub mod uplink;
pub mod wall_time;
pub mod webauthn;
pub mod words;
pub mod wrong;

pub use grant_id::GrantId;
pub use hook::Hook;
pub use payload_type::PayloadType;
pub use permission::{Permission, Permissions};
pub use port_range::PortRange;
pub use port_section::{Exemption, PolicyFile, PortSection};
pub use prefix::SourcePrefix;
pub use refusal::Refusal;
pub use sessions::Sessions;
pub use wall_time::WallTime;

/// Package `jit.v1`.
pub mod v1 {
    #![expect(
        unused_qualifications,
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files carry the documentation"
    )]
    tonic::include_proto!("jit.v1");
}
