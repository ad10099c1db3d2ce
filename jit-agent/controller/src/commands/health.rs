//! `jit-controller health`: how the hub of a bus is that runs with this configuration, as it says
//! itself at `[hub] health`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use clap::Args;
use jit_client::exit::Exit;
use reqwest::{Client, redirect::Policy};
use serde_json::json;

use super::{
    Failure,
    check::shown,
    output::{print, print_json},
};
use crate::{
    config::{File, HubConfig},
    health::Findings,
};

/// The longest wait for an answer.
const WAIT: Duration = Duration::from_secs(5);
/// Longest answer that is read, bytes.
const LONGEST: usize = 64 * 1024;
/// Reports that wait at a hub: from this number on it is slow to be heard (docs/bus.md).
const MANY: u64 = 1024;

/// Arguments of `health`.
#[derive(Args, Debug)]
pub struct HealthArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks the hub.
///
/// # Errors
/// It is not the configuration of a hub that says how it is, or standard output cannot be written.
pub async fn run(file: &Path, args: &HealthArgs) -> Result<Exit, Failure> {
    let config = match File::read(file)? {
        File::Hub(config) => config,
        File::Controller(_) => {
            return Err(Failure::files(format!(
                "{} is the file of a controller with a database: its page Health says how it is; this is \
                 for a hub of the bus",
                file.display()
            )));
        }
    };
    let mut findings = Findings::default();
    let answers = look(&config, file, &mut findings).await?;
    let all = findings.all();
    if args.json {
        print_json(&json!({ "schema_version": 1, "worst": findings.worst(), "findings": all }))?;
    } else {
        print(&shown(all))?;
    }
    Ok(if answers { Exit::Success } else { Exit::Unavailable })
}

/// Returns whether it can work.
async fn look(config: &HubConfig, file: &Path, findings: &mut Findings) -> Result<bool, Failure> {
    let address = config.hub.health.map(from_here).ok_or_else(|| {
        Failure::files(format!(
            "[hub] in {} has no `health`: write `health = \"127.0.0.1:7445\"`, and start the hub anew",
            file.display()
        ))
    })?;
    // A client is not built without, though nothing is encrypted here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(WAIT).build();
    let client = client.map_err(|error| Failure::unavailable(error.to_string()))?;
    let name = &config.hub.name;
    let (ready, said) = match get(&client, address, "readyz").await {
        Ok(answer) => answer,
        Err(why) => {
            findings.error("hub", format!("{name} does not answer at {address}: {why}"));
            return Ok(false);
        }
    };
    match ready {
        true => findings.good("hub", format!("{name} is ready")),
        false => findings.error("hub", format!("{name} does not work: {}", said.trim())),
    }
    match get(&client, address, "metrics").await {
        Ok((true, text)) => numbers(&text, findings),
        Ok((false, _)) => findings.warn("numbers", format!("{address} shows none")),
        Err(why) => findings.warn("numbers", format!("{address} shows none: {why}")),
    }
    Ok(ready)
}

/// The address by which this machine reaches one that listens there.
fn from_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Whether the answer is a good one, and its text.
async fn get(client: &Client, at: SocketAddr, path: &str) -> Result<(bool, String), String> {
    let asked = client.get(format!("http://{at}/{path}")).send().await;
    let mut answer = asked.map_err(|error| causes(&error))?;
    let (good, mut text) = (answer.status().is_success(), Vec::new());
    while let Some(some) = answer.chunk().await.map_err(|error| causes(&error))? {
        if text.len().saturating_add(some.len()) > LONGEST {
            return Err(format!("its answer has more than {LONGEST} bytes: it is no hub"));
        }
        text.extend_from_slice(&some);
    }
    Ok((good, String::from_utf8_lossy(&text).into_owned()))
}

/// The last cause of an error.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// What the numbers mean.
fn numbers(text: &str, findings: &mut Findings) {
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix("jit_hub_")?.strip_prefix(name));
        line?.trim().parse().ok()
    };
    let all = (of("hosts "), of("connections "), of("connections_max "), of("reports_waiting "));
    let (Some(hosts), Some(held), Some(most), Some(waiting)) = all else {
        findings.warn("numbers", "some are missing: it is a hub of another version");
        return;
    };
    findings.good("hosts", format!("connected: {hosts}"));
    let sentence = format!("{held} of {most}");
    if held >= most.saturating_mul(9) / 10 {
        let more = "when none is left, agents are refused: raise [hub] connections, or add a hub";
        findings.warn("connections", format!("{sentence}; {more}"));
    } else {
        findings.good("connections", sentence);
    }
    let sentence = format!("answers of hosts that wait for the bus: {waiting}");
    if waiting >= MANY {
        findings.warn("reports", format!("{sentence}; at 4096 deliveries wait"));
    } else {
        findings.good("reports", sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Level;

    #[test]
    fn numbers_become_sentences_and_warnings() {
        let text = |held: u64, waiting: u64| {
            format!(
                "# HELP jit_hub_hosts hosts\njit_hub_hosts 7\njit_hub_connections {held}\n\
                 jit_hub_connections_max 100\njit_hub_bus_connected 1\njit_hub_reports_waiting {waiting}\n"
            )
        };
        for (text, worst, sentence) in [
            (text(89, 1023), Level::Good, "connected: 7"),
            (text(90, 0), Level::Warning, "90 of 100; when none"),
            (text(8, 1024), Level::Warning, "1024; at 4096"),
            ("nonsense".to_owned(), Level::Warning, "another version"),
        ] {
            let mut findings = Findings::default();
            numbers(&text, &mut findings);
            assert_eq!(findings.worst(), worst, "{text}");
            assert!(findings.all().iter().any(|one| one.text.contains(sentence)), "{text}");
        }
    }

    #[test]
    fn a_hub_that_listens_everywhere_is_asked_here() {
        for (listens, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("192.0.2.1:1", "192.0.2.1:1")]
        {
            assert_eq!(from_here(listens.parse().unwrap()).to_string(), asked);
        }
    }
}
