//! The protocol of jit-agent: package `jit.v1`, generated client and server, and the words in it.

pub mod hook;

pub use hook::Hook;

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
