//! Many grants, signed by keys of both algorithms.

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use jit_client::signing::{Algorithm, SigningKey, seal};
use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::{Site, TO_CLIENT},
    figures::Figure,
    programs::binary,
};
use prost::Message as _;

/// Where the agent listens for controllers.
pub(crate) const PORT: u16 = 7443;
/// Number of grants in a batch.
pub(crate) const BATCH: u32 = 1_000;
/// How long grants last that nobody waits for.
pub(crate) const LONG: Duration = Duration::from_secs(3_000);

/// A site whose agent trusts a key of each algorithm.
pub(crate) struct Signed {
    pub(crate) site: Site,
    ed25519: SigningKey,
    p256: SigningKey,
}

impl Signed {
    /// A site whose agent runs.
    pub(crate) fn start() -> Self {
        let mut signed = Self::new("");
        signed.site.start();
        signed
    }

    /// A site whose agent listens for controllers and runs.
    pub(crate) fn listening() -> Self {
        let [server, _] = TO_CLIENT;
        let mut signed = Self::new(&format!(
            "[control]\nlisten = \"{server}:{PORT}\"\ncertificate = \"pki/agent.pem\"\n\
             key = \"pki/agent.key\"\nclient_ca = \"pki/ca.pem\"\n\
             [[controller]]\nidentity = \"spiffe://example.org/controller\"\n\
             may = [\"grant\", \"revoke\", \"read\"]\n"
        ));
        signed.make_certificates();
        signed.site.start();
        signed
    }

    fn make_certificates(&self) {
        for arguments in [
            "pki init --dir pki --name bench",
            "pki issue --dir pki --name agent --ip 198.51.100.1",
            "pki issue --dir pki --name controller --uri spiffe://example.org/controller",
        ] {
            let mut command = Command::new(binary("jitctl"));
            command.args(arguments.split(' ')).current_dir(self.site.path(""));
            assert!(command.output().unwrap().status.success(), "jitctl {arguments}");
        }
    }

    /// A site without an agent. `extra` follows its configuration.
    pub(crate) fn new(extra: &str) -> Self {
        let site = Site::new();
        let [ed25519, p256] = [Algorithm::Ed25519, Algorithm::P256].map(key);
        let mut signers = String::new();
        for (name, key) in [("ed25519", &ed25519), ("p256", &p256)] {
            fs::write(site.path(&format!("{name}.pem")), key.public_pem()).unwrap();
            signers += &format!("[[signer]]\nid = \"{name}\"\npublic_key = \"{name}.pem\"\n");
        }
        fs::write(site.path("ed25519.key"), ed25519.to_pem()).unwrap();
        site.configure(&(signers + extra));
        Self { site, ed25519, p256 }
    }

    /// Grants for the addresses with these numbers.
    pub(crate) fn envelopes(
        &self,
        algorithm: Algorithm,
        numbers: impl Iterator<Item = u32>,
        lasts: Duration,
    ) -> Vec<v1::Envelope> {
        let key = match algorithm {
            Algorithm::Ed25519 => &self.ed25519,
            Algorithm::P256 => &self.p256,
        };
        let sign = |number| {
            let source = Ipv4Addr::from(0x0b00_0000 + number).to_string();
            self.sign(&source, lasts, key)
        };
        numbers.map(sign).collect()
    }

    /// A grant for this source.
    pub(crate) fn for_source(&self, source: &str, lasts: Duration) -> v1::Envelope {
        self.sign(source, lasts, &self.ed25519)
    }

    fn sign(&self, source: &str, lasts: Duration, key: &SigningKey) -> v1::Envelope {
        let payload = self.site.grant(&[source], lasts).encode_to_vec();
        seal(GRANT_TYPE, payload, std::slice::from_ref(key))
    }

    /// Pushes grants for the addresses with these numbers.
    pub(crate) fn fill(&self, numbers: std::ops::Range<u32>, lasts: Duration) {
        for first in numbers.clone().step_by(usize::try_from(BATCH).unwrap()) {
            let batch = first..(first + BATCH).min(numbers.end);
            self.push(self.envelopes(Algorithm::Ed25519, batch, lasts));
        }
    }

    /// Pushes a batch. Returns how long the call took.
    pub(crate) fn push(&self, envelopes: Vec<v1::Envelope>) -> Duration {
        let request = v1::PushBatchRequest { envelopes, ..Default::default() };
        let pushed = self.site.call(async |mut client| {
            let start = Instant::now();
            Ok((client.push_batch(request).await?.into_inner(), start.elapsed()))
        });
        let (answer, took) = pushed.unwrap();
        for outcome in answer.outcomes {
            assert!(outcome.accepted, "{outcome:?}");
        }
        took
    }
}

fn key(algorithm: Algorithm) -> SigningKey {
    let provider = rustls::crypto::ring::default_provider();
    SigningKey::generate(algorithm, provider.secure_random).unwrap()
}

/// Reports values of the agent.
pub(crate) fn report(
    table: &str,
    row: &str,
    (unit, more_is_better): (&str, bool),
    values: Vec<f64>,
) {
    Figure { table, row, subject: jit_tests::figures::GATE, unit, more_is_better, values }.report();
}

/// A duration in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How many grants, for the name of a row.
pub(crate) fn many(number: u32) -> String {
    match number {
        0 => "no grants".to_owned(),
        1_000.. => format!("{},{:03} grants", number / 1_000, number % 1_000),
        _ => format!("{number} grants"),
    }
}
