//! `jit-agent check`: whether the service could start with a configuration, its keys and its
//! certificates, and whether its peers could use it. Changes nothing.

mod devices;
pub(in crate::oncall) mod doubts;
mod ports;
mod readable;

use std::{path::Path, process::ExitCode};

use jit_proto::WallTime;

use crate::{
    config::{Config, Glimpse},
    control::tls::{Material, TlsError},
    kernel::datapath::rtnetlink::{self, Device},
    oncall::{failure::Failure, output::print},
    system::sys,
};
use doubts::{Host, doubts};
pub(super) use readable::ensure_readable;

/// Checks a configuration file and prints what was taken from it, and what is doubtful.
pub fn run(path: &Path) -> Result<ExitCode, Failure> {
    let glimpse = Glimpse::of(path);
    let (config, material) = match glimpse.paths.owner() {
        None => read(path)?,
        Some(owner) => {
            ensure_readable(&owner, &glimpse)?;
            // Root can read more than the service.
            owner.act(|| read(path))?.map_err(|error| Failure::AsService {
                owner: owner.to_string(),
                error: Box::new(error),
            })?
        }
    };
    print(&summary(path, &config))?;
    print(&taken(&config, material.as_ref()))?;
    let now = sys::now().wall;
    let devices = rtnetlink::devices();
    let of_peers = material.iter().flat_map(|material| material.doubts(now));
    let of_peers = of_peers.chain(readable::exposed_key(&config));
    let of_devices = match &devices {
        Ok(devices) => devices_above(&config, devices),
        Err(error) => {
            vec![format!("cannot list the interfaces, so nothing is said of them: {error}")]
        }
    };
    let interfaces = devices.as_deref().ok().map(gateable);
    let of_configuration = doubts(&config, &Host { now, interfaces, is_bpffs: &sys::is_bpffs });
    for doubt in of_configuration.into_iter().chain(of_peers).chain(of_devices) {
        print(&format!("warning: {doubt}\n"))?;
    }
    print(&ports::warnings(config.policy.sections()))?;
    Ok(ExitCode::SUCCESS)
}

/// What the settings of a configuration will most likely not do, one sentence each, without what
/// `doctor` checks by itself. `devices`: those of this network namespace, if they are known. The place
/// of the pins is not judged.
pub(super) fn of_settings(
    config: &Config,
    devices: Option<&[Device]>,
    now: WallTime,
) -> Vec<String> {
    let interfaces = devices.map(gateable);
    doubts::settings(config, &Host { now, interfaces, is_bpffs: &|_| true })
}

/// What the gate does not see of devices above gated ones, one sentence each.
pub(super) fn devices_above(config: &Config, devices: &[Device]) -> Vec<String> {
    devices::warnings(config, devices)
}

fn read(path: &Path) -> Result<(Config, Option<Material>), Failure> {
    let config = Config::read(path)?;
    let material = Material::of(&config)?;
    if let Some(why) = material.as_ref().and_then(|found| found.not_now(sys::now().wall)) {
        return Err(Failure::Tls(TlsError::NotNow(why)));
    }
    Ok((config, material))
}

/// The names of the interfaces but loopback.
fn gateable(devices: &[Device]) -> Vec<String> {
    let gateable = devices.iter().filter(|device| !device.loopback);
    gateable.map(|device| device.name.clone()).collect()
}

fn summary(path: &Path, config: &Config) -> String {
    let ports: Vec<_> =
        config.policy.sections().iter().map(|section| section.range.to_string()).collect();
    format!(
        "{} is good: host {:?}, ports {}, {} signers, {} controllers\n",
        path.display(),
        config.host,
        if ports.is_empty() { "none".into() } else { ports.join(" ") },
        config.keyring.signers().len(),
        config.controllers.len()
    )
}

/// Every certificate and key that was taken, so that a missing one is seen.
fn taken(config: &Config, material: Option<&Material>) -> String {
    let certificates = material.into_iter().flat_map(Material::certificates);
    let signers = config.keyring.signers().iter();
    let signers = signers
        .map(|signer| format!("{:<12} {:?}, key id {}", "signer", signer.id, signer.fingerprint()));
    certificates.chain(signers).map(|line| format!("  {line}\n")).collect()
}
