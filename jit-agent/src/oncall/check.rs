//! `jit-agent check`: whether the service could start with a configuration, its keys and its
//! certificates. Changes nothing.

mod ports;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    config::{Config, Glimpse},
    control::tls::Material,
    oncall::{failure::Failure, output::print},
    system::owner::Owner,
};

/// Checks a configuration file and prints a summary of it.
pub fn run(path: &Path) -> Result<ExitCode, Failure> {
    let Glimpse { paths, files, .. } = Glimpse::of(path);
    let config = match paths.owner() {
        None => read(path)?,
        Some(owner) => {
            ensure_readable(&owner, files)?;
            // Root can read more than the service.
            owner.act(|| read(path))?.map_err(|error| Failure::AsService {
                owner: owner.to_string(),
                error: Box::new(error),
            })?
        }
    };
    print(&summary(path, &config));
    print(&ports::warnings(config.policy.sections()));
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Config, Failure> {
    let config = Config::read(path)?;
    Material::of(&config)?;
    Ok(config)
}

fn ensure_readable(owner: &Owner, files: Vec<PathBuf>) -> Result<(), Failure> {
    let denied = owner.unreadable(files)?;
    let Some(first) = denied.first().map(|path| path.display()) else { return Ok(()) };
    let all: Vec<_> = denied.iter().map(|path| path.display().to_string()).collect();
    let all = all.join(" ");
    Err(Failure::DeniedFiles(format!(
        "the service runs as {owner}, which may not read {all}: let its group read each, as in \
         `chgrp jit-agent {first} && chmod g+r {first}`, and their directories with g+x"
    )))
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
