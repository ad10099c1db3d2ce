//! The configuration file as TOML, unchecked: one type for each section.

use std::path::PathBuf;

use jit_proto::{
    permission::Permission,
    port_section::{Mode, TomlSection},
};
use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) approver: Vec<Approver>,
    pub(super) host: Host,
    #[serde(default)]
    pub(super) gate: Gate,
    #[serde(default)]
    pub(super) port: Vec<TomlSection>,
    pub(super) control: Option<Control>,
    #[serde(default)]
    pub(super) controller: Vec<Controller>,
    #[serde(default)]
    pub(super) signer: Vec<Signer>,
    #[serde(default)]
    pub(super) audit: Audit,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) ceiling: Option<Ceiling>,
    pub(super) freshness: Option<Freshness>,
    #[serde(default)]
    pub(super) break_glass: BreakGlass,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) paths: Paths,
    pub(super) uplink: Option<Uplink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub(super) id: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    pub(super) mode: Option<Mode>,
    pub(super) interfaces: Option<Vec<String>>,
    #[serde(default)]
    pub(super) exclude: Vec<Exclude>,
    pub(super) hook: Option<Hook>,
    pub(super) socket_guard: Option<bool>,
    pub(super) confirm_within: Option<String>,
}

/// An entry of `exclude`: a glob, or a glob and why its interfaces need no gate.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a name, or { name = \"eth9\", reason = \"why it needs no gate\" }")]
pub(super) enum Exclude {
    Name(String),
    Reasoned(Reasoned),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reasoned {
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Hook {
    Auto,
    Clsact,
    Generic,
    Native,
    Tc,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub(super) listen: Spanned<String>,
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    pub(super) client_ca: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uplink {
    pub(super) hubs: Vec<String>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) proxy: Option<String>,
    pub(super) proxy_credentials: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Controller {
    pub(super) identity: String,
    pub(super) may: Vec<Permission>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approver {
    pub(super) id: String,
    pub(super) public_key: Spanned<PathBuf>,
    pub(super) rp_id: String,
    pub(super) origins: Vec<String>,
    pub(super) ports: Option<Vec<String>>,
    pub(super) sources: Option<Vec<String>>,
    pub(super) max_duration: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) not_after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signer {
    pub(super) id: String,
    pub(super) public_key: Spanned<PathBuf>,
    #[serde(default = "Signer::grants_alone")]
    pub(super) signs: Vec<Signs>,
    pub(super) ports: Option<Vec<String>>,
    pub(super) sources: Option<Vec<String>>,
    pub(super) max_duration: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) not_after: Option<String>,
}

impl Signer {
    fn grants_alone() -> Vec<Signs> {
        vec![Signs::Grant]
    }
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Signs {
    Checkpoint,
    Grant,
    Policy,
    Revocation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ceiling {
    #[serde(default)]
    pub(super) arm: Vec<String>,
    #[serde(default)]
    pub(super) disarm: Vec<String>,
    #[serde(default)]
    pub(super) sources: Vec<String>,
    pub(super) widest_v4: Option<u8>,
    pub(super) widest_v6: Option<u8>,
    pub(super) max_duration: Option<String>,
    pub(super) approvals: Option<u8>,
    pub(super) policy_approvals: Option<u8>,
    #[serde(default)]
    pub(super) observe: bool,
    #[serde(default)]
    pub(super) drain: bool,
    #[serde(default)]
    pub(super) forwarded: bool,
    #[serde(default)]
    pub(super) exemptions: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freshness {
    #[serde(default)]
    pub(super) on_stale: OnStale,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnStale {
    RefuseNew,
    #[default]
    Report,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Audit {
    pub(super) max_size: Option<String>,
    pub(super) keep: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BreakGlass {
    pub(super) max_duration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) hosts: Option<u32>,
    pub(super) prefixes: Option<u32>,
    pub(super) max_duration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paths {
    pub(super) state: Option<PathBuf>,
    pub(super) runtime: Option<PathBuf>,
    pub(super) pins: Option<PathBuf>,
}
