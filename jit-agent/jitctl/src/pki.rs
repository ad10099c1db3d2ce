//! `jitctl pki`: a development CA for TLS. It has no register of serial numbers, no revocation and
//! no renewal: production certificates come from the organisation's own CA.

use std::{
    fs::DirBuilder,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use jit_client::{exit::Exit, files::read_text};
use jit_proto::pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

use crate::{
    failure::Failure,
    files::{self, PRIVATE, PUBLIC},
    text,
};

/// How long before now certificates become valid, for hosts with a slow clock.
const BACKDATE: Duration = Duration::from_secs(300);
/// Last second that an X.509 date has room for (RFC 5280 section 4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

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
    let mut params = params(&args.name, SystemTime::now(), args.lifetime);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = generate()?;
    let made = params.self_signed(&pair).map_err(|error| cannot_make(&args.name, &error))?;
    files::write_new(&key, pair.serialize_pem().as_bytes(), PRIVATE)?;
    files::write_new(&cert, made.pem().as_bytes(), PUBLIC)?;
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
    let names = subject_alt_names(args, request.as_ref())?;
    let (cert, key) = paths(&args.dir, &args.name);
    match request {
        None => files::refuse_existing(&[&cert, &key])?,
        Some(_) => files::refuse_existing(&[&cert])?,
    }
    let issuer = load_ca(&args.dir)?;

    let mut params = params(&args.name, SystemTime::now(), args.lifetime);
    params.subject_alt_names = names;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let lifetime = text::duration(args.lifetime);
    let head = format!(
        "certificate of the development CA, valid for {lifetime}\n  certificate  {}\n",
        cert.display()
    );
    if let Some(request) = request {
        let made = params.signed_by(&request.public_key, &issuer);
        let made = made.map_err(|error| cannot_make(&args.name, &error))?;
        files::write_new(&cert, made.pem().as_bytes(), PUBLIC)?;
        text::print(&head)?;
        return Ok(Exit::Success);
    }
    let pair = generate()?;
    let made = params.signed_by(&pair, &issuer).map_err(|error| cannot_make(&args.name, &error))?;
    files::write_new(&key, pair.serialize_pem().as_bytes(), PRIVATE)?;
    files::write_new(&cert, made.pem().as_bytes(), PUBLIC)?;
    text::print(&format!("{head}  private key  {}\n", key.display()))?;
    Ok(Exit::Success)
}

/// Reads a request for a certificate. Its signature shows that the host has the key (RFC 2986).
fn read_request(path: &Path) -> Result<CertificateSigningRequestParams, Failure> {
    let text = read_text(path, "the request for a certificate")?;
    let unusable = |why: String| {
        Failure::files(format!(
            "cannot use the request for a certificate {}: {why}",
            path.display()
        ))
    };
    pem::one(&text, &["CERTIFICATE REQUEST"]).map_err(|error| unusable(error.to_string()))?;
    CertificateSigningRequestParams::from_pem(&text).map_err(|error| unusable(error.to_string()))
}

/// The names of the options. A request adds the DNS names and addresses that no option says: a URI is
/// a controller's identity, which a host must not ask for.
fn subject_alt_names(
    args: &IssueArgs,
    request: Option<&CertificateSigningRequestParams>,
) -> Result<Vec<SanType>, Failure> {
    let asked = request.filter(|_| args.dns.is_empty() && args.ip.is_empty());
    let asked = asked.into_iter().flat_map(|request| &request.params.subject_alt_names);
    let asked = asked.filter(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)));
    let dns = args.dns.iter().map(|name| {
        let name = name.as_str().try_into();
        name.map(SanType::DnsName).map_err(|_| ("--dns", "a DNS name in ASCII"))
    });
    let uri = args.uri.iter().map(|uri| {
        let scheme = uri.split_once(':').is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !rest.is_empty()
        });
        let uri = uri.as_str().try_into().ok().filter(|_| scheme);
        uri.map(SanType::URI).ok_or(("--uri", "a URI such as spiffe://example.org/jit-controller"))
    });
    let ip = args.ip.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
    let names = dns
        .chain(uri)
        .chain(ip)
        .chain(asked.cloned().map(Ok))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|(option, expected)| Failure::usage(format!("{option} expects {expected}")))?;
    if names.is_empty() {
        return Err(Failure::usage(
            "the certificate needs a name: add --dns or --ip for an agent (what controllers \
             connect to), --uri for a controller (its identity in the agents' configuration)",
        ));
    }
    Ok(names)
}

fn load_ca(dir: &Path) -> Result<Issuer<'static, KeyPair>, Failure> {
    let (cert, key) = paths(dir, "ca");
    let cert_pem = read_text(&cert, "the CA's certificate").map_err(|failure| {
        Failure::files(format!(
            "{failure}; make a CA first: jitctl pki init --dir {}",
            dir.display()
        ))
    })?;
    let key_pem = read_text(&key, "the CA's private key")?;
    files::warn_if_exposed(&key, "the CA's private key");
    let unusable = |what: &str, path: &Path, why: String| {
        Failure::files(format!("cannot use the CA's {what} {}: {why}", path.display()))
    };
    // `rcgen` would take the first document and leave the rest.
    pem::one(&cert_pem, &["CERTIFICATE"])
        .map_err(|error| unusable("certificate", &cert, error.to_string()))?;
    pem::one(&key_pem, &["PRIVATE KEY"])
        .map_err(|error| unusable("private key", &key, error.to_string()))?;
    let pair = KeyPair::from_pem(&key_pem)
        .map_err(|error| unusable("private key", &key, error.to_string()))?;
    Issuer::from_ca_cert_pem(&cert_pem, pair)
        .map_err(|error| unusable("certificate", &cert, error.to_string()))
}

fn params(name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = |since_epoch: Duration| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs().min(LAST_SECOND))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(now.saturating_sub(BACKDATE));
    params.not_after = at(now.saturating_add(lifetime));
    params
}

fn generate() -> Result<KeyPair, Failure> {
    KeyPair::generate()
        .map_err(|error| Failure::unavailable(format!("cannot make a private key: {error}")))
}

fn cannot_make(name: &str, error: &rcgen::Error) -> Failure {
    Failure::usage(format!("cannot make a certificate for `{}`: {error}", text::printable(name)))
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

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
        (args.dns, args.ip, args.uri) = (vec![], vec![], vec![]);
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
        (args.dns, args.ip, args.uri) = (vec![], vec![], vec![]);
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
