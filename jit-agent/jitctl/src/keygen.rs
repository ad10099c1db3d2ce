//! `jitctl keygen`: a key pair that signs grants. Never replaces a key.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jit_client::{
    exit::Exit,
    signing::{Algorithm, SigningKey},
};

use crate::{
    failure::Failure,
    files::{self, PRIVATE, PUBLIC},
    text,
};

/// Arguments of `keygen`.
#[derive(Args, Debug)]
pub(crate) struct KeygenArgs {
    /// Signature algorithm
    #[arg(long, value_enum)]
    algorithm: AlgorithmArg,
    /// Path of the keys to write: PATH.key (private, mode 0600) and PATH.pub.pem
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

/// Algorithms that agents accept.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlgorithmArg {
    /// Ed25519 (RFC 8032): small and fast.
    Ed25519,
    /// ECDSA over P-256 with SHA-256: what HSMs and cloud key services offer.
    P256,
}

impl From<AlgorithmArg> for Algorithm {
    fn from(argument: AlgorithmArg) -> Self {
        match argument {
            AlgorithmArg::Ed25519 => Self::Ed25519,
            AlgorithmArg::P256 => Self::P256,
        }
    }
}

/// Makes a key pair and writes both keys.
pub(crate) fn run(args: &KeygenArgs) -> Result<Exit, Failure> {
    let private = files::with_suffix(&args.out, ".key");
    let public = files::with_suffix(&args.out, ".pub.pem");
    files::refuse_existing(&[&private, &public])?;
    let provider = rustls::crypto::ring::default_provider();
    let key =
        SigningKey::generate(args.algorithm.into(), provider.secure_random).map_err(|_| {
            Failure::unavailable("cannot make a key: the system gives no random numbers")
        })?;
    files::write_new(&private, key.to_pem().as_bytes(), PRIVATE)?;
    files::write_new(&public, key.public_pem().as_bytes(), PUBLIC)?;
    text::print(&format!(
        "{} key {}\n  private  {} (keep it secret; it signs grants)\n  public   {} (goes to every \
         host, as public_key of a [[signer]])\n",
        key.algorithm(),
        key.key_id(),
        private.display(),
        public.display()
    ))?;
    Ok(Exit::Success)
}
