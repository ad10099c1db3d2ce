//! `jit-agent init`: looks at this host, asks what to protect, and writes a configuration that `check`
//! accepts, the host's TLS key and a request for its certificate.
//!
//! The configuration is always in observe mode: it shuts nobody out. Everything is chosen and checked
//! before the first file is written, and the configuration comes last. So a mistake, a key that is
//! pressed, or a full disk leaves the old configuration, or a whole new one. [`survey`] reads the host,
//! [`ask`] and [`choices`] decide, [`text`] and [`mark`] write the configuration, [`key`] makes the key, and
//! [`files`] puts each file in its place.

mod ask;
mod choices;
pub(super) mod files;
pub(super) mod key;
mod mark;
mod report;
mod survey;
mod text;

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::{PortRange, SourcePrefix, printable};

use crate::{
    config::{AUTO, Config, Hub, Loaded, Proxy},
    control::tls::{HubMaterial, Material, TlsError},
    oncall::{
        doctor::ways,
        failure::Failure,
        output::{complain, print, print_json},
    },
    system::{
        metadata::{Verdict, ask_all},
        sys,
    },
};
use ask::Asker;
use choices::Choices;
use files::Places;
use report::Report;
use survey::Survey;

/// Arguments of `init`.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// Ask nothing: take the options, and what this host shows for everything else.
    #[arg(long)]
    yes: bool,
    /// The host's id, exactly as grants name it [default: the host's name].
    #[arg(long, value_name = "ID")]
    host_id: Option<String>,
    /// A port to protect, as 22/tcp or 5985-5986/tcp; may be repeated [default: those on which
    /// something for administration listens, else 22/tcp].
    #[arg(long, value_name = "PORT")]
    port: Vec<PortRange>,
    /// The widest source that a grant may name; may be repeated [default: 0.0.0.0/0 and ::/0].
    #[arg(long, value_name = "CIDR")]
    source: Vec<SourcePrefix>,
    /// A source that needs no grant until the day of --exempt-days; may be repeated. With --yes the
    /// address of your own session is added.
    #[arg(long, value_name = "IP|CIDR")]
    exempt: Vec<SourcePrefix>,
    /// When exemptions end, days from today.
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=366))]
    exempt_days: u16,
    /// An interface that needs no gate, or a glob such as veth*; may be repeated.
    #[arg(long, value_name = "NAME")]
    exclude: Vec<String>,
    /// The file of a public key whose signature opens (PEM, from `jitctl keygen`); may be repeated. It
    /// is copied beside the configuration. Its name without the ending is the signer's id.
    #[arg(long, value_name = "FILE")]
    signer: Vec<PathBuf>,
    /// A controller that may connect, by a name in its certificate such as
    /// spiffe://example.org/jit-controller; may be repeated.
    #[arg(long, value_name = "NAME")]
    controller: Vec<String>,
    /// Where controllers connect [default: 0.0.0.0:7443; with --uplink nowhere].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// A hub that this host connects to, because nobody can connect here; may be repeated. Name it with
    /// --controller, too.
    #[arg(long, value_name = "HOST:PORT", value_parser = Hub::parse)]
    uplink: Vec<Hub>,
    /// How hubs are reached: http://HOST:PORT, environment, or none.
    #[arg(long, value_name = "PROXY", value_parser = Proxy::parse, default_value_t)]
    #[arg(requires = "uplink")]
    proxy: Proxy,
    /// A name or address by which controllers connect, for the certificate; may be repeated [default:
    /// the host's name and addresses].
    #[arg(long, value_name = "NAME|IP")]
    name: Vec<String>,
    /// Make no key and no request for a certificate.
    #[arg(long)]
    no_key: bool,
    /// The configuration to write, or a directory for config.toml; one that is to be made ends in /
    /// [default: that of --config].
    #[arg(long, value_name = "DIR|FILE")]
    output: Option<PathBuf>,
    /// Replace a configuration that somebody edited. The old one stays beside it.
    #[arg(long)]
    force: bool,
    /// Write nothing; print what would be written.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON. Needs --yes.
    #[arg(long)]
    json: bool,
}

