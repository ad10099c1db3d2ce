//! A gate that takes pushed policies, with a real database, and policies for it.

use std::sync::Arc;

use jit_agent::{
    app::audit_settings,
    disk::{audit::Audit, store::Store},
    gate::{Gate, PolicyDraft, PolicyPush, faults::Faults, journal::Journal},
    kernel::datapath::memory::MemoryDatapath,
    rules::clock::Now,
};
use jit_common::{PortKey, Protocol, Tables as _};
use jit_proto::{Refusal, payload_type::POLICY_TYPE, v1};
use prost::Message as _;
use tempfile::TempDir;

use crate::support::{HOST, MINUTE, NOW, later, port, sign, try_config, v4};

pub(crate) const HTTP: PortKey = PortKey { protocol: Protocol::Tcp, port: 8080 };
pub(crate) const RDP: PortKey = PortKey { protocol: Protocol::Tcp, port: 3389 };
/// Of the signers, 3 signs policies and nothing else.
pub(crate) const RELEASE: &str =
    "[[signer]]\nid = \"release\"\npublic_key = \"3.pem\"\nsigns = [\"policy\"]\n";
pub(crate) const CEILING: &str = "[ceiling]\narm = [\"8000-8100\", \"53/udp\"]\ndisarm = [\"3389\"]\n\
                       sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndrain = true\nexemptions = true\n";

pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) kernel: MemoryDatapath,
    pub(crate) gate: Option<Gate<MemoryDatapath>>,
    pub(crate) extra: String,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with(&[RELEASE, CEILING].concat())
    }

    pub(crate) fn with(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = MemoryDatapath::default();
        let mut host = Self { directory, kernel, gate: None, extra: extra.to_owned() };
        host.restart("boot-1", NOW);
        host
    }

    /// As after kill -9: the kernel's tables and the disk stay, all else is new.
    pub(crate) fn restart(&mut self, boot: &str, now: Now) {
        self.gate = None;
        let (_keys, config) = try_config(&self.extra).unwrap();
        let state = self.directory.path().join("state");
        let store = Store::open(&state, now.wall).unwrap();
        let audit = Audit::open(&state, audit_settings(&config), now).unwrap();
        let boards = (Arc::new(Journal::new("test".into())), Faults::default());
        let gate = Gate::start(config, self.kernel.clone(), store, audit, boards, boot.into(), now);
        self.gate = Some(gate.unwrap());
    }

    pub(crate) fn reload(&mut self, extra: &str, now: Now) -> Result<(), String> {
        let (_keys, config) = try_config(extra)?;
        self.extra = extra.to_owned();
        self.gate().reconfigure(config, now)
    }

    pub(crate) fn gate(&mut self) -> &mut Gate<MemoryDatapath> {
        self.gate.as_mut().unwrap()
    }

    pub(crate) fn push_with(
        &mut self,
        push: PolicyPush,
        now: Now,
    ) -> Result<v1::PushPolicyResponse, (Refusal, String)> {
        let pushed = self.gate().push_policy(push, "test", now);
        if pushed.is_ok() {
            self.gate().policy_applied(now);
        }
        pushed.map_err(|refused| (refused.refusal, refused.detail))
    }

    pub(crate) fn push(&mut self, policy: &v1::Policy, now: Now) -> Result<String, Refusal> {
        let push = PolicyPush { envelope: signed(policy), ..PolicyPush::default() };
        self.push_with(push, now).map(|answer| answer.reason).map_err(|(refusal, _)| refusal)
    }

    pub(crate) fn confirm(
        &mut self,
        version: u64,
        connected: Now,
        now: Now,
    ) -> Result<String, Refusal> {
        let answer = self.gate().confirm_policy(version, connected.boot, "test", now);
        answer.map(|answer| answer.reason).map_err(|refused| refused.refusal)
    }

    pub(crate) fn diff(&mut self, policy: &v1::Policy) -> v1::DiffPolicyResponse {
        self.gate().diff_policy(&PolicyDraft::Message(Box::new(policy.clone())), NOW)
    }

    pub(crate) fn is_armed(&self, port: PortKey) -> bool {
        let tables = self.kernel.tables();
        tables.protected(port) && tables.rule(port).observe == 0
    }

    pub(crate) fn version(&mut self, now: Now) -> u64 {
        self.gate().show_policy(now).state.unwrap().version
    }

    pub(crate) fn opens(&self, port: PortKey, source: &str, now: Now) -> bool {
        self.kernel.opens(port, v4(source), now.boot)
    }
}

pub(crate) fn section(number: u32) -> v1::PolicyPort {
    let source = |text: &str| {
        let prefix: jit_proto::SourcePrefix = text.parse().unwrap();
        v1::Source::from(&prefix)
    };
    v1::PolicyPort {
        range: Some(port(number)),
        mode: v1::Mode::Enforce.into(),
        sources: vec![source("10.0.0.0/8")],
        widest_v4: None,
        widest_v6: None,
        max_duration_ms: 60 * MINUTE,
        approvals: 1,
        sessions: v1::Sessions::Drain.into(),
        terminates: v1::Terminates::Host.into(),
        exemptions: Vec::new(),
    }
}

/// The file's ports, near enough, and these.
pub(crate) fn policy(version: u64, more: &[v1::PolicyPort]) -> v1::Policy {
    let ssh = v1::PolicyPort { sources: section(22).sources, ..section(22) };
    let rdp = v1::PolicyPort { approvals: 2, ..section(3389) };
    v1::Policy {
        hosts: vec![HOST.into()],
        version,
        issued_at_ms: NOW.wall.0,
        not_after_ms: 0,
        ports: [&[ssh, rdp], more].concat(),
        author: "ana@example.org".into(),
        justification: "CHG-1".into(),
    }
}

pub(crate) fn signed(policy: &v1::Policy) -> v1::Envelope {
    sign(POLICY_TYPE, &policy.encode_to_vec(), &[3])
}

pub(crate) fn exemption(source: &str, until_ms: i64) -> v1::Exemption {
    let prefix: jit_proto::SourcePrefix = source.parse().unwrap();
    v1::Exemption {
        source: Some((&prefix).into()),
        reason: "probe".into(),
        owner: "netops".into(),
        until_ms,
    }
}

pub(crate) fn seconds(seconds: i64) -> Now {
    later(seconds * 1000)
}
