//! How one host is reached: its address as the inventory has it, with the controller's certificate.

use std::sync::Arc;

use jit_client::{
    Agent, Budget, CallError, Credentials, Target,
    target::{Tls, Way, split_address},
};
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use super::Settings;
use crate::model::Host;

/// Makes connections, a bounded number at the same time.
pub(super) struct Dialer {
    settings: Settings,
    credentials: Credentials,
    answers: Arc<Budget>,
    /// For hosts that nobody waits for.
    routine: Semaphore,
    /// For those that something is to be delivered to: they do not wait for the others.
    urgent: Semaphore,
}

impl Dialer {
    /// `answers`: room for large answers.
    pub(super) fn new(settings: &Settings, answers: &Arc<Budget>) -> Result<Self, CallError> {
        let Settings { ca, certificate, key, dials_at_once, .. } = settings;
        Ok(Self {
            credentials: Credentials::read(ca, certificate, key)?,
            answers: Arc::clone(answers),
            settings: settings.clone(),
            routine: Semaphore::new(*dials_at_once),
            urgent: Semaphore::new(dials_at_once.div_ceil(2)),
        })
    }

    /// A new connection.
    pub(super) async fn dial(&self, host: &Host, urgent: bool) -> Result<Agent, CallError> {
        let target = target(host, &self.settings)
            .map_err(|why| CallError::Unavailable(format!("the address of {}: {why}", host.id)))?;
        let places = if urgent { &self.urgent } else { &self.routine };
        let _place = places.acquire().await.expect("nobody closes it");
        Agent::connect_as(&target, &self.credentials, &self.answers).await
    }
}

/// Checks address and name of a host.
///
/// # Errors
/// A sentence about what is wrong.
pub(super) fn check(
    address: &str,
    server_name: &str,
) -> Result<(String, ServerName<'static>), String> {
    let (name, _) = split_address(address)?;
    let bears = if server_name.is_empty() { name.as_str() } else { server_name };
    let bears = ServerName::try_from(bears.to_owned())
        .map_err(|_| format!("{bears:?} is no DNS name or IP address"))?;
    Ok((name, bears))
}

fn target(host: &Host, settings: &Settings) -> Result<Target, String> {
    let (_, name) = check(&host.address, &host.server_name)?;
    let (connect_to, port) = split_address(&host.address)?;
    let tls = Tls {
        host: connect_to,
        port,
        name,
        ca: settings.ca.clone(),
        cert: settings.certificate.clone(),
        key: settings.key.clone(),
    };
    Ok(Target { way: Way::Tls(Box::new(tls)), timeout: settings.timeout })
}
