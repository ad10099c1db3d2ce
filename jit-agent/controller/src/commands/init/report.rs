//! What `init` made, and what to do next.

use std::path::Path;

use jit_client::signing::SigningKey;
use serde::Serialize;

use super::{
    super::{
        Failure,
        output::{print, print_json},
    },
    args::InitArgs,
    keys::Keys,
};
use crate::{api::token::Secret, config::Config};

#[derive(Serialize)]
pub(super) struct Report {
    schema_version: u32,
    directory: String,
    database: String,
    url: String,
    ca: String,
    identity: String,
    signing_key: Key,
    revocation_key: Key,
    freshness_key: Key,
    audit_key: String,
    admin: String,
    /// Only if it is in no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<String>,
    /// Lines for the configuration of each host.
    host_config: String,
    /// Commands, in their order.
    next: Vec<String>,
}

#[derive(Serialize)]
struct Key {
    algorithm: &'static str,
    id: String,
    public_key: String,
}

impl From<&SigningKey> for Key {
    fn from(key: &SigningKey) -> Self {
        Self { algorithm: key.algorithm(), id: key.key_id(), public_key: key.public_pem() }
    }
}

impl Report {
    pub(super) fn new(
        directory: &Path,
        args: &InitArgs,
        config: &Config,
        keys: &Keys,
        secret: &Secret,
    ) -> Self {
        let [signing_key, revocation_key, freshness_key] = keys.signing().map(Key::from);
        let directory_text = std::path::absolute(directory)
            .unwrap_or_else(|_| directory.to_owned())
            .display()
            .to_string();
        let url = args.url();
        let ca = format!("{directory_text}/pki/ca.pem");
        let from =
            args.token_file.as_ref().map_or(String::new(), |file| format!(" < {}", file.display()));
        let next = vec![
            format!("jit-controller serve --dir {directory_text}"),
            format!("jitctl login --controller {url} --ca {ca}{from}"),
            format!("jit-controller accounts password {} --dir {directory_text}", args.admin),
            "jitctl hosts add web-1 --address web-1.example.org:7443".to_owned(),
        ];
        Self {
            schema_version: 1,
            database: config.store.to_string(),
            url,
            ca,
            identity: args.identity(),
            signing_key,
            revocation_key,
            freshness_key,
            audit_key: keys.audit.id(),
            admin: args.admin.clone(),
            token: args.token_file.is_none().then(|| secret.expose().to_owned()),
            token_file: args.token_file.as_ref().map(|file| file.display().to_string()),
            host_config: host_config(&args.identity()),
            next,
            directory: directory_text,
        }
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let Self { directory, database, identity, signing_key, admin, host_config, next, .. } =
            self;
        let Key { algorithm, id, .. } = signing_key;
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => format!("Token of {admin}; it is shown only now:\n\n    {token}\n"),
            (None, Some(file)) => format!("The token of {admin} is in {file}.\n"),
            (None, None) => String::new(),
        };
        let url = &self.url;
        let mut text = format!(
            "Made a controller in {directory}\n\
             \x20 database      {database}\n\
             \x20 signing key   {algorithm} {id}\n\
             \x20 revocations   {} {}\n\
             \x20 checkpoints   {} {}\n\
             \x20 identity      {identity}\n\
             \x20 rules         version 1, the defaults: `jitctl rules`\n\n\
             {token}\n\
             Next:\n",
            self.revocation_key.algorithm,
            self.revocation_key.id,
            self.freshness_key.algorithm,
            self.freshness_key.id,
        );
        for (number, command) in (1..).zip(next) {
            text.push_str(&format!("  {number}. {command}\n"));
        }
        text.push_str(&format!(
            "\nWith the password of 3. people sign in at {url}\n\
             \nOn each host, with {directory}/signer.pub.pem copied there:\n\n\
             \x20 jit-agent init --signer signer.pub.pem --controller {identity}\n\n\
             It makes the host's key and agent.csr. Here, then, its certificate; copy it there as \
             tls/agent.pem,\nand {directory}/pki/ca.pem as tls/ca.pem:\n\n\
             \x20 jitctl pki issue --dir {directory}/pki --name web-1 --csr agent.csr\n\n\
             By hand, these are the lines of /etc/jit-agent/config.toml. The last three sections are for \
             revocations\nand checkpoints: init does not write them. Copy {directory}/revocation.pub.pem and\n\
             freshness.pub.pem there as signers/revocation.pem and signers/freshness.pem:\n\n\
             {host_config}\n\
             Keep {directory}/pki/ca.key and the .key files beside it elsewhere too: \
             `jit-controller backup --with-keys`.\n"
        ));
        print(&text)
    }
}

/// The lines of a host's configuration that let this controller in.
fn host_config(identity: &str) -> String {
    let identity = toml::Value::String(identity.to_owned());
    format!(
        "[control]\n\
         listen = \"0.0.0.0:7443\"\n\
         certificate = \"tls/agent.pem\"\n\
         key = \"tls/agent.key\"\n\
         client_ca = \"tls/ca.pem\"\n\n\
         [[controller]]\n\
         identity = {identity}\n\
         may = [\"grant\", \"policy\", \"read\", \"revoke\"]\n\n\
         [[signer]]\n\
         id = \"controller\"\n\
         public_key = \"signers/controller.pem\"\n\
         signs = [\"grant\"]\n\n\
         [[signer]]\n\
         id = \"revocation\"\n\
         public_key = \"signers/revocation.pem\"\n\
         signs = [\"revocation\"]\n\n\
         [[signer]]\n\
         id = \"freshness\"\n\
         public_key = \"signers/freshness.pem\"\n\
         signs = [\"checkpoint\"]\n\n\
         [freshness]\n\
         on_stale = \"report\"\n"
    )
}
