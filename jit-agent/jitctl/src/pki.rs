//! `jitctl pki`: a development CA for TLS. It has no register of serial numbers, no revocation and
//! no renewal: production certificates come from the organisation's own CA.

use std::{
    fs::DirBuilder,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use jit_client::{
    HostUri,
    ca::{self, Authority, CaError, Names, Pair, Request},
    exit::Exit,
    files::read_text,
};

use crate::{
    failure::Failure,
    files::{self, PRIVATE, PUBLIC},
    text,
};

/// Arguments of `pki`.
#[derive(Args, Debug)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make the CA: DIR/ca.pem and DIR/ca.key
    Init(InitArgs),
    /// Issue a certificate for an agent or a controller: DIR/NAME.pem and DIR/NAME.key
    Issue(IssueArgs),
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Directory of the CA; created if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Common name of the CA
    #[arg(long, value_name = "CN", default_value = "jit-agent development CA")]
    name: String,
    /// How long the CA is valid
    #[arg(long = "for", value_name = "TIME", default_value = "1825d")]
    #[arg(value_parser = text::parse_duration)]
    lifetime: Duration,
}

#[derive(Args, Debug)]
struct IssueArgs {
    /// Directory of the CA
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Common name of the certificate, and name of its files
    #[arg(long, value_name = "NAME")]
    name: String,
    /// DNS name in the certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// IP address in the certificate; may be repeated
    #[arg(long, value_name = "ADDR")]
    ip: Vec<IpAddr>,
    /// URI in the certificate, such as a controller's identity; may be repeated
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// Id of the host in the inventory, for an agent that dials its hub; makes the URI
    /// spiffe://TRUST-DOMAIN/host/ID
    #[arg(long, value_name = "ID")]
    host_id: Option<String>,
    /// Trust domain of that URI
    #[arg(long, value_name = "NAME", default_value = "jit-agent", requires = "host_id")]
    trust_domain: String,
    /// Sign this request (`jit-agent init` writes one) in place of making a key. Its DNS names and
    /// addresses are taken unless --dns or --ip is given; a URI only from --uri
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// How long the certificate is valid
    #[arg(long = "for", value_name = "TIME", default_value = "90d")]
    #[arg(value_parser = text::parse_duration)]
    lifetime: Duration,
}

/// Runs the subcommand.
pub(crate) fn run(args: &PkiArgs) -> Result<Exit, Failure> {
    match &args.command {
        PkiCommand::Init(args) => init(args),
        PkiCommand::Issue(args) => issue(args),
    }
}

fn init(args: &InitArgs) -> Result<Exit, Failure> {
    let (cert, key) = paths(&args.dir, "ca");
    files::refuse_existing(&[&cert, &key])?;
    DirBuilder::new().recursive(true).mode(0o700).create(&args.dir).map_err(|error| {
        Failure::files(format!("cannot make the directory {}: {error}", args.dir.display()))
    })?;
    let made = Authority::create(&args.name, args.lifetime);
    let made = made.map_err(|error| cannot_make(&args.name, &error))?;
    write_pair(&made, &cert, &key)?;
    text::print(&format!(
        "development CA `{}`, valid for {}\n  certificate  {}\n  private key  {}\n\
         This is a development CA: its key is not encrypted, and it cannot revoke. In production\n\
         use certificates from your own CA: the agent's configuration names it.\n",
        text::printable(&args.name),
        text::duration(args.lifetime),
        cert.display(),
        key.display()
    ))?;
    Ok(Exit::Success)
}

