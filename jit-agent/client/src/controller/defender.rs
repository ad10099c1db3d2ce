//! The JSON of Microsoft Defender's just-in-time API
//! (`Microsoft.Security/jitNetworkAccessPolicies`), for the controller that speaks it and for
//! `jitctl import-defender`.
//!
//! What people and programs send is read with tolerance: names of fields in any case, as `az`, `Az`
//! cmdlets and REST write them; a port's number as text; a list where one prefix belongs. What
//! cannot be meant is a [`Mistake`] with its place. The shapes are those of azure-rest-api-specs,
//! `jitNetworkAccessPolicies.json`.

mod file;
mod id;
mod initiate;
mod policy;
mod read;

pub use file::{Listed, policies};
pub use id::PolicyId;
pub use initiate::{Initiate, InitiateMachine, InitiatePort};
pub use policy::{Allowed, LeftOut, Machine, Policy, Port, Protocol, Span};
pub use read::Mistake;
use serde::Serialize;

/// The type of a policy.
pub const POLICY_TYPE: &str = "Microsoft.Security/locations/jitNetworkAccessPolicies";
/// The label of a host with the id of its machine in Azure, if that does not end in the host's id.
pub const RESOURCE_LABEL: &str = "azure_resource_id";

/// A policy, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyAnswer {
    /// Its path.
    pub id: String,
    /// Its name.
    pub name: String,
    /// [`POLICY_TYPE`]
    #[serde(rename = "type")]
    pub kind_of_resource: &'static str,
    /// `Basic`
    pub kind: String,
    /// The location, as it was written.
    pub location: String,
    /// All else.
    pub properties: PolicyProperties,
}

/// The properties of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyProperties {
    /// `Succeeded`: the hosts have it. `Updating`, `Failed`.
    pub provisioning_state: &'static str,
    /// What it protects.
    pub virtual_machines: Vec<Machine>,
    /// What was asked for by it in the last 30 days.
    pub requests: Vec<RequestAnswer>,
}

/// A request, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    /// The machines.
    pub virtual_machines: Vec<RequestMachine>,
    /// When it was submitted.
    pub start_time_utc: String,
    /// Who asked.
    pub requestor: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub justification: String,
}

/// A machine of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestMachine {
    /// Its id in Azure.
    pub id: String,
    /// The ports.
    pub ports: Vec<RequestPort>,
}

/// A port of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestPort {
    /// Its number.
    pub number: u16,
    /// One address or prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_source_address_prefix: Option<String>,
    /// Several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_source_address_prefixes: Vec<String>,
    /// When it ends.
    pub end_time_utc: String,
    /// `Initiating`, `Initiated`, `Revoked`.
    pub status: &'static str,
    /// `UserRequested`, `Expired`, `NewerRequestInitiated`.
    pub status_reason: &'static str,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct List<T> {
    /// All of it: there is no `nextLink`.
    pub value: Vec<T>,
}

/// A subscription that has policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Its path.
    pub id: String,
    /// Its id.
    pub subscription_id: String,
    /// Its id: there are no other names here.
    pub display_name: String,
    /// `Enabled`
    pub state: &'static str,
}

impl Subscription {
    /// The subscription with this id.
    pub fn new(id: &str) -> Self {
        Self {
            id: format!("/subscriptions/{id}"),
            subscription_id: id.to_owned(),
            display_name: id.to_owned(),
            state: "Enabled",
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorAnswer {
    /// The envelope that every error has.
    pub error: ErrorBody,
}

/// The parts of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// A stable word.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The controller's own word, and what to do next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Self>,
}
