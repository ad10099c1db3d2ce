//! One agent as gRPC calls. Answers and refusals come back as data; nothing is printed or retried.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use jit_proto::v1::{self, jit_agent_client::JitAgentClient};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    Code, Response, Status, Streaming,
    codegen::http::{Uri, uri::InvalidUri},
};
use tonic_types::StatusExt as _;

use crate::{
    CallError,
    budget::Budget,
    dial::{self, Broken, Connection, Credentials},
    local,
    target::{Target, Way},
    text,
    wire::Wire,
};

/// Domain of the reason words in status details.
const DOMAIN: &str = "jit-agent";
/// Largest answer that is accepted, bytes: a list of 100,000 grants has about 20 MiB.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
/// Largest event: all of its texts are short.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// A connected agent. Clones share the connection, and its calls run side by side.
#[derive(Clone)]
pub struct Agent {
    client: JitAgentClient<Wire>,
    /// For events: they come for as long as the connection lasts.
    events: JitAgentClient<Wire>,
    way: Arc<Way>,
    timeout: Duration,
    broken: Broken,
}

impl Agent {
    /// Connects; the handshake is complete when this returns.
    pub async fn connect(target: &Target) -> Result<Self, CallError> {
        Self::over(target, dial::dial(target, None).await?, None).await
    }

    /// The same with credentials that were read before; the files that the target names are only for
    /// the sentences of errors. For many agents: their large answers take their room from this budget.
    pub async fn connect_as(
        target: &Target,
        credentials: &Credentials,
        budget: &Arc<Budget>,
    ) -> Result<Self, CallError> {
        Self::over(target, dial::dial(target, Some(credentials)).await?, Some(budget)).await
    }