fn issue(args: &IssueArgs) -> Result<Exit, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if args.name == "ca" || args.name.starts_with('.') || !args.name.chars().all(plain) {
        return Err(Failure::usage(format!(
            "--name `{}` cannot be a file name: use letters, digits, `-`, `_`, `.`, and not `ca`",
            args.name
        )));
    }
    let request = args.csr.as_deref().map(read_request).transpose()?;
    let mut names = Names { dns: args.dns.clone(), ip: args.ip.clone(), uri: args.uri.clone() };
    if let Some(host) = &args.host_id {
        let uri = HostUri::new(&args.trust_domain, host);
        let uri = uri.map_err(|error| Failure::usage(format!("--host-id: {error}")))?;
        names.uri.push(uri.to_string());
    }
    let failed = |error: CaError| cannot_make(&args.name, &error);
    ca::check_names(&names, request.as_ref()).map_err(failed)?;
    let (cert, key) = paths(&args.dir, &args.name);
    match request {
        None => files::refuse_existing(&[&cert, &key])?,
        Some(_) => files::refuse_existing(&[&cert])?,
    }
    let authority = load_ca(&args.dir)?;
    let lifetime = text::duration(args.lifetime);
    let head = format!(
        "certificate of the development CA, valid for {lifetime}\n  certificate  {}\n",
        cert.display()
    );
    if let Some(request) = request {
        let made = authority.sign(&request, &args.name, &names, args.lifetime).map_err(failed)?;
        files::write_new(&cert, made.as_bytes(), PUBLIC)?;
        text::print(&head)?;
        return Ok(Exit::Success);
    }
    let made = authority.issue(&args.name, &names, args.lifetime).map_err(failed)?;
    write_pair(&made, &cert, &key)?;
    text::print(&format!("{head}  private key  {}\n", key.display()))?;
    Ok(Exit::Success)
}

fn write_pair(pair: &Pair, cert: &Path, key: &Path) -> Result<(), Failure> {
    files::write_new(key, pair.key.as_bytes(), PRIVATE)?;
    files::write_new(cert, pair.certificate.as_bytes(), PUBLIC)
}

/// Reads a request for a certificate. Its signature shows that the host has the key (RFC 2986).
fn read_request(path: &Path) -> Result<Request, Failure> {
    let text = read_text(path, "the request for a certificate")?;
    Request::from_pem(&text).map_err(|error| {
        Failure::files(format!(
            "cannot use the request for a certificate {}: {error}",
            path.display()
        ))
    })
}

fn load_ca(dir: &Path) -> Result<Authority, Failure> {
    let (cert, key) = paths(dir, "ca");
    let cert_pem = read_text(&cert, "the CA's certificate").map_err(|failure| {
        Failure::files(format!(
            "{failure}; make a CA first: jitctl pki init --dir {}",
            dir.display()
        ))
    })?;
    let key_pem = read_text(&key, "the CA's private key")?;
    files::warn_if_exposed(&key, "the CA's private key");
    Authority::from_pem(&cert_pem, &key_pem).map_err(|error| {
        let (what, path) = match error {
            CaError::Key(_) => ("private key", &key),
            _ => ("certificate", &cert),
        };
        Failure::files(format!("cannot use the CA's {what} {}: {error}", path.display()))
    })
}

