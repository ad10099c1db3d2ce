//! Keys and certificates of a new controller.

use std::{path::Path, time::Duration};

use jit_client::{
    ca::{Authority, CaError, Names, Pair},
    signing::{Algorithm, SigningKey},
};

use super::{
    super::{
        Failure,
        files::{self, PRIVATE, PUBLIC},
    },
    args::InitArgs,
};
use crate::audit::head::HeadKey;

/// The authority.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates of the controller.
const LEAF_LIFETIME: Duration = Duration::from_secs(825 * 86_400);

/// All of them. Private keys are written nowhere else.
pub(super) struct Keys {
    authority: Pair,
    agents: Pair,
    api: Pair,
    signer: SigningKey,
    revocation: SigningKey,
    freshness: SigningKey,
    audit_pem: String,
    pub(super) audit: HeadKey,
}

impl Keys {
    pub(super) fn make(args: &InitArgs) -> Result<Self, Failure> {
        let failed = |error: CaError| match error {
            CaError::NewKey(_) => Failure::unavailable(error.to_string()),
            CaError::Dns(_) => Failure::usage(format!("--name: {error}")),
            CaError::Uri(_) => Failure::usage(format!("--identity: {error}")),
            other => Failure::usage(other.to_string()),
        };
        let first = args.name.first().map_or("jit-controller", String::as_str);
        let authority =
            Authority::create(&format!("jit-controller {first}"), CA_LIFETIME).map_err(failed)?;
        let issuer = Authority::from_pem(&authority.certificate, &authority.key).map_err(failed)?;
        let own = Names { uri: vec![args.identity()], ..Names::default() };
        let agents = issuer.issue("jit-controller", &own, LEAF_LIFETIME).map_err(failed)?;
        // On this machine it is reached by its loopback names too.
        let mut names = Names { dns: vec!["localhost".into()], ..Names::default() };
        names.ip = vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        for name in &args.name {
            match name.parse() {
                Ok(address) if !names.ip.contains(&address) => names.ip.push(address),
                Ok(_) => {}
                Err(_) if !names.dns.contains(name) => names.dns.push(name.clone()),
                Err(_) => {}
            }
        }
        let api = issuer.issue(first, &names, LEAF_LIFETIME).map_err(failed)?;
        let new = |algorithm: Algorithm| {
            let random = rustls::crypto::ring::default_provider().secure_random;
            SigningKey::generate(algorithm, random).map_err(|_| {
                Failure::unavailable("cannot make a key: the system gives no random numbers")
            })
        };
        let algorithm = args.algorithm.into();
        let (signer, revocation) = (new(algorithm)?, new(algorithm)?);
        let freshness = new(algorithm)?;
        let audit_pem = new(Algorithm::Ed25519)?.to_pem();
        let audit = HeadKey::from_pem(&audit_pem).map_err(Failure::unavailable)?;
        Ok(Self { authority, agents, api, signer, revocation, freshness, audit_pem, audit })
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Failure> {
        files::make_directory(&directory.join("pki"))?;
        let Self { signer, revocation, freshness, .. } = self;
        for (name, text) in [
            ("pki/ca.key", &self.authority.key),
            ("controller.key", &self.agents.key),
            ("api.key", &self.api.key),
            ("signer.key", &signer.to_pem()),
            ("revocation.key", &revocation.to_pem()),
            ("freshness.key", &freshness.to_pem()),
            ("audit.key", &self.audit_pem),
        ] {
            files::write_new(&directory.join(name), text.as_bytes(), PRIVATE)?;
        }
        for (name, text) in [
            ("pki/ca.pem", &self.authority.certificate),
            ("controller.pem", &self.agents.certificate),
            ("api.pem", &self.api.certificate),
            ("signer.pub.pem", &signer.public_pem()),
            ("revocation.pub.pem", &revocation.public_pem()),
            ("freshness.pub.pem", &freshness.public_pem()),
            ("audit.pub.pem", &self.audit.public_pem()),
        ] {
            files::write_new(&directory.join(name), text.as_bytes(), PUBLIC)?;
        }
        Ok(())
    }

    /// The keys that sign: of grants, of revocations, and of checkpoints.
    pub(super) const fn signing(&self) -> [&SigningKey; 3] {
        [&self.signer, &self.revocation, &self.freshness]
    }
}