/// Chooses, checks, writes, and prints what to do next.
pub async fn run(config: &Path, args: InitArgs) -> Result<ExitCode, Failure> {
    if !args.yes && (args.json || !io::stdin().is_terminal()) {
        return Err(Failure::Usage(
            "init asks what to protect, and there is no terminal to ask on: add --yes to take what this \
             host shows, and to choose: --host-id, --port, --source, --exempt, --signer, --controller, \
             --listen, --uplink; --dry-run shows what it would write"
                .into(),
        ));
    }
    let places = Places::new(args.output.as_deref().unwrap_or(config))?;
    if !args.dry_run && !args.force && places.is_edited()? {
        return Err(Failure::Refused(format!(
            "{} is there, and it is not as it was installed or as init wrote it: nothing is written; \
             --force replaces it and keeps it beside the new one, --output writes to another place, \
             --dry-run only shows",
            places.config.display()
        )));
    }
    let mut survey = Survey::of_this_host();
    if args.host_id.is_none()
        && let Verdict::Found(found) = Verdict::of(&ask_all().await)
    {
        if args.yes {
            complain(&format!(
                "{} says that this host is {}: --host-id {AUTO} uses what it says",
                found.source, found.id
            ));
        }
        survey.found = Some(found);
    }
    for why in &survey.unseen {
        complain(&format!("warning: {why}"));
    }
    let now = sys::now().wall;
    let choices = match args.yes {
        true => Choices::of(&args, &survey, now)?,
        false => {
            let mut asker = Asker::new(io::stdin().lock(), io::stderr());
            Choices::asked(&args, &survey, now, &places, &mut asker)?
        }
    };
    let written = Draft::new(&choices, &survey, &places)?;
    let name = own_name(&choices, &survey);
    let names = key::names(&args.name, name, &survey)?;
    let mut report = Report::new(&args, &choices, &written, &places, &survey);
    report.around = ways::around(&written.config);
    if args.dry_run {
        report.text = Some(written.text);
    } else {
        put(&args, &choices, &written, (name, &names), &places, &mut report)?;
    }
    match args.json {
        true => print_json(&report)?,
        false => print(&printable::clean_lines(&report.page()))?,
    }
    Ok(Exit::Success.into())
}

/// The host's name in the request for its certificate.
fn own_name<'a>(choices: &'a Choices, survey: &'a Survey) -> &'a str {
    match choices.host.as_str() {
        AUTO => survey.name.as_deref().unwrap_or("host"),
        host => host,
    }
}

/// A configuration that is good, and not written yet.
struct Draft {
    text: String,
    config: Config,
    /// The certificates are there and fit: the agent listens, or connects to a hub.
    ready: bool,
}

impl Draft {
    fn new(choices: &Choices, survey: &Survey, places: &Places) -> Result<Self, Failure> {
        if places.certificate().exists() && places.client_ca().exists() {
            let draft = Self::with(choices, survey, places, true)?;
            match usable(&draft.config) {
                Ok(()) => return Ok(draft),
                Err(error) => complain(&format!(
                    "warning: no controller reaches the agent until this is put right: {error}"
                )),
            }
        }
        Self::with(choices, survey, places, false)
    }

    fn with(
        choices: &Choices,
        survey: &Survey,
        places: &Places,
        ready: bool,
    ) -> Result<Self, Failure> {
        let text = text::configuration(choices, survey, places, ready);
        let keys: Vec<_> = choices.signers.iter().map(|one| one.key_file(places)).collect();
        let config = Loaded::parse(&text, &places.config, &keys)?.config;
        // What is a comment now must be good when somebody removes the signs.
        Loaded::parse(&text::uncommented(&text), &places.config, &keys)?;
        Ok(Self { text, config, ready })
    }
}

/// Whether the certificates can be used, of the listening port and of uplinks.
fn usable(config: &Config) -> Result<(), TlsError> {
    Material::of(config)?;
    config.uplink.as_ref().map_or(Ok(()), |uplink| HubMaterial::read(uplink).map(drop))
}

/// Writes everything, the configuration last.
fn put(
    args: &InitArgs,
    choices: &Choices,
    draft: &Draft,
    (name, names): (&str, &key::Names),
    places: &Places,
    report: &mut Report,
) -> Result<(), Failure> {
    places.prepare(!args.no_key, !choices.signers.is_empty())?;
    if !args.no_key {
        let (pair, made) = key::ensure(places)?;
        let request = key::request(&pair, name, names)?;
        places.write(&places.request(), request.as_bytes(), files::Readers::Status)?;
        report.key_is_new = Some(made);
    }
    for signer in &choices.signers {
        let key = signer.key_file(places);
        places.write(&key.path, key.pem.as_bytes(), files::Readers::Status)?;
    }
    report.kept = places.write_config(&draft.text, args.force)?;
    report.written = true;
    Ok(())
}
