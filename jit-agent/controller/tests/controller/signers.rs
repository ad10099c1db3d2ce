//! A signer for tests: the real process, with keys in files.

use std::{path::Path, time::Duration};

use jit_client::{
    ca::Authority,
    signing::{Algorithm, SigningKey},
};
use jit_controller::signer::{AuthoritySettings, KeySettings, Settings, Signer};
use tempfile::TempDir;

/// A signer whose key and journal go away with the value.
pub(crate) struct Signing {
    pub(crate) signer: Signer,
    _directory: TempDir,
}

/// Starts one.
pub(crate) async fn pem() -> Signing {
    started(None, 100_000).await
}

/// Starts one that signs this often in a minute.
pub(crate) async fn at_most(signatures_a_minute: u32) -> Signing {
    started(None, signatures_a_minute).await
}

/// Starts one that issues certificates of hosts.
pub(crate) async fn with_authority() -> Signing {
    let pair = Authority::create("hosts", Duration::from_secs(86_400)).unwrap();
    started(Some((pair.certificate, pair.key)), 100_000).await
}

async fn started(authority: Option<(String, String)>, signatures_a_minute: u32) -> Signing {
    let directory = tempfile::tempdir().unwrap();
    let provider = rustls::crypto::ring::default_provider();
    for name in ["signing.key", "closing.key"] {
        let key = SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
        std::fs::write(directory.path().join(name), key.to_pem()).unwrap();
    }
    let mut settings = Settings::of_pem(Path::new("signing.key"));
    settings.revocation_keys = vec![KeySettings::Pem { file: "closing.key".into() }];
    if let Some((certificate, key)) = authority {
        std::fs::write(directory.path().join("hosts.pem"), certificate).unwrap();
        std::fs::write(directory.path().join("hosts.key"), key).unwrap();
        settings.authority = Some(AuthoritySettings {
            certificate: "hosts.pem".into(),
            key: "hosts.key".into(),
            trust_domain: "example.org".into(),
            lifetime: Duration::from_secs(3600),
            certificates_a_minute: 600,
        });
    }
    settings.resolve(directory.path());
    settings.limits.signatures_a_minute = signatures_a_minute;
    let program = Path::new(env!("CARGO_BIN_EXE_jit-controller"));
    let signer = Signer::start_program(program, &settings).await.unwrap();
    Signing { signer, _directory: directory }
}
