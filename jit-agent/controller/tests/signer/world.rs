//! Requests that were agreed to now, a directory with a key, and the signer's program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jit_client::{
    public_key::PublicKey,
    signing::{Algorithm, SigningKey},
};
use jit_controller::{
    model::{Decision, Proposal, Ruling, grant},
    signer::{KeyInfo, Purpose, Settings, SignRequest, Signer, SignerError},
};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use serde_json::json;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_jit-controller");

/// A directory with a signing key.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) settings: Settings,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = new_key(directory.path(), "signer", Algorithm::Ed25519).0;
        let mut settings = Settings::of_pem(&file);
        settings.limits.signatures_a_minute = 100_000;
        settings.resolve(directory.path());
        Self { directory, settings }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn start(&self) -> Signer {
        self.try_start().await.unwrap()
    }

    pub(crate) async fn try_start(&self) -> Result<Signer, SignerError> {
        Signer::start_program(Path::new(PROGRAM), &self.settings).await
    }

    /// Starts it, as soon as the one before has left its journals.
    pub(crate) async fn started(&self) -> Signer {
        let began = Instant::now();
        loop {
            match self.try_start().await {
                Ok(signer)
                    if signer.processes().values().all(|one| !one.trouble.contains("journal")) =>
                {
                    return signer;
                }
                Ok(signer) => drop(signer),
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the one before is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A new key in a file, and the key.
pub(crate) fn new_key(directory: &Path, name: &str, algorithm: Algorithm) -> (PathBuf, SigningKey) {
    let provider = rustls::crypto::ring::default_provider();
    let key = SigningKey::generate(algorithm, provider.secure_random).unwrap();
    let file = directory.join(format!("{name}.key"));
    fs::write(&file, key.to_pem()).unwrap();
    (file, key)
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Ana asks for SSH on web-1 for an hour.
/// The id of the process that signs grants.
pub(crate) fn process(signer: &Signer) -> Option<u32> {
    signer.processes().remove(&Purpose::Opens).unwrap().pid
}

pub(crate) fn proposal() -> Proposal {
    Proposal {
        id: ulid::Ulid::generate().to_string(),
        requester: "ana@example.org".into(),
        hosts: vec!["web-1".into()],
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: 3_600_000,
        start_ms: None,
        reason: "disk full".into(),
        ticket: "INC-4211".into(),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms: now_ms(),
        approve_until_ms: now_ms() + 3_600_000,
    }
}

/// Li of `sre` has agreed to it.
pub(crate) fn agreed(proposal: Proposal) -> SignRequest {
    let hosts: Vec<_> = proposal.hosts.iter().take(20).collect();
    let verdict = json!({
        "rules_version": 1,
        "outcome": "manual",
        "needs": { "sre": 1 },
        "max_duration_ms": null,
        "rules": [{
            "id": "ssh", "effect": "permit", "action": "initiate", "reason": "", "asks": [],
            "hosts": hosts, "hosts_total": proposal.hosts.len(),
        }],
        "denied": [],
    });
    let decision = Decision {
        request: proposal.id.clone(),
        subject: "li@example.org".into(),
        account: "li".into(),
        ruling: Ruling::Approve,
        groups: ["sre".to_owned()].into(),
        reason: String::new(),
        hash: proposal.hash(),
        at_ms: proposal.created_ms,
    };
    let mut request = SignRequest {
        approved_ms: proposal.created_ms,
        proposal,
        verdict: serde_json::from_value(verdict).unwrap(),
        decisions: vec![decision],
        approvers: vec!["li@example.org".into()],
        replaces: Vec::new(),
        number: 0,
        payload: Vec::new(),
        shortens: None,
    };
    remade(&mut request);
    request
}

/// Makes the payload of what the request says now.
pub(crate) fn remade(request: &mut SignRequest) {
    let replaces: Vec<_> = request.replaces.iter().map(|id| id.parse().unwrap()).collect();
    let SignRequest { proposal, approvers, approved_ms, .. } = request;
    let parts = grant::parts(proposal, approvers, &replaces, *approved_ms).unwrap();
    request.payload = parts[request.number].payload.clone();
}

/// Signs a request of now, and checks that each key has signed exactly its payload.
pub(crate) async fn signs(signer: &Signer) {
    let request = agreed(proposal());
    let signatures = signer.sign(&request).await.unwrap();
    verify(signer, &request.payload, GRANT_TYPE, &signatures);
}

pub(crate) fn verify(signer: &Signer, payload: &[u8], of: &str, signatures: &[v1::Signature]) {
    verify_by(&signer.keys(), payload, of, signatures);
}

/// Each of these keys has signed exactly this payload, of this type.
pub(crate) fn verify_by(keys: &[KeyInfo], payload: &[u8], of: &str, signatures: &[v1::Signature]) {
    let message = pre_authentication_encoding(of, payload);
    assert_eq!(keys.len(), signatures.len());
    for (key, signature) in keys.iter().zip(signatures) {
        let public = PublicKey::from_pem(&key.public_key).unwrap();
        assert_eq!((&key.key_id, &public.key_id()), (&signature.key_id, &signature.key_id));
        assert!(public.verifies(&message, &signature.signature));
        assert!(!public.verifies(payload, &signature.signature));
    }
}

pub(crate) fn word(result: Result<Vec<v1::Signature>, SignerError>) -> String {
    match result {
        Err(SignerError::Refused { word, .. }) => word,
        other => panic!("{other:?}"),
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < until, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A program that is ended with the value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Runs a program to its end, which must be good. Returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{command:?} does not start ({error}); `cargo xtask setup` installs it")
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Writes a script that can be run.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    // By another process: a file that this one has open for writing cannot be run by its threads.
    let beside = path.with_extension("text");
    fs::write(&beside, text).unwrap();
    succeed(Command::new("cp").arg(&beside).arg(path));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