    /// The agent at the other end of a connection that it made itself: whoever has dialled serves, and
    /// whoever was dialled calls ([`jit_proto::uplink`]). The TLS handshake is complete, and the agent
    /// has proven who it is; `peer` is its address, for the sentences of errors. Its large answers take
    /// their room from the budget.
    ///
    /// # Errors
    /// The other side does not speak HTTP/2, or the connection broke.
    pub async fn over_uplink(
        peer: SocketAddr,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        timeout: Duration,
        budget: &Arc<Budget>,
    ) -> Result<Self, CallError> {
        let target = Target { way: Way::Uplink(peer), timeout };
        let connection = Connection { stream: Box::new(stream), broken: Broken::default() };
        let connecting = Self::over(&target, connection, Some(budget));
        tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| {
            let why = "it did not begin HTTP/2 in time";
            Err(CallError::Unavailable(format!("cannot talk to the agent at {peer}: {why}")))
        })
    }

    async fn over(
        target: &Target,
        connection: Connection,
        budget: Option<&Arc<Budget>>,
    ) -> Result<Self, CallError> {
        let Target { way, timeout } = target.clone();
        let Connection { stream, broken } = connection;
        let uri = match &way {
            Way::Socket(_) => "http://localhost".to_owned(),
            Way::Tls(_) => format!("https://{way}"),
            Way::Uplink(peer) => format!("https://{peer}"),
        };
        let unusable = |why: String| {
            CallError::Unavailable(format!("cannot talk to the agent at {way}: {why}"))
        };
        let origin: Uri = uri.parse().map_err(|error: InvalidUri| unusable(error.to_string()))?;
        let begun = Wire::begin(stream, budget.cloned()).await;
        let wire = begun.map_err(|error| match (broken.get(), &way) {
            (Some(error), _) => dial::explain(&way, error),
            (None, Way::Socket(_)) => unusable(local::CLOSED.to_owned()),
            (None, Way::Tls(_) | Way::Uplink(_)) => unusable(error.to_string()),
        })?;
        let events = JitAgentClient::with_origin(wire.unbounded(), origin.clone());
        let events = events.max_decoding_message_size(MAX_EVENT_BYTES);
        let client = JitAgentClient::with_origin(wire, origin);
        let client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { client, events, way: Arc::new(way), timeout, broken })
    }

    /// The agent's socket path or HOST:PORT, for people.
    pub fn name(&self) -> String {
        self.way.to_string()
    }

    /// Whether the agent has made the connection itself.
    pub fn is_uplink(&self) -> bool {
        matches!(*self.way, Way::Uplink(_))
    }

    /// Pushes one envelope. A refusal is an error.
    pub async fn push(&mut self, envelope: v1::Envelope) -> Result<v1::Outcome, CallError> {
        let request = v1::PushRequest { envelope: Some(envelope) };
        let answer = self.client.push(request);
        let outcome = within(self.timeout, answer)
            .await
            .map_err(|trouble| self.failure("the push", trouble))?
            .outcome
            .unwrap_or_default();
        if outcome.accepted {
            Ok(outcome)
        } else {
            Err(CallError::refused(&outcome.reason, &outcome.detail))
        }
    }

    /// Pushes several envelopes. Returns an outcome for each, in their order.
    pub async fn push_batch(
        &mut self,
        envelopes: Vec<v1::Envelope>,
    ) -> Result<Vec<v1::Outcome>, CallError> {
        let request = v1::PushBatchRequest { envelopes, revoke_ids: Vec::new() };
        let answer = self.client.push_batch(request);
        let answer = within(self.timeout, answer).await;
        answer.map(|answer| answer.outcomes).map_err(|trouble| self.failure("the push", trouble))
    }

    /// Revokes grants. The answer has the number of grants that ended, and a warning if there is
    /// one.
    pub async fn revoke(
        &mut self,
        request: v1::RevokeRequest,
    ) -> Result<v1::RevokeResponse, CallError> {
        let answer = within(self.timeout, self.client.revoke(request)).await;
        answer.map_err(|trouble| self.failure("the revocation", trouble))
    }

    /// Compares what has arrived at the host with a checkpoint.
    pub async fn compare_mailbox(
        &mut self,
        request: v1::CompareMailboxRequest,
    ) -> Result<v1::CompareMailboxResponse, CallError> {
        let answer = within(self.timeout, self.client.compare_mailbox(request)).await;
        answer.map_err(|trouble| self.failure("the comparison with a checkpoint", trouble))
    }

    /// Lists the grants that the agent holds.
    pub async fn list(&mut self, include_ended: bool) -> Result<Vec<v1::GrantState>, CallError> {
        let answer =
            within(self.timeout, self.client.list(v1::ListRequest { include_ended })).await;
        answer
            .map(|answer| answer.grants)
            .map_err(|trouble| self.failure("the request for its grants", trouble))
    }

    /// Asks for the agent's status: what it enforces.
    pub async fn status(&mut self) -> Result<v1::StatusResponse, CallError> {
        let answer = within(self.timeout, self.client.status(v1::StatusRequest {})).await;
        answer.map_err(|trouble| self.failure("the request for its status", trouble))
    }

    /// Asks for the policy in force.
    pub async fn show_policy(&mut self) -> Result<v1::ShowPolicyResponse, CallError> {
        let answer = within(self.timeout, self.client.show_policy(v1::ShowPolicyRequest {})).await;
        answer.map_err(|trouble| self.failure("the request for its policy", trouble))
    }

    /// Asks what a policy would change.
    pub async fn diff_policy(
        &mut self,
        what: v1::diff_policy_request::What,
    ) -> Result<v1::DiffPolicyResponse, CallError> {
        let request = v1::DiffPolicyRequest { what: Some(what) };
        let answer = within(self.timeout, self.client.diff_policy(request)).await;
        answer.map_err(|trouble| self.failure("the request for the changes", trouble))
    }

    /// Puts a policy in force.
    pub async fn push_policy(
        &mut self,
        request: v1::PushPolicyRequest,
    ) -> Result<v1::PushPolicyResponse, CallError> {
        let answer = within(self.timeout, self.client.push_policy(request)).await;
        answer.map_err(|trouble| self.failure("the push of the policy", trouble))
    }

    /// Confirms the policy of this version.
    pub async fn confirm_policy(
        &mut self,
        version: u64,
    ) -> Result<v1::ConfirmPolicyResponse, CallError> {
        let request = v1::ConfirmPolicyRequest { version };
        let answer = within(self.timeout, self.client.confirm_policy(request)).await;
        answer.map_err(|trouble| self.failure("the confirmation", trouble))
    }

    /// Asks for a new connection, to the next of the agent's hubs; this one ends when its calls are done.
    /// Only for a connection that the agent made itself.
    pub async fn reconnect(&mut self) -> Result<(), CallError> {
        let answer = within(self.timeout, self.client.reconnect(v1::ReconnectRequest {})).await;
        answer
            .map(drop)
            .map_err(|trouble| self.failure("the request for a new connection", trouble))
    }

    /// Asks for a request for the host's next certificate. Only for a connection that the agent
    /// made itself.
    pub async fn request_certificate(
        &mut self,
    ) -> Result<v1::RequestCertificateResponse, CallError> {
        let request = v1::RequestCertificateRequest {};
        let answer = within(self.timeout, self.client.request_certificate(request)).await;
        answer.map_err(|trouble| self.failure("the request for a new certificate", trouble))
    }

    /// Brings the host's next certificate, DER. Only for a connection that the agent made itself.
    pub async fn install_certificate(
        &mut self,
        certificate: Vec<u8>,
    ) -> Result<v1::InstallCertificateResponse, CallError> {
        let request = v1::InstallCertificateRequest { certificate: certificate.into() };
        let answer = within(self.timeout, self.client.install_certificate(request)).await;
        answer.map_err(|trouble| self.failure("the new certificate", trouble))
    }

    /// Sets the version that the next policy must be higher than; returns the one before. Only for
    /// root on the host.
    pub async fn set_policy_floor(&mut self, version: u64) -> Result<u64, CallError> {
        let request = v1::SetPolicyFloorRequest { version };
        let answer = within(self.timeout, self.client.set_policy_floor(request)).await;
        answer
            .map(|answer| answer.previous)
            .map_err(|trouble| self.failure("the new floor of versions", trouble))
    }

    /// Opens ports without a grant. Only for root on the host.
    pub async fn break_glass(
        &mut self,
        request: v1::BreakGlassRequest,
    ) -> Result<v1::BreakGlassResponse, CallError> {
        let answer = within(self.timeout, self.client.break_glass(request)).await;
        answer.map_err(|trouble| self.failure("the opening", trouble))
    }

    /// Asks for the history of denials.
    pub async fn denials(
        &mut self,
        request: v1::DenialsRequest,
    ) -> Result<v1::DenialsResponse, CallError> {
        let answer = within(self.timeout, self.client.denials(request)).await;
        answer.map_err(|trouble| self.failure("the request for its denials", trouble))
    }

    /// Streams the events after a cursor; only new events when it is empty. `others`: without the ends of
    /// grants that the caller itself has revoked, if the agent can leave them out.
    pub async fn watch(
        &mut self,
        cursor: String,
        others: bool,
    ) -> Result<Streaming<v1::Event>, CallError> {
        let request = v1::WatchRequest { cursor, without_own_ends: others };
        let answer = within(self.timeout, self.events.watch(request)).await;
        answer.map_err(|trouble| self.failure("the request for events", trouble))
    }

    /// Waits for the next event; `None` when the agent ended the stream.
    pub async fn next_event(
        &self,
        events: &mut Streaming<v1::Event>,
    ) -> Result<Option<v1::Event>, CallError> {
        events
            .message()
            .await
            .map_err(|status| self.failure("the request for events", Trouble::Status(status)))
    }

    fn failure(&self, what: &str, trouble: Trouble) -> CallError {
        let status = match trouble {
            Trouble::Status(status) => status,
            Trouble::TooSlow => {
                return CallError::Unavailable(format!(
                    "the agent at {} did not answer {what} within {}; it may have done it all the \
                     same: check with `jitctl list` (--timeout waits longer)",
                    self.way,
                    text::duration(self.timeout)
                ));
            }
        };
        match self.broken.get() {
            Some(error) => dial::explain(&self.way, error),
            None => refusal(&status).unwrap_or_else(|| plain_failure(&self.way, what, &status)),
        }
    }
}

