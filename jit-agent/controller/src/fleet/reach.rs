//! How one host is called by whoever does not follow it: over a connection of this process, or
//! through the hub of the bus that has it.

use std::sync::Arc;

use jit_client::{Agent, CallError};
use jit_proto::v1::{self, diff_policy_request::What};

#[cfg(feature = "nats")]
use super::far::calls::{Calls, Line};
use super::{FleetError, dial::Dialer, link::Link, roster::Roster};
use crate::model::Host;

/// How hosts are called.
pub(super) enum Reach {
    /// Over connections of this process.
    Own { roster: Arc<Roster>, dialer: Arc<Dialer> },
    /// Through hubs of the bus.
    #[cfg(feature = "nats")]
    Bus(Arc<Calls>),
}

/// One connection of a host: another one is not equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nth {
    /// By number.
    Own(u64),
    /// By its hub, and since when the hub has it.
    #[cfg(feature = "nats")]
    Bus(String, i64),
}

/// A host that can be called.
pub(super) enum Caller {
    Own(Box<Agent>),
    #[cfg(feature = "nats")]
    Bus(Box<Line>),
}

impl Reach {
    /// The connection that a host has.
    ///
    /// # Errors
    /// There is no such host, or it has none.
    #[cfg_attr(
        not(feature = "nats"),
        expect(clippy::unused_async, reason = "where a host of the bus is stands in the store")
    )]
    pub(super) async fn caller(&self, host: &str) -> Result<Caller, FleetError> {
        match self {
            Self::Own { roster, .. } => {
                let (_, link) = found(roster, host)?;
                let agent = link.agent().map_err(FleetError::Unreachable)?;
                Ok(Caller::Own(Box::new(agent)))
            }
            #[cfg(feature = "nats")]
            Self::Bus(calls) => Ok(Caller::Bus(Box::new(calls.line(host).await?))),
        }
    }

    /// A connection that was made after the first call of this. An agent that dials out is asked
    /// for one, and `replaced` is the one that it is to replace: the next calls wait for another.
    ///
    /// # Errors
    /// There is no such host, or it has not made one yet.
    pub(super) async fn fresh(
        &self,
        host: &str,
        replaced: &mut Option<Nth>,
    ) -> Result<Caller, FleetError> {
        let not_yet = || {
            let why = "its agent has not connected again since the push";
            Err(FleetError::Unreachable(why.into()))
        };
        let asked = || Err(FleetError::Unreachable("its connection is made anew".into()));
        match self {
            Self::Own { roster, dialer } => {
                let (host, link) = found(roster, host)?;
                let dialled = link.agent().is_ok_and(|agent| !agent.is_uplink());
                if dialled && !host.address.is_empty() && replaced.is_none() {
                    return Ok(Caller::Own(Box::new(dialer.dial(&host, true).await?)));
                }
                let made = Nth::Own(link.made());
                match (&*replaced, link.agent()) {
                    (Some(before), Ok(agent)) if made != *before => {
                        Ok(Caller::Own(Box::new(agent)))
                    }
                    (Some(_), _) => not_yet(),
                    (None, Err(why)) => Err(FleetError::Unreachable(why)),
                    (None, Ok(_)) => {
                        *replaced = Some(made);
                        link.renew();
                        asked()
                    }
                }
            }
            #[cfg(feature = "nats")]
            Self::Bus(calls) => {
                let line = calls.line(host).await?;
                let made = Nth::Bus(line.hub.clone(), line.since_ms);
                match replaced {
                    Some(before) if made != *before => Ok(Caller::Bus(Box::new(line))),
                    Some(_) => not_yet(),
                    None => {
                        line.reconnect().await?;
                        *replaced = Some(made);
                        asked()
                    }
                }
            }
        }
    }
}

/// A host and its connection. After a start a host is not missing before all were read.
fn found(roster: &Roster, host: &str) -> Result<(Arc<Host>, Arc<Link>), FleetError> {
    match roster.find(host) {
        Some(found) => Ok(found),
        None if roster.is_read() => Err(FleetError::NotFound(format!("host {host:?}"))),
        None => Err(FleetError::Unreachable("the hosts are being read after a start".into())),
    }
}

/// A call, whichever way it goes.
macro_rules! call {
    ($self:ident.$name:ident($($argument:expr)?)) => {
        match $self {
            Self::Own(agent) => agent.$name($($argument)?).await,
            #[cfg(feature = "nats")]
            Self::Bus(line) => line.$name($($argument)?).await,
        }
    };
}

impl Caller {
    /// What the host enforces.
    pub(super) async fn status(&mut self) -> Result<v1::StatusResponse, CallError> {
        call!(self.status())
    }

    /// The policy in force.
    pub(super) async fn show_policy(&mut self) -> Result<v1::ShowPolicyResponse, CallError> {
        call!(self.show_policy())
    }

    /// What a policy would change.
    pub(super) async fn diff_policy(
        &mut self,
        what: What,
    ) -> Result<v1::DiffPolicyResponse, CallError> {
        call!(self.diff_policy(what))
    }

    /// Puts a policy in force.
    pub(super) async fn push_policy(
        &mut self,
        request: v1::PushPolicyRequest,
    ) -> Result<v1::PushPolicyResponse, CallError> {
        call!(self.push_policy(request))
    }

    /// Confirms the policy of this version.
    pub(super) async fn confirm_policy(
        &mut self,
        version: u64,
    ) -> Result<v1::ConfirmPolicyResponse, CallError> {
        call!(self.confirm_policy(version))
    }

    /// The host's request for its next certificate.
    pub(super) async fn request_certificate(
        &mut self,
    ) -> Result<v1::RequestCertificateResponse, CallError> {
        call!(self.request_certificate())
    }

    /// Brings the host its next certificate, DER.
    pub(super) async fn install_certificate(
        &mut self,
        certificate: Vec<u8>,
    ) -> Result<v1::InstallCertificateResponse, CallError> {
        call!(self.install_certificate(certificate))
    }

    /// Who was refused.
    pub(super) async fn denials(
        &mut self,
        request: v1::DenialsRequest,
    ) -> Result<v1::DenialsResponse, CallError> {
        call!(self.denials(request))
    }
}
