//! What a cloud has signed of one of its machines, and what follows from it. Each module is one
//! way; what does not count is refused with a sentence for who set the machine up.

pub mod arc;
pub mod azure;
mod ber;
pub mod ec2;
#[cfg(test)]
mod forge;
pub mod gcp;
pub mod jwt;
pub mod pkcs7;
