//! `jit-agent check`: what is wrong or doubtful in a configuration, its keys and its certificates, as the
//! service, its peers and this host would find it; and what the configuration says. Changes nothing.
//!
//! The files below give findings, most of them to `doctor` too; `page` prints them.

pub(in crate::oncall) mod certificates;
mod devices;
mod page;
mod readable;
pub(in crate::oncall) mod settings;
mod summary;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use jit_client::exit::Exit;
use jit_proto::{
    WallTime,
    wrong::{Place, Places},
};

use crate::{
    config::{Config, Examined, Glimpse, Mistake},
    control::tls::{HubMaterial, Material, TlsError},
    disk::renewed,
    kernel::datapath::rtnetlink::{self, Device},
    oncall::{
        doctor::ways,
        failure::Failure,
        finding::{At, Finding, Level},
        output::{print, print_json},
    },
    system::{
        image::{Files, below},
        owner::Owner,
        sys::{self, FileError},
    },
};
use page::Report;
pub(super) use readable::denied;
use summary::Summary;

/// The name of the findings of [`devices_above`].
const ABOVE: &str = "devices-above";

/// The command's options.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Look at the file alone: at no key, no certificate, not at this host. Needs no root: for CI.
    #[arg(long, conflicts_with = "root")]
    syntax_only: bool,
    /// Look for every file below this directory, which will be the root of a host, as for an image:
    /// also for the configuration, if its path is absolute. Nothing is said of this host.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Warnings are errors.
    #[arg(long)]
    strict: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope<'a> {
    /// The files as the service sees them, and this host.
    Host,
    /// The files below a directory.
    Image(&'a Path),
    /// The configuration alone.
    Syntax,
}

/// A finding, and where the configuration says so.
struct Placed {
    finding: Finding,
    place: Option<Place>,
}

/// What was read.
struct Read {
    text: String,
    examined: Examined,
    /// `None`: there is no `[control]` that can be read, or its files are not looked at.
    material: Option<Result<Material, Vec<TlsError>>>,
    /// The same of `[uplink]`.
    of_uplink: Option<Result<HubMaterial, Vec<TlsError>>>,
}

/// Checks a configuration file and prints what was found. Exit code 78: there is an error.
pub fn run(path: &Path, args: &CheckArgs) -> Result<ExitCode, Failure> {
    let scope = match &args.root {
        Some(root) => Scope::Image(root),
        None if args.syntax_only => Scope::Syntax,
        None => Scope::Host,
    };
    let glimpse = Glimpse::of(path);
    let owner = glimpse.paths.owner().filter(|_| scope == Scope::Host);
    let (denied, of_denied) = match &owner {
        Some(owner) => denied(owner, &glimpse)?.unzip(),
        None => (None, None),
    };
    let read = match &owner {
        // Root can read more than the service.
        Some(owner) => owner.act(|| Read::of(path, scope))?,
        None => Read::of(path, scope),
    };
    let devices = (scope == Scope::Host).then(rtnetlink::devices);
    let mut findings: Vec<_> = of_denied.into_iter().map(Placed::nowhere).collect();
    findings.extend(read.errors(&denied.unwrap_or_default()));
    if let Ok(config) = &read.examined.config {
        findings.extend(read.warnings(config, scope, devices.as_ref()));
    }
    if args.strict {
        for Placed { finding, .. } in &mut findings {
            if finding.level == Level::Warning {
                finding.level = Level::Failure;
            }
        }
    }
    findings
        .sort_by_key(|one| (std::cmp::Reverse(one.finding.level), one.place.is_none(), one.place));
    let summary = read.examined.config.as_ref().ok().map(|config| {
        let material = read.material.as_ref().and_then(|material| material.as_ref().ok());
        let devices = devices.as_ref().and_then(|devices| devices.as_ref().ok());
        Summary::new(config, material, devices.map(Vec::as_slice))
    });
    let file = match scope {
        Scope::Image(root) => below(root, path),
        Scope::Host | Scope::Syntax => path.to_owned(),
    };
    say(&Report { file, owner: owner.as_ref().map(Owner::to_string), findings, summary }, args.json)
}

