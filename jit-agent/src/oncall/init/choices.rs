//! What `init` writes down: from the options, from answers, and from what the host shows.

use std::{
    io::{BufRead, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use jit_common::Family;
use jit_proto::{PortRange, SourcePrefix, WallTime};

use super::{
    InitArgs,
    ask::{Asker, parsed, words},
    files::Places,
    survey::{Peer, Survey, peers},
};
use crate::{
    config::{AUTO, Hub, KeyFile, Proxy},
    oncall::failure::Failure,
    rules::keyring::Signer,
    system::sys,
};

/// Where controllers connect, if nobody says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7443);
/// The longest grant that a new signer's key may sign, for reading the key alone.
const ANY: Duration = Duration::from_secs(3600);
const DAY: i64 = 86_400_000;

/// Everything that the configuration has from this host and its people.
#[derive(Clone, Debug)]
pub(super) struct Choices {
    /// The id that grants name.
    pub(super) host: String,
    /// The ports to protect.
    pub(super) ports: Vec<PortRange>,
    /// The widest sources of grants.
    pub(super) sources: Vec<SourcePrefix>,
    /// Sources that need no grant.
    pub(super) exempt: Vec<Exempt>,
    /// When all exemptions end.
    pub(super) until: WallTime,
    /// Interfaces without a gate: names or globs.
    pub(super) exclude: Vec<String>,
    /// Whose signature opens.
    pub(super) signers: Vec<SignerKey>,
    /// Who may connect.
    pub(super) controllers: Vec<String>,
    /// Where they connect; `None`: nowhere.
    pub(super) listen: Option<SocketAddr>,
    /// The hubs that the host connects to, and what stands between.
    pub(super) hubs: Vec<Hub>,
    pub(super) proxy: Proxy,
    /// Who is connected now and not exempt.
    pub(super) connected: Vec<Peer>,
}

/// A source that needs no grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exempt {
    pub(super) source: SourcePrefix,
    /// The only port it is for; `None`: all.
    pub(super) port: Option<jit_common::PortKey>,
    pub(super) reason: String,
}

/// A signer's public key.
#[derive(Clone, Debug)]
pub(super) struct SignerKey {
    pub(super) id: String,
    pem: String,
}

impl SignerKey {
    /// Reads a public key. The file's name without its endings is the id.
    fn read(path: &Path) -> Result<Self, String> {
        let pem = sys::read_trusted(path).map_err(|error| error.to_string())?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let id = stem.strip_suffix(".pub").unwrap_or(stem).to_owned();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
            return Err(format!(
                "{}: the name of the file is the signer's id: use letters, digits, `-`, `_` and `.`",
                path.display()
            ));
        }
        Signer::from_pem(id.clone(), ANY, &pem)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { id, pem })
    }

    /// The file that the configuration names.
    pub(super) fn key_file(&self, places: &Places) -> KeyFile {
        KeyFile { id: self.id.clone(), path: places.signer(&self.id), pem: self.pem.clone() }
    }
}

impl Choices {
    /// Without a question.
    pub(super) fn of(args: &InitArgs, survey: &Survey, now: WallTime) -> Result<Self, Failure> {
        let host = args.host_id.clone().or_else(|| survey.name.clone()).ok_or_else(|| {
            Failure::Usage("this host has no name of its own to be its id: add --host-id".into())
        })?;
        let ports = if args.port.is_empty() { survey.ports() } else { args.port.clone() };
        let mut choices = Self::begin(args, host, ports, now)?;
        choices.connected = seen_peers(&choices.ports);
        choices.exempt_own();
        Ok(choices)
    }

