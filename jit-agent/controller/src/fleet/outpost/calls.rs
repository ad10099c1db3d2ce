//! Calls from the side with the store, each over the connection of the host that it names. Which
//! ones there are is a closed list ([`Ask`]); what they can do is up to the agent, which verifies.

use std::sync::Arc;

use bytes::Bytes;
use jit_client::{Agent, CallError};
use tokio::sync::OwnedSemaphorePermit;

use super::Post;
use crate::bus::{Answer, Ask, Call, Refusal, Said, subject::HostTag};

impl Post {
    /// Gives a call to who follows its host. One for another hub is left; if the host is here, that is said.
    pub(super) fn called(self: &Arc<Self>, tag: &HostTag, bytes: &Bytes) {
        let call = Call::read(bytes).filter(|call| HostTag::of(&call.host) == *tag);
        let Some(call) = call else {
            tracing::warn!(%tag, "no call of a host");
            return;
        };
        let why = {
            let hosts = self.hosts();
            if call.hub != self.name {
                // Whoever calls does not know yet that it is here.
                let here = hosts.get(tag).filter(|entry| entry.host == call.host);
                return here.into_iter().for_each(|entry| entry.sought.notify_one());
            }
            match hosts.get(tag).filter(|entry| entry.host == call.host) {
                None => "it is not connected to this hub any more",
                Some(entry) => match entry.calls.try_send(call.clone()) {
                    Ok(()) => return,
                    Err(_) => "too many calls of it wait",
                },
            }
        };
        answer_soon(self, &call, Said::Unavailable(why.to_owned()));
    }
}

/// Makes a call, if it is about this connection.
///
/// # Errors
/// The connection has to end, so that the agent makes another one.
pub(super) async fn make(
    post: &Arc<Post>,
    agent: &mut Agent,
    since_ms: i64,
    call: Call,
) -> Result<(), CallError> {
    if call.since_ms != since_ms {
        let why = "its agent has connected anew meanwhile".to_owned();
        answer_soon(post, &call, Said::Unavailable(why));
        return Ok(());
    }
    if let Some(Ask::Reconnect(_)) = call.ask {
        // The agent makes the new one first. An older agent cannot, and has to come back.
        let asked = agent.reconnect().await;
        answer_soon(post, &call, Said::Reconnect(jit_proto::v1::ReconnectResponse {}));
        return asked;
    }
    match Arc::clone(&post.calls).try_acquire_owned() {
        Ok(place) => {
            // Whatever waits for this connection does not wait for the answer.
            tokio::spawn(carry_out(Arc::clone(post), agent.clone(), call, place));
        }
        Err(_) => {
            let why = "too many calls are under way at this hub".to_owned();
            answer_soon(post, &call, Said::Unavailable(why));
        }
    }
    Ok(())
}

async fn carry_out(post: Arc<Post>, mut agent: Agent, call: Call, _place: OwnedSemaphorePermit) {
    let Some(ask) = call.ask.clone() else { return };
    let said = said(&mut agent, ask).await.unwrap_or_else(|error| match error {
        CallError::Refused { word, detail } => Said::Refused(Refusal { word, detail }),
        CallError::Files(why) | CallError::Unavailable(why) => Said::Unavailable(why),
    });
    answer(&post, &call, said).await;
}

async fn said(agent: &mut Agent, ask: Ask) -> Result<Said, CallError> {
    Ok(match ask {
        Ask::Status(_) => Said::Status(Box::new(agent.status().await?)),
        Ask::ShowPolicy(_) => Said::ShowPolicy(agent.show_policy().await?),
        Ask::DiffPolicy(request) => match request.what {
            Some(what) => Said::DiffPolicy(agent.diff_policy(what).await?),
            None => Said::Unavailable("the call names no policy".to_owned()),
        },
        Ask::PushPolicy(request) => Said::PushPolicy(agent.push_policy(request).await?),
        Ask::ConfirmPolicy(request) => {
            Said::ConfirmPolicy(agent.confirm_policy(request.version).await?)
        }
        Ask::Denials(request) => Said::Denials(agent.denials(request).await?),
        Ask::RequestCertificate(_) => Said::RequestCertificate(agent.request_certificate().await?),
        Ask::InstallCertificate(request) => {
            let certificate = request.certificate.to_vec();
            Said::InstallCertificate(agent.install_certificate(certificate).await?)
        }
        Ask::Reconnect(_) => Said::Unavailable("a connection is not made anew here".to_owned()),
    })
}

fn answer_soon(post: &Arc<Post>, call: &Call, said: Said) {
    let (post, call) = (Arc::clone(post), call.clone());
    tokio::spawn(async move { answer(&post, &call, said).await });
}

async fn answer(post: &Post, call: &Call, said: Said) {
    let answer = |said| Answer {
        id: call.id.clone(),
        hub: post.name.clone(),
        host: call.host.clone(),
        said: Some(said),
    };
    let mut whole = answer(said);
    if !whole.fits() {
        let detail = "its answer is too long for the bus: ask on the host itself".to_owned();
        whole = answer(Said::Refused(Refusal { word: "too_large".to_owned(), detail }));
    }
    let Some(bus) = post.bus.borrow().clone() else { return };
    if let Err(error) = bus.answer(&whole).await {
        tracing::info!(%error, host = call.host, "an answer of a host is lost; it is asked again");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use jit_proto::v1::StatusRequest;
    use prost::Message as _;

    use super::*;
    use crate::fleet::outpost::{Entry, reporter};

    #[test]
    fn a_call_that_looks_for_a_host_at_another_hub_has_it_reported() {
        let (reports, _waiting) = reporter::Reports::open();
        let post = Arc::new(Post::new("hub-b".into(), reports));
        let (tag, other) = (HostTag::of("web-1"), HostTag::of("web-2"));
        let (entry, mut inbox) = Entry::of("web-1");
        post.hosts().insert(tag.clone(), entry);
        let mut called = |host: &str, tag: &HostTag, hub: &str| {
            let call = Call {
                id: "a".into(),
                hub: hub.into(),
                host: host.into(),
                since_ms: 1,
                ask: Some(Ask::Status(StatusRequest::default())),
            };
            post.called(tag, &call.encode_to_vec().into());
            let sought = inbox.sought.notified().now_or_never().is_some();
            (sought, inbox.calls.try_recv().is_ok())
        };
        assert_eq!(called("web-1", &tag, "hub-a"), (true, false));
        assert_eq!(called("web-1", &tag, "hub-b"), (false, true));
        assert_eq!(called("web-2", &other, "hub-a"), (false, false), "it is not here");
        assert_eq!(called("web-2", &tag, "hub-a"), (false, false), "it says another host");
    }
}
