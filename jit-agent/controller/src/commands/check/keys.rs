//! The keys that sign grants and the audit's heads, without using them.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path};

use jit_client::signing::SigningKey;

use crate::{
    audit::head::{HeadKey, PublicKey},
    config::Config,
    health::Findings,
    signer::KeySettings,
};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let signer = &config.signer;
    for (name, keys) in
        [("signer key", &signer.keys), ("signer revocation key", &signer.revocation_keys)]
    {
        for (number, key) in (1..).zip(keys) {
            let about = format!("{name} {number}");
            match look(key) {
                Ok(text) => findings.good(about, text),
                Err(why) => findings.error(about, why),
            }
        }
    }
    if let Some(freshness) = &config.signer.freshness {
        match look(&freshness.key) {
            Ok(text) => findings.good("freshness key".to_owned(), text),
            Err(why) => findings.error("freshness key".to_owned(), why),
        }
    }
    let about = config.audit.key.display().to_string();
    match fs::read_to_string(&config.audit.key)
        .map_err(|error| error.to_string())
        .and_then(|text| HeadKey::from_pem(&text))
    {
        Ok(key) => findings.good(about, format!("signs the audit's heads: Ed25519 {}", key.id())),
        Err(why) => findings.error(about, why),
    }
    for file in &config.audit.former_keys {
        let read = fs::read_to_string(file).map_err(|error| error.to_string());
        if let Err(why) = read.and_then(|text| PublicKey::from_pem(&text)) {
            findings.error(file.display().to_string(), why);
        }
    }
}

fn look(key: &KeySettings) -> Result<String, String> {
    match key {
        KeySettings::Pem { file } => {
            let text = fs::read_to_string(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let key = SigningKey::from_pem(&text)
                .map_err(|error| format!("cannot use {}: {error}", file.display()))?;
            Ok(format!("{} {} in {}", key.algorithm(), key.key_id(), file.display()))
        }
        KeySettings::Pkcs11 { module, token, key, pin_file, .. } => {
            exists(module, "the module")?;
            if let Some(file) = pin_file {
                exists(file, "the PIN's file")?;
            }
            Ok(format!("key {key:?} of token {token:?}; it is tried when the signer starts"))
        }
        KeySettings::SshAgent { socket, key } => {
            let socket = socket.clone().or_else(|| env::var_os("SSH_AUTH_SOCK").map(Into::into));
            let socket = socket.ok_or(
                "no ssh-agent: name its socket, or start the controller with SSH_AUTH_SOCK",
            )?;
            exists(&socket, "the ssh-agent's socket")?;
            Ok(format!("key {key:?} of the ssh-agent at {}", socket.display()))
        }
        KeySettings::Command { command, public_key, .. } => {
            let program = command.first().map_or("", String::as_str);
            let found = if program.contains('/') {
                is_program(Path::new(program))
            } else {
                let path = env::var_os("PATH").unwrap_or_default();
                env::split_paths(&path).any(|directory| is_program(&directory.join(program)))
            };
            if !found {
                return Err(format!("{program:?} is no program that can be run"));
            }
            if let Some(file) = public_key {
                exists(file, "its public key")?;
            }
            Ok(format!("the program {program:?}; it is tried when the signer starts"))
        }
    }
}

fn exists(file: &Path, what: &str) -> Result<(), String> {
    let metadata = fs::metadata(file);
    metadata.map(drop).map_err(|error| format!("{what} {}: {error}", file.display()))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
