//! A person's own signature on what was approved: hosts that ask for several signatures let nobody in
//! without it, not even when the controller is in other hands.
//!
//! The payload comes from the controller. So it is compared with the request that was shown: what says
//! something else is not signed.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_client::{
    controller::{
        call::Call,
        types::{GrantView, RequestView, SignatureInput},
    },
    keys::Key,
};
use jit_proto::{
    PortRange, SourcePrefix,
    payload_type::GRANT_TYPE,
    v1,
    words::{ranges_text, source_text},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{session::Session, wait};
use crate::{failure::Failure, text};

/// The longest wait for the controller's own signature, which comes first.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Signs every grant of the request that waits for a signature and has none of this key. Returns the
/// request as it is then, and how many were signed.
pub(super) async fn add(
    session: &Session,
    shown: &RequestView,
    key: &Key,
) -> Result<(RequestView, usize), Failure> {
    let mut view = shown.clone();
    let until = Instant::now() + PATIENCE;
    while view.state == "approved" && Instant::now() < until {
        tokio::time::sleep(PAUSE).await;
        view = session.fetch(wait::read(&view.id)).await?;
    }
    if view.hash != shown.hash {
        return Err(Failure::refused(
            "refused: changed: the request is another one than was shown",
        ));
    }
    let id = key.public().key_id();
    let waiting: Vec<GrantView> = view
        .grants
        .iter()
        .filter(|grant| grant.state == "awaiting_signatures" && !grant.signed_by.contains(&id))
        .cloned()
        .collect();
    for part in &waiting {
        let whole: GrantView = session.fetch(Call::get(["grants", part.id.as_str()])).await?;
        let payload = payload(&whole)?;
        check(shown, &payload).map_err(|why| {
            Failure::refused(format!(
                "refused: payload_differs: the grant {} that the controller wants signed is not \
                 what was shown: {why}; nothing was signed",
                text::printable(&part.id)
            ))
        })?;
        let signature = key
            .signature(GRANT_TYPE, &payload)
            .map_err(|error| Failure::files(error.to_string()))?;
        let input = SignatureInput {
            grant: part.id.clone(),
            key_id: signature.key_id,
            signature: STANDARD.encode(&signature.signature),
            ..SignatureInput::default()
        };
        let path = ["requests", view.id.as_str(), "signatures"];
        view = session.fetch(Call::post(path).json(&input)).await?;
    }
    Ok((view, waiting.len()))
}

fn payload(grant: &GrantView) -> Result<Vec<u8>, Failure> {
    let text = grant.payload.as_deref().unwrap_or_default();
    STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
        Failure::unavailable(format!(
            "the controller does not give the payload of {}",
            text::printable(&grant.id)
        ))
    })
}

