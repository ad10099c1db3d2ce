//! The address that hosts see when this person connects: `--source me`.
//!
//! It is not always the one that the controller sees: there may be a translation of addresses on the way
//! to one and not to the other. So this knocks at the host's port, which drops the packet, and the
//! controller asks the host for what it dropped.

use std::time::Duration;

use jit_client::{
    controller::{
        call::Call,
        types::{AddressView, HostView},
    },
    target::split_address,
};
use jit_common::Protocol;
use jit_proto::PortRange;
use tokio::{net::TcpStream, time::timeout};

use super::{ask, session::Session};
use crate::failure::{self, Failure};

/// The word for one's own address.
pub(super) const ME: &str = "me";
/// The longest wait for an answer to the knock: what a gate drops answers never.
const KNOCK: Duration = Duration::from_millis(800);
/// Waits for the host's report of the dropped packet.
const REPORT: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_millis(1000)];
/// The most addresses that a person is asked about.
const MOST: usize = 9;

/// An address that was found, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) address: String,
    /// For people: `as web-1 sees you`.
    pub(super) how: String,
    /// Why it may not be the one that hosts see; empty: it is.
    doubt: String,
}

/// What the controller and a host know of this person's address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Sure(Found),
    /// Several are possible; the likeliest first.
    Unsure(Vec<Found>),
}

/// The address of this person as `host` sees it. Asks where several are possible.
pub(super) async fn mine(
    session: &Session,
    host: &str,
    ports: &[PortRange],
) -> Result<Found, Failure> {
    let tcp = ports.iter().find(|range| range.protocol == Protocol::Tcp);
    let mut call = Call::get(["me", "address"]).query("host", host);
    if let Some(port) = tcp.or(ports.first()) {
        let protocol = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
        call = call.query("port", format!("{}/{protocol}", port.first));
    }
    if let Some(port) = tcp {
        knock(session, host, port.first).await?;
    }
    let mut view: AddressView = session.fetch(call.clone()).await?;
    for pause in REPORT {
        if tcp.is_none() || !view.candidates.is_empty() || !view.trouble.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        view = session.fetch(call.clone()).await?;
    }
    match known(&view, host) {
        Known::Sure(found) => Ok(found),
        Known::Unsure(choices) => chosen(choices),
    }
}

/// Sends one packet to the port, which the host drops and reports. What comes of it does not matter.
async fn knock(session: &Session, host: &str, port: u16) -> Result<(), Failure> {
    let Some(view) = session.find::<HostView>(Call::get(["hosts", host])).await? else {
        return Ok(());
    };
    if let Ok((name, _)) = split_address(&view.address) {
        let _dropped = timeout(KNOCK, TcpStream::connect((name.as_str(), port))).await;
    }
    Ok(())
}

/// Sure: the host saw the address that the controller sees, or saw nobody.
fn known(view: &AddressView, host: &str) -> Known {
    let AddressView { address, forwarded: _, candidates, trouble } = view;
    let found = |address: &str, how: String| Found {
        address: address.to_owned(),
        how,
        doubt: String::new(),
    };
    if let Some(same) = candidates.iter().find(|candidate| candidate.same) {
        return Known::Sure(found(&same.address, format!("as {host} sees you")));
    }
    if candidates.is_empty() {
        let doubt = match trouble.as_str() {
            "" => format!("{host} has dropped nothing from you"),
            trouble => trouble.to_owned(),
        };
        let seen = found(address, "as the controller sees you".to_owned());
        return Known::Sure(Found { doubt, ..seen });
    }
    let dropped = candidates.iter().take(MOST).map(|candidate| {
        found(&candidate.address, format!("dropped by {host} at {}", candidate.seen))
    });
    let seen = found(address, "as the controller sees you".to_owned());
    Known::Unsure(dropped.chain([seen]).collect())
}

fn chosen(choices: Vec<Found>) -> Result<Found, Failure> {
    let texts: Vec<_> =
        choices.iter().map(|found| format!("{}  {}", found.address, found.how)).collect();
    if !ask::can_ask() {
        return Err(Failure::usage(format!(
            "which address is yours? It may be one of these; say it with --source:\n  {}",
            texts.join("\n  ")
        )));
    }
    let index = ask::choose("Which address is yours, as the hosts see it?", &texts)?;
    match index.and_then(|index| choices.into_iter().nth(index)) {
        Some(found) => Ok(found),
        None => Err(Failure::usage("no address was chosen; say it with --source")),
    }
}

/// Warns when the address is the controller's view only.
pub(super) fn warn_if_unsure(found: &Found) {
    let Found { address, how, doubt } = found;
    if !doubt.is_empty() {
        failure::warn(&format!(
            "{address} is your address {how}: {doubt}; if connections stay closed, say another with \
             --source"
        ));
    }
}

#[cfg(test)]
mod tests {
    use jit_client::controller::types::AddressCandidate;

    use super::*;

    fn view(candidates: &[(&str, bool)], trouble: &str) -> AddressView {
        let candidate = |(address, same): &(&str, bool)| AddressCandidate {
            address: (*address).to_owned(),
            seen: "2027-03-01T10:00:00Z".into(),
            seen_ms: 1,
            same: *same,
        };
        AddressView {
            address: "203.0.113.7".into(),
            forwarded: false,
            candidates: candidates.iter().map(candidate).collect(),
            trouble: trouble.into(),
        }
    }

    #[test]
    fn the_address_is_sure_when_controller_and_host_agree() {
        let known = known(&view(&[("198.51.100.9", false), ("203.0.113.7", true)], ""), "web-1");
        let how = "as web-1 sees you".to_owned();
        let (address, doubt) = ("203.0.113.7".to_owned(), String::new());
        assert_eq!(known, Known::Sure(Found { address, how, doubt }));
    }

    #[test]
    fn another_address_at_the_host_is_a_question() {
        let Known::Unsure(choices) = known(&view(&[("198.51.100.9", false)], ""), "web-1") else {
            panic!("it is not sure")
        };
        let addresses: Vec<_> = choices.iter().map(|found| found.address.as_str()).collect();
        assert_eq!(addresses, ["198.51.100.9", "203.0.113.7"]);
        // Nobody sits at the terminal of a test.
        let failure = chosen(choices).unwrap_err();
        assert!(failure.to_string().contains("198.51.100.9  dropped by web-1"), "{failure}");
    }

    #[test]
    fn without_a_report_of_the_host_the_controllers_view_stands_and_says_so() {
        let Known::Sure(found) = known(&view(&[], "web-1 does not answer"), "web-1") else {
            panic!("it is sure")
        };
        assert_eq!(found.how, "as the controller sees you");
        assert_eq!(found.doubt, "web-1 does not answer");
        assert_eq!(found.address, "203.0.113.7");
    }
}