fn say(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    if json {
        print_json(&report.json())?;
        let exit = if report.is_good() { Exit::Success } else { Exit::Configuration };
        return Ok(exit.into());
    }
    print(&report.remarks())?;
    match report.refusal() {
        Some(why) => Err(Failure::Refused(why)),
        None => {
            print(&report.summary_text())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What the settings of a configuration will most likely not do, without what `doctor` checks by
/// itself. `devices`: those of this network namespace, if they are known. The place of the pins is not
/// judged.
pub(super) fn of_settings(config: &Config, devices: Option<&[Device]>) -> Vec<Finding> {
    let interfaces = devices.map(gateable);
    let host = settings::Host { interfaces, is_bpffs: &|_| true };
    settings::settings(config, Some(&host))
}

/// What the gate does not see of devices above gated ones, one sentence each.
pub(super) fn devices_above(config: &Config, devices: &[Device]) -> Vec<String> {
    devices::warnings(config, devices)
}

/// The names of the interfaces but loopback.
fn gateable(devices: &[Device]) -> Vec<String> {
    let gateable = devices.iter().filter(|device| !device.loopback);
    gateable.map(|device| device.name.clone()).collect()
}

impl Placed {
    fn nowhere(finding: Finding) -> Self {
        Self { finding, place: None }
    }

    fn of(finding: Finding, places: &Places<'_>) -> Self {
        let place = match &finding.at {
            At::Nowhere => None,
            At::Value(path) => places.at(path),
            At::Signer(id, key) => {
                // No two of these sections have the same id.
                ["signer", "approver"].into_iter().find_map(|list| {
                    let index = places.index_of(list, "id", id)?;
                    places.at(&format!("{list}.{index}.{key}"))
                })
            }
        };
        Self { finding, place }
    }
}

impl Read {
    fn of(path: &Path, scope: Scope<'_>) -> Self {
        let files = match scope {
            Scope::Host => Some(Files::Host),
            Scope::Image(root) => Some(Files::Image(root.to_owned())),
            Scope::Syntax => None,
        };
        let text = match &files {
            Some(files) => files.read(path),
            None => fs::read_to_string(path).map_err(|error| FileError::Io {
                verb: "read",
                path: path.to_owned(),
                error,
            }),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let examined = Examined::unread(path, error.to_string());
                return Self { text: String::new(), examined, material: None, of_uplink: None };
            }
        };
        let examined = Examined::of(&text, path, files.as_ref());
        let material = examined.control.as_ref().zip(files.as_ref());
        let material = material.map(|(control, files)| Material::examine(control, files));
        let of_uplink = examined.uplink.as_ref().zip(files.as_ref());
        let kept = examined.config.as_ref().map(|config| renewed::path(&config.paths.state));
        let kept = kept.unwrap_or_default();
        let of_uplink =
            of_uplink.map(|(uplink, files)| HubMaterial::examine_in_use(uplink, &kept, files));
        Self { text, examined, material, of_uplink }
    }

    /// What keeps the service from starting with it. `denied`: the files that its user may not read,
    /// which is said already.
    fn errors(&self, denied: &[PathBuf]) -> Vec<Placed> {
        let Self { text, examined, material, of_uplink } = self;
        let places = Places::of(text);
        let mut errors = Vec::new();
        if let Err(error) = &examined.config {
            // The file itself may be one of those.
            let mistakes = error.mistakes().iter();
            let mistakes = mistakes.filter(|one| denied.is_empty() || one.place.is_some());
            errors.extend(mistakes.cloned().map(|Mistake { place, text }| Placed {
                finding: Finding::failure(settings::SETTINGS, text),
                place,
            }));
        }
        let faults = examined.faults.iter().filter(|fault| !denied.contains(&fault.path));
        let mut findings: Vec<_> = faults.map(certificates::unusable_key).collect();
        if let Some(Err(faults)) = material {
            let new = faults.iter().filter(|fault| !is_denied(fault, denied));
            findings.extend(new.map(|fault| certificates::unusable(fault, true)));
        }
        if let Some(Ok(material)) = material {
            let judged = certificates::of_material(material, sys::now().wall).into_iter();
            findings.extend(judged.filter(|finding| finding.level > Level::Ok));
        }
        match of_uplink {
            None => {}
            Some(Err(faults)) => {
                let new = faults.iter().filter(|fault| !is_denied(fault, denied));
                findings.extend(new.map(|fault| certificates::unusable(fault, true)));
            }
            Some(Ok(material)) => {
                let judged = certificates::of_uplink(material, sys::now().wall).into_iter();
                findings.extend(judged.filter(|finding| finding.level > Level::Ok));
            }
        }
        errors.extend(findings.into_iter().map(|finding| Placed::of(finding, &places)));
        errors
    }

    /// What the service would start with, and is doubtful.
    fn warnings(
        &self,
        config: &Config,
        scope: Scope<'_>,
        devices: Option<&io::Result<Vec<Device>>>,
    ) -> Vec<Placed> {
        let places = Places::of(&self.text);
        let findings =
            warnings(config, scope, devices, sys::now().wall, self.examined.faults.len());
        let doubtful = findings.into_iter().filter(|finding| finding.level > Level::Ok);
        let warned = doubtful.map(|mut finding| {
            finding.level = finding.level.min(Level::Warning);
            Placed::of(finding, &places)
        });
        warned.collect()
    }
}

/// `keyless`: the number of signers whose key cannot be used.
fn warnings(
    config: &Config,
    scope: Scope<'_>,
    devices: Option<&io::Result<Vec<Device>>>,
    now: WallTime,
    keyless: usize,
) -> Vec<Finding> {
    let listed = devices.and_then(|devices| devices.as_ref().ok());
    let interfaces = listed.map(|devices| gateable(devices));
    let host = settings::Host { interfaces, is_bpffs: &sys::is_bpffs };
    let host = (scope == Scope::Host).then_some(&host);
    let mut findings = settings::settings(config, host);
    findings.extend(settings::modes(config));
    findings.extend(settings::exemptions(config.policy.sections(), now));
    findings.push(certificates::controllers(config));
    if scope != Scope::Syntax && keyless == 0 {
        findings.extend(certificates::signers(config, &[], now));
    }
    if scope == Scope::Host {
        findings.extend(readable::exposed_keys(config));
        findings.extend(ways::of_ports(config));
    }
    match devices {
        None => {}
        Some(Ok(devices)) => {
            let above = devices_above(config, devices).into_iter();
            findings.extend(above.map(|doubt| Finding::warning(ABOVE, doubt)));
        }
        Some(Err(error)) => {
            let what = format!("cannot list the interfaces, so nothing is said of them: {error}");
            findings.push(Finding::unseen("interface", what));
        }
    }
    findings
}

fn is_denied(error: &TlsError, denied: &[PathBuf]) -> bool {
    matches!(error, TlsError::File { error: FileError::Io { path, .. }, .. } if denied.contains(path))
}