/// Whether a payload lets in nobody and nothing that was not shown: the first difference.
fn check(shown: &RequestView, payload: &[u8]) -> Result<(), String> {
    let grant = v1::Grant::decode(payload).map_err(|error| format!("it is no grant: {error}"))?;
    // A host would refuse it, but a later version may know what this one does not show.
    if grant.encoded_len() != payload.len() {
        return Err("it has fields that this version does not know".into());
    }
    let same = |what: &str, is: &str, was: &str| match is == was {
        true => Ok(()),
        false => Err(format!("{what} is `{}`", text::printable(is))),
    };
    same("the requester", &grant.requester, &shown.requester)?;
    same("the reason", &grant.justification, &shown.reason)?;
    same("the ticket", &grant.ticket, &shown.ticket)?;
    if let Some(host) = grant.hosts.iter().find(|host| !shown.hosts.contains(host)) {
        return Err(format!("it is for {}, too", text::printable(host)));
    }
    if grant.hosts.is_empty() {
        return Err("it is for no host".into());
    }
    let sources = |all: &mut dyn Iterator<Item = String>| -> BTreeSet<String> {
        all.map(|one| one.parse::<SourcePrefix>().map_or(one, |prefix| prefix.to_string()))
            .collect()
    };
    let of_grant = sources(&mut grant.sources.iter().map(source_text));
    if of_grant != sources(&mut shown.sources.iter().cloned()) {
        let all: Vec<_> = of_grant.into_iter().collect();
        return Err(format!("it lets in {}", text::printable(&all.join(", "))));
    }
    let ports = |all: &mut dyn Iterator<Item = v1::PortRange>| -> BTreeSet<String> {
        all.map(|range| ranges_text(&[range])).collect()
    };
    let parsed = shown.ports.iter().map(|port| port.parse::<PortRange>().map(v1::PortRange::from));
    let parsed: Result<Vec<_>, _> = parsed.collect();
    let parsed = parsed.map_err(|error| error.to_string())?;
    if ports(&mut grant.ports.iter().copied()) != ports(&mut parsed.into_iter()) {
        return Err(format!("it opens {}", ranges_text(&grant.ports)));
    }
    let lasts = grant.not_after_ms.saturating_sub(grant.not_before_ms);
    if lasts > shown.duration_ms {
        return Err(format!("it lasts until {}", text::moment(grant.not_after_ms)));
    }
    if shown.start_ms.is_some_and(|start| grant.not_before_ms < start) {
        return Err(format!("it begins at {}", text::moment(grant.not_before_ms)));
    }
    if grant.max_connections != shown.max_connections {
        return Err(format!("it allows {} connections", grant.max_connections));
    }
    let sessions = match grant.sessions() {
        v1::Sessions::Cut => Some("cut"),
        v1::Sessions::Drain => Some("drain"),
        v1::Sessions::Unspecified => None,
    };
    if sessions != shown.sessions.as_deref() {
        return Err(format!("its sessions are {}", sessions.unwrap_or("as the port says")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> RequestView {
        RequestView {
            requester: "ana@example.org".into(),
            hosts: vec!["web-1".into(), "web-2".into()],
            sources: vec!["203.0.113.7".into(), "2001:db8::/64".into()],
            ports: vec!["22/tcp".into(), "8000-8010/tcp".into()],
            duration_ms: 3_600_000,
            start_ms: Some(1_000),
            reason: "disk full".into(),
            ticket: "INC-1".into(),
            max_connections: 1,
            ..RequestView::default()
        }
    }

    fn signed() -> v1::Grant {
        let source = |text: &str| v1::Source::from(&text.parse::<SourcePrefix>().unwrap());
        let port = |text: &str| v1::PortRange::from(text.parse::<PortRange>().unwrap());
        v1::Grant {
            hosts: vec!["web-2".into()],
            sources: vec![source("2001:db8::/64"), source("203.0.113.7")],
            ports: vec![port("8000-8010"), port("22")],
            not_before_ms: 1_000,
            not_after_ms: 3_601_000,
            requester: "ana@example.org".into(),
            justification: "disk full".into(),
            ticket: "INC-1".into(),
            max_connections: 1,
            ..v1::Grant::default()
        }
    }

    #[test]
    fn only_what_was_shown_is_signed() {
        assert_eq!(check(&shown(), &signed().encode_to_vec()), Ok(()));
        let changes: [fn(&mut v1::Grant); 13] = [
            |g| g.hosts.push("db-1".into()),
            |g| g.hosts.clear(),
            |g| g.sources[1].prefix_length = 24,
            |g| g.sources.truncate(1),
            |g| g.ports[0].last = 9000,
            |g| g.ports.truncate(1),
            |g| g.not_after_ms += 1,
            |g| g.not_before_ms = 0,
            |g| g.requester.push('x'),
            |g| g.justification.push('x'),
            |g| g.ticket.push('x'),
            |g| g.max_connections = 0,
            |g| g.set_sessions(v1::Sessions::Drain),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = signed();
            change(&mut other);
            assert!(check(&shown(), &other.encode_to_vec()).is_err(), "{number}");
        }
        assert!(check(&shown(), b"\xff").is_err());
        let unknown = [&signed().encode_to_vec()[..], &[0x98, 0x06, 1]].concat();
        assert!(check(&shown(), &unknown).unwrap_err().contains("does not know"));
    }

    #[test]
    fn a_revocation_that_the_controller_wants_signed_as_a_grant_is_refused() {
        let every = v1::Revocation {
            every_host: true,
            all: true,
            issued_before_ms: 1_000,
            author: "ana@example.org".into(),
            reason: "disk full".into(),
            keep_until_ms: 3_601_000,
            ..v1::Revocation::default()
        };
        let one =
            v1::Revocation { every_host: false, hosts: vec!["web-2".into()], ..every.clone() };
        for revocation in [every, one] {
            let why = check(&shown(), &revocation.encode_to_vec()).unwrap_err();
            assert!(why.contains("it is no grant"), "{why}");
        }
    }
}