    /// Asks for everything that no option says.
    pub(super) fn asked<R: BufRead, W: Write>(
        args: &InitArgs,
        survey: &Survey,
        now: WallTime,
        places: &Places,
        asker: &mut Asker<R, W>,
    ) -> Result<Self, Failure> {
        asker.say(
            "Enter takes the answer in brackets. Nothing is written before the last question.",
        )?;
        let host = match &args.host_id {
            Some(host) => host.clone(),
            None => {
                let name = match &survey.found {
                    Some(found) => {
                        asker.say(&format!(
                            "{} says that this host is {}; {AUTO} uses what it says.",
                            found.source, found.id
                        ))?;
                        Some(AUTO)
                    }
                    None => survey.name.as_deref(),
                };
                asker.ask("The host's id, as grants name it", name, host_id)?
            }
        };
        let ports =
            if args.port.is_empty() { ask_ports(survey, asker)? } else { args.port.clone() };
        let mut choices = Self::begin(args, host, ports, now)?;
        if args.source.is_empty() {
            let default = list(&choices.sources);
            choices.sources = asker.ask("The widest sources of grants", Some(&default), some)?;
        }
        for peer in seen_peers(&choices.ports) {
            choices.ask_about(peer, asker)?;
        }
        if args.exclude.is_empty() && !survey.interfaces.is_empty() {
            asker
                .say(&format!("Interfaces: {}. All get the gate.", survey.interfaces.join(" ")))?;
            choices.exclude = asker.ask("Except", Some(""), |answer| {
                Ok(words(answer).into_iter().map(str::to_owned).collect())
            })?;
        }
        if args.signer.is_empty() {
            choices.signers = asker.ask("Files of signers' public keys", Some(""), |answer| {
                words(answer).into_iter().map(|path| SignerKey::read(Path::new(path))).collect()
            })?;
        }
        if args.controller.is_empty() {
            choices.controllers = asker.ask(
                "Controllers, by the names in their certificates",
                Some(""),
                |answer| Ok(words(answer).into_iter().map(str::to_owned).collect()),
            )?;
        }
        if args.listen.is_none() && args.uplink.is_empty() {
            let default = LISTEN.to_string();
            let question = "Where controllers connect, or none: this host connects to a hub";
            choices.listen = asker.ask(question, Some(&default), listen)?;
        }
        if choices.listen.is_none() && args.uplink.is_empty() {
            choices.hubs = asker.ask("Hubs, as hub.example.org:443", None, hubs)?;
        }
        let what = if args.dry_run { "Show" } else { "Write" };
        match asker.confirm(&format!("{what} {}", places.config.display()), true)? {
            true => Ok(choices),
            false => Err(Failure::Refused("nothing is written".into())),
        }
    }

    fn begin(
        args: &InitArgs,
        host: String,
        ports: Vec<PortRange>,
        now: WallTime,
    ) -> Result<Self, Failure> {
        let until = end(now, args.exempt_days);
        let signers = args.signer.iter().map(PathBuf::as_path).map(SignerKey::read);
        let exempt = |source: &SourcePrefix| Exempt {
            source: *source,
            port: None,
            reason: "named when jit-agent init ran".into(),
        };
        Ok(Self {
            host,
            ports,
            sources: match args.source.as_slice() {
                [] => vec![SourcePrefix::any(Family::V4), SourcePrefix::any(Family::V6)],
                sources => sources.to_vec(),
            },
            exempt: args.exempt.iter().map(exempt).collect(),
            until,
            exclude: args.exclude.clone(),
            signers: signers.collect::<Result<_, _>>().map_err(Failure::Refused)?,
            controllers: args.controller.clone(),
            listen: args.listen.or_else(|| args.uplink.is_empty().then_some(LISTEN)),
            hubs: args.uplink.clone(),
            proxy: args.proxy.clone(),
            connected: Vec::new(),
        })
    }

    /// Exempts the session that the command was typed in. Others may be those of people who have not
    /// even given a password: who is connected is not who is known.
    fn exempt_own(&mut self) {
        let own: Vec<_> = self.connected.iter().filter(|peer| peer.own).cloned().collect();
        self.exempt.extend(own.iter().filter_map(Exempt::of));
        self.connected.retain(|peer| !peer.own);
        self.without_repetition();
    }

    fn ask_about<R: BufRead, W: Write>(
        &mut self,
        peer: Peer,
        asker: &mut Asker<R, W>,
    ) -> Result<(), Failure> {
        let Peer { source, port, own } = &peer;
        let whose = if *own { "your own session" } else { "connected now" };
        let question = format!(
            "Let in {source} ({whose}) without a grant on {}/{} until {}",
            port.port,
            port.protocol.word(),
            self.until
        );
        match asker.confirm(&question, *own)? {
            true => self.exempt.extend(Exempt::of(&peer)),
            false => self.connected.push(peer),
        }
        self.without_repetition();
        Ok(())
    }

    /// A source that is exempt on all ports needs no second line for one of them.
    fn without_repetition(&mut self) {
        let all: Vec<_> =
            self.exempt.iter().filter(|one| one.port.is_none()).map(|one| one.source).collect();
        self.exempt
            .retain(|one| one.port.is_none() || !all.iter().any(|wide| wide.contains(&one.source)));
    }
}

impl Exempt {
    fn of(peer: &Peer) -> Option<Self> {
        Some(Self {
            source: peer.source.parse().ok()?,
            port: Some(peer.port),
            reason: "was connected when jit-agent init ran".into(),
        })
    }
}

/// The end of the day that is this number of days from now. The same all day, so that a second run
/// writes the same.
fn end(now: WallTime, days: u16) -> WallTime {
    let days = i64::from(days).saturating_add(1);
    WallTime(now.0.div_euclid(DAY).saturating_add(days).saturating_mul(DAY))
}

fn seen_peers(ports: &[PortRange]) -> Vec<Peer> {
    peers(ports).unwrap_or_else(|error| {
        crate::oncall::complain(&format!("warning: who is connected is not known: {error}"));
        Vec::new()
    })
}

