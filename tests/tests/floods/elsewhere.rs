//! The same floods against an agent that runs elsewhere, such as the installed service in a virtual
//! machine (`cargo xtask vm-test --systemd`). Whoever starts the tests gives its address and keys, and
//! measures its memory. The network that the tests run in has the strangers' addresses.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use jit_client::{
    agent::Agent,
    signing::{SigningKey, seal},
    target::Target,
};
use jit_proto::{
    SourcePrefix,
    payload_type::GRANT_TYPE,
    v1::{self, revoke_request::What},
};
use prost::Message as _;

/// The agent's address and port.
const AT: &str = "JIT_TEST_FLOODS_AT";
/// A folder: `signer.key`, and `pki` with the authority and the controllers.
const KEYS: &str = "JIT_TEST_FLOODS_KEYS";
/// The host's id and a source that its configuration allows.
const HOST: &str = "JIT_TEST_FLOODS_HOST";
const SOURCE: &str = "JIT_TEST_FLOODS_SOURCE";
/// The strangers: one, and twenty more.
const STRANGER: [u8; 4] = [203, 0, 113, 9];

/// The agent's address, if it runs elsewhere.
pub(crate) fn address() -> Option<SocketAddr> {
    let address = env::var(AT).ok()?;
    Some(address.parse().unwrap_or_else(|error| panic!("{AT} = {address:?}: {error}")))
}

/// The address of the stranger.
pub(crate) fn stranger() -> SocketAddr {
    SocketAddr::new(STRANGER.into(), 0)
}

/// More of the strangers' addresses.
pub(crate) fn strangers(count: u8) -> Vec<IpAddr> {
    (100..100 + count).map(|last| IpAddr::from([203, 0, 113, last])).collect()
}

/// An agent that runs elsewhere.
pub(crate) struct Elsewhere {
    keys: PathBuf,
    signer: SigningKey,
    host: String,
    source: SourcePrefix,
}

impl Elsewhere {
    pub(crate) fn from_environment() -> Option<Self> {
        address()?;
        let given = |name| env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let keys = PathBuf::from(given(KEYS));
        let pem = fs::read_to_string(keys.join("signer.key")).unwrap();
        let signer = SigningKey::from_pem(&pem).unwrap();
        let source = given(SOURCE).parse().unwrap();
        Some(Self { keys, signer, host: given(HOST), source })
    }

    /// The folder with the keys.
    pub(crate) fn keys(&self) -> &Path {
        &self.keys
    }

    /// A controller connects and pushes a grant.
    pub(crate) fn push(&self, runtime: &tokio::runtime::Runtime, target: &Target) {
        let pushed = runtime.block_on(async {
            let mut agent = Agent::connect(target).await.map_err(|error| error.to_string())?;
            agent.push(self.envelope()).await.map_err(|error| error.to_string())
        });
        let outcome = pushed.unwrap_or_else(|error| panic!("a push: {error}"));
        assert!(outcome.accepted, "{outcome:?}");
    }

    /// A controller connects and revokes everything.
    pub(crate) fn revoke(&self, runtime: &tokio::runtime::Runtime, target: &Target) {
        let what = Some(What::All(true));
        let request = v1::RevokeRequest { what, reason: "test".into(), cut: false };
        let revoked = runtime.block_on(async {
            let mut agent = Agent::connect(target).await.map_err(|error| error.to_string())?;
            agent.revoke(request).await.map_err(|error| error.to_string())
        });
        revoked.unwrap_or_else(|error| panic!("a revocation: {error}"));
    }

    fn envelope(&self) -> v1::Envelope {
        let now = jit_agent::system::sys::now().wall.0;
        let mut id = vec![0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).unwrap();
        let lasts = i64::try_from(Duration::from_secs(60).as_millis()).unwrap();
        let grant = v1::Grant {
            id: id.into(),
            hosts: vec![self.host.clone()],
            sources: vec![v1::Source::from(&self.source)],
            ports: vec![v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 }],
            issued_at_ms: now,
            not_before_ms: now,
            not_after_ms: now + lasts,
            requester: "ana@example.org".into(),
            justification: "test".into(),
            ..v1::Grant::default()
        };
        seal(GRANT_TYPE, grant.encode_to_vec(), std::slice::from_ref(&self.signer))
    }
}
