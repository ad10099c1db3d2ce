//! Machines that ask for their first certificate, and the tokens with which they do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /api/v1/enrolments`: a machine proves which host it is, and asks for its certificate.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolmentInput {
    /// The request for the certificate (PKCS#10, PEM). Only its key counts: P-256 or Ed25519.
    pub csr: String,
    /// How it proves it: `token`, `ec2` or `azure`.
    pub method: String,
    /// The token, or what its cloud has signed.
    pub proof: String,
    /// The host's id; needed with a token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The nonce in what its cloud has signed; needed for `azure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
}

impl std::fmt::Debug for EnrolmentInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentInput").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What a machine is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentAnswer {
    /// Id of the enrolment: `jitctl enrolments` shows it.
    pub enrolment: String,
    /// The host's id.
    pub host: String,
    /// `issued`; `waiting`: a person decides; `issuing`: the certificate comes in a moment. For the
    /// last two send the same request again.
    pub state: String,
    /// The certificate, PEM; empty: there is none yet.
    pub certificate: String,
    /// When it ends, milliseconds since the Unix epoch; 0: there is none yet.
    pub not_after_ms: i64,
    /// The authorities by which the host knows the controller, PEM; empty: there is no certificate
    /// yet.
    pub ca: String,
    /// The hubs to dial, `NAME:PORT`.
    pub hubs: Vec<String>,
}

/// A nonce for a cloud to sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NonceView {
    /// 32 letters and digits. It counts once.
    pub nonce: String,
    /// Until when it counts, milliseconds since the Unix epoch.
    pub ends_ms: i64,
}

/// A machine that has asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentView {
    /// Its id.
    pub id: String,
    /// The host that it is, or wants to be.
    pub host: String,
    /// How it has proven it: `arc`, `azure`, `ec2`, `gcp`, `token`.
    pub method: String,
    /// What its cloud calls the machine.
    pub machine: String,
    /// What its cloud has signed of it.
    pub facts: BTreeMap<String, String>,
    /// Id of the token that it came with; `null`: it came without.
    pub token: Option<String>,
    /// SHA-256 of its request, as `jit-agent enrol` shows it.
    pub csr_sha256: String,
    /// `waiting`, `issued` or `refused`
    pub state: String,
    /// Why it waits, in words; empty: it did not.
    pub why: String,
    /// When it came.
    pub created: String,
    /// When it came, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Who has decided; `null`: nobody was asked, or nobody has decided yet.
    pub decided_by: Option<String>,
    /// When somebody has decided.
    pub decided: Option<String>,
    /// When somebody has decided, milliseconds since the Unix epoch.
    pub decided_ms: Option<i64>,
}

/// `POST /api/v1/enrolments/ID/decision`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolmentDecisionInput {
    /// `accept`: it takes the place of the machine before it. `refuse`: never.
    pub ruling: String,
}

/// A token with which hosts enrol, without its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentTokenView {
    /// Its id.
    pub id: String,
    /// Labels of the hosts that come with it.
    pub labels: BTreeMap<String, String>,
    /// How many more hosts may come with it.
    pub uses_left: i64,
    /// `valid`, `used`, `ended` or `withdrawn`
    pub state: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends.
    pub ends: String,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: i64,
}

/// `POST /api/v1/enrolments/tokens`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolmentTokenInput {
    /// Labels of the hosts that come with it: `{"env": "test"}`. One at least.
    pub labels: BTreeMap<String, String>,
    /// How many hosts may come with it; without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// How long it counts: `1h`; without it an hour. Either this or `duration_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How long it counts, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
}

/// A token that was made. Its text is shown this once and stored nowhere.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentTokenMade {
    /// The text: `jit_enrol_` and 43 letters.
    pub token: String,
    /// What the lists show of it.
    pub view: EnrolmentTokenView,
}

impl std::fmt::Debug for EnrolmentTokenMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentTokenMade").field("view", &self.view).finish_non_exhaustive()
    }
}