fn ask_ports<R: BufRead, W: Write>(
    survey: &Survey,
    asker: &mut Asker<R, W>,
) -> Result<Vec<PortRange>, Failure> {
    for listener in &survey.listeners {
        let (port, what) = (listener.port, listener.what);
        let who = listener.process.as_deref().unwrap_or("a process that only root sees");
        asker.say(&format!("{who} listens on {}/{} ({what}).", port.port, port.protocol.word()))?;
    }
    if survey.listeners.is_empty() {
        asker.say("Nothing for administration listens here.")?;
    }
    asker.ask("Ports to protect", Some(&list(&survey.ports())), some)
}

/// At least one.
fn some<T: std::str::FromStr<Err: std::fmt::Display>>(answer: &str) -> Result<Vec<T>, String> {
    let all = parsed(answer)?;
    if all.is_empty() {
        return Err("name at least one".into());
    }
    Ok(all)
}

/// Where controllers connect, if anywhere.
fn listen(answer: &str) -> Result<Option<SocketAddr>, String> {
    if answer == "none" {
        return Ok(None);
    }
    answer.parse().map(Some).map_err(|_| format!("{answer:?} is not ADDRESS:PORT"))
}

/// At least one.
fn hubs(answer: &str) -> Result<Vec<Hub>, String> {
    let all: Vec<_> = words(answer).into_iter().map(Hub::parse).collect::<Result<_, _>>()?;
    if all.is_empty() { Err("name at least one".into()) } else { Ok(all) }
}

fn host_id(answer: &str) -> Result<String, String> {
    match answer {
        "" => Err("name it: grants name hosts by this id".into()),
        answer => Ok(answer.to_owned()),
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    fn peer(source: &str, own: bool) -> Peer {
        Peer { source: source.into(), port: PortKey { protocol: Protocol::Tcp, port: 22 }, own }
    }

    /// What the options alone say.
    fn options(line: &str) -> InitArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: InitArgs,
        }
        let line = std::iter::once("init").chain(line.split_whitespace());
        <Line as clap::Parser>::try_parse_from(line).map(|line| line.args).unwrap()
    }

    fn begun(line: &str) -> Choices {
        let ports = vec!["22/tcp".parse().unwrap()];
        Choices::begin(&options(line), "web-1".into(), ports, WallTime(DAY + 5)).unwrap()
    }

    #[test]
    fn only_the_callers_own_session_is_exempt_without_a_question() {
        let mut choices = begun("");
        choices.connected = vec![peer("192.0.2.1", true), peer("198.51.100.9", false)];
        choices.exempt_own();
        let exempt: Vec<_> = choices.exempt.iter().map(|one| one.source.to_string()).collect();
        assert_eq!(exempt, ["192.0.2.1"]);
        assert_eq!(choices.connected, [peer("198.51.100.9", false)]);
    }

    #[test]
    fn a_peer_that_an_option_exempts_stands_once() {
        let mut choices = begun("--exempt 192.0.2.0/24");
        choices.connected = vec![peer("192.0.2.1", true)];
        choices.exempt_own();
        let [one] = choices.exempt.as_slice() else { panic!("{:?}", choices.exempt) };
        assert_eq!((one.source.to_string().as_str(), one.port), ("192.0.2.0/24", None));
    }

    #[test]
    fn a_stranger_who_is_connected_is_let_in_only_by_a_yes() {
        for (answers, exempt) in [("\n\n", vec!["192.0.2.1"]), ("n\ny\n", vec!["198.51.100.9"])] {
            let mut choices = begun("");
            let mut asker = Asker::new(answers.as_bytes(), Vec::new());
            for peer in [peer("192.0.2.1", true), peer("198.51.100.9", false)] {
                choices.ask_about(peer, &mut asker).unwrap();
            }
            let found: Vec<_> = choices.exempt.iter().map(|one| one.source.to_string()).collect();
            assert_eq!(found, exempt);
        }
    }

    #[test]
    fn with_a_hub_it_listens_only_where_an_option_says_so() {
        assert_eq!(begun("").listen, Some(LISTEN));
        let choices = begun("--uplink hub.example.org:443 --uplink [2001:db8::1]:7444");
        assert_eq!((choices.listen, choices.hubs.len()), (None, 2));
        let both = begun("--uplink hub.example.org:443 --listen 192.0.2.1:7443");
        assert!(both.listen.is_some() && !both.hubs.is_empty());
    }

    #[test]
    fn exemptions_end_at_midnight_after_the_days() {
        assert_eq!(end(WallTime(DAY + 5), 7), WallTime(9 * DAY));
        assert_eq!(end(WallTime(2 * DAY - 1), 7), WallTime(9 * DAY));
        assert_eq!(begun("--exempt-days 1").until, WallTime(3 * DAY));
    }
}