fn cannot_make(name: &str, error: &CaError) -> Failure {
    match error {
        CaError::NewKey(_) => Failure::unavailable(error.to_string()),
        CaError::Dns(_) => Failure::usage("--dns expects a DNS name in ASCII"),
        CaError::Uri(_) => {
            Failure::usage("--uri expects a URI such as spiffe://example.org/jit-controller")
        }
        CaError::Unnamed => Failure::usage(
            "the certificate needs a name: add --dns or --ip for an agent (what controllers \
             connect to) or --host-id (what its hub knows it by), --uri for a controller (its identity in the agents' configuration)",
        ),
        CaError::Made(why) => Failure::usage(format!(
            "cannot make a certificate for `{}`: {why}",
            text::printable(name)
        )),
        CaError::Certificate(_) | CaError::Key(_) | CaError::Request(_) => {
            Failure::files(error.to_string())
        }
    }
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use jit_proto::pem;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

    use super::*;

    fn init_args(dir: &Path) -> InitArgs {
        let lifetime = Duration::from_secs(86_400);
        InitArgs { dir: dir.to_owned(), name: "test CA".into(), lifetime }
    }

    fn issue_args(dir: &Path, name: &str) -> IssueArgs {
        IssueArgs {
            dir: dir.to_owned(),
            name: name.into(),
            dns: vec!["web-1.example.org".into()],
            ip: vec!["192.0.2.10".parse().unwrap()],
            uri: vec!["spiffe://example.org/web-1".into()],
            host_id: Some("web/1".into()),
            trust_domain: "example.org".into(),
            csr: None,
            lifetime: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_request_gets_its_names_but_no_identity_and_no_key() {
        let dir = tempfile::tempdir().unwrap();
        init(&init_args(dir.path())).unwrap();
        let mut asked = CertificateParams::default();
        asked.subject_alt_names = vec![
            SanType::DnsName("web-2.example.org".try_into().unwrap()),
            SanType::URI("spiffe://example.org/jit-controller".try_into().unwrap()),
        ];
        let pair = KeyPair::generate().unwrap();
        let request = asked.serialize_request(&pair).unwrap();
        let file = dir.path().join("agent.csr");
        std::fs::write(&file, request.pem().unwrap()).unwrap();
        let mut args = issue_args(dir.path(), "web-2");
        (args.dns, args.ip, args.uri, args.host_id) = (vec![], vec![], vec![], None);
        args.csr = Some(file.clone());
        issue(&args).unwrap();
        assert!(!dir.path().join("web-2.key").exists());
        let leaf = der(&dir.path().join("web-2.pem"));
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&leaf).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[..], [GeneralName::DNSName("web-2.example.org")]);
        let key = rcgen::PublicKeyData::subject_public_key_info(&pair);
        assert_eq!(leaf.public_key().raw, key);
        // Another key's signature.
        let text = std::fs::read_to_string(&file).unwrap();
        let request = pem::one(&text, &["CERTIFICATE REQUEST"]).unwrap();
        let mut bytes = request.der.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, pem::encode("CERTIFICATE REQUEST", &bytes).as_bytes()).unwrap();
        args.name = "web-3".into();
        assert_eq!(issue(&args).unwrap_err().exit, Exit::Configuration);
    }

    fn der(path: &Path) -> Vec<u8> {
        let pem = std::fs::read(path).unwrap();
        x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents
    }

    #[test]
    fn an_issued_certificate_bears_its_names_and_comes_from_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        init(&init_args(dir.path())).unwrap();
        issue(&issue_args(dir.path(), "agent")).unwrap();
        let (ca, leaf) = (der(&dir.path().join("ca.pem")), der(&dir.path().join("agent.pem")));
        let (_, ca) = x509_parser::certificate::X509Certificate::from_der(&ca).unwrap();
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&leaf).unwrap();
        assert!(ca.is_ca() && !leaf.is_ca());
        assert_eq!(leaf.issuer(), ca.subject());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth);
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(names.contains(&GeneralName::DNSName("web-1.example.org")));
        assert!(names.contains(&GeneralName::URI("spiffe://example.org/web-1")));
        assert!(names.contains(&GeneralName::URI("spiffe://example.org/host/web%2F1")));
        assert!(names.contains(&GeneralName::IPAddress(&[192, 0, 2, 10])));
        let validity = leaf.validity();
        let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(seconds, 3600 + 300);
        let mode = dir.path().join("agent.key").metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn keys_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        init(&init_args(dir.path())).unwrap();
        assert_eq!(init(&init_args(dir.path())).unwrap_err().exit, Exit::Configuration);
        issue(&issue_args(dir.path(), "agent")).unwrap();
        assert_eq!(issue(&issue_args(dir.path(), "agent")).unwrap_err().exit, Exit::Configuration);
    }

    #[test]
    fn a_certificate_without_a_name_or_with_a_path_for_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        init(&init_args(dir.path())).unwrap();
        for name in ["ca", "../x", "a/b", ".hidden"] {
            let failure = issue(&issue_args(dir.path(), name)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{name}");
        }
        let mut args = issue_args(dir.path(), "bare");
        (args.dns, args.ip, args.uri, args.host_id) = (vec![], vec![], vec![], None);
        assert_eq!(issue(&args).unwrap_err().exit, Exit::Usage);
        args.uri = vec!["no-scheme".into()];
        assert_eq!(issue(&args).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_missing_ca_says_how_to_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let failure = issue(&issue_args(dir.path(), "agent")).unwrap_err();
        assert_eq!(failure.exit, Exit::Configuration);
        assert!(failure.to_string().contains("pki init"), "{failure}");
    }
}