/// Why a call has no answer.
enum Trouble {
    Status(Status),
    TooSlow,
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Trouble::Status(status)),
        Err(_) => Err(Trouble::TooSlow),
    }
}

/// The refusal in a status, with the reason word from its details; `None` when there is none.
fn refusal(status: &Status) -> Option<CallError> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    Some(CallError::refused(&info.reason, status.message()))
}

fn plain_failure(way: &Way, what: &str, status: &Status) -> CallError {
    let message = text::printable(status.message());
    if matches!(way, Way::Socket(_)) && local::is_closed(status) {
        let closed = local::CLOSED;
        return CallError::Unavailable(format!("no answer to {what} at {way}: {closed}"));
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => {
            CallError::refused("not_permitted", status.message())
        }
        Code::Unimplemented => CallError::Unavailable(format!(
            "the agent at {way} does not know {what}: it has another version, or is not a jit-agent"
        )),
        code => CallError::Unavailable(format!(
            "the agent at {way} did not answer {what}: {message} ({code:?})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_reason_word_comes_from_the_status_details() {
        let details = ErrorDetails::with_error_info("wrong_host", DOMAIN, []);
        let status = Status::with_error_details(Code::PermissionDenied, "for db-1", details);
        assert_eq!(refusal(&status), Some(CallError::refused("wrong_host", "for db-1")));
        let details = ErrorDetails::with_error_info("wrong_host", "elsewhere.example", []);
        let status = Status::with_error_details(Code::PermissionDenied, "for db-1", details);
        assert_eq!(refusal(&status), None);
    }

    #[test]
    fn without_details_the_code_decides() {
        let way = Way::Socket("/run/s".into());
        let failure = |code| plain_failure(&way, "the push", &Status::new(code, "x"));
        assert_eq!(failure(Code::PermissionDenied), CallError::refused("not_permitted", "x"));
        for code in [Code::Unavailable, Code::Internal] {
            assert!(matches!(failure(code), CallError::Unavailable(_)), "{code:?}");
        }
    }
}
