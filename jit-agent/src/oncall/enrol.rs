//! `jit-agent enrol`: makes a key and a request for its certificate on this host, proves to a
//! controller which host it is, and writes what `[uplink]` needs. The key never leaves the host.

mod https;

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;
use hyper::{Method, StatusCode};
use jit_client::{
    controller::types::{EnrolmentAnswer, EnrolmentInput, NonceView, Problem},
    exit::Exit,
    pem::{self, Holds},
};
use jit_proto::printable::{clean, clean_lines};
use rcgen::{KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};
use zeroize::Zeroizing;

use self::https::Controller;
use crate::{
    config::{Glimpse, Hub},
    control::tls,
    oncall::{
        failure::Failure,
        identity,
        init::{
            files::{Places, Readers},
            key,
        },
        output::{complain, print},
    },
    system::metadata::{Verdict, ask_all, evidence},
};

/// How long it waits before it asks again.
const AGAIN: Duration = Duration::from_secs(15);
/// The longest token, bytes.
const TOKEN: u64 = 256;
/// The longest sentence of a controller that is shown, characters.
const SHOWN: usize = 600;
/// Where systems keep the authorities that they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The command's options.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("proof").required(true)))]
pub struct EnrolArgs {
    /// The controller: https://NAME[:PORT].
    #[arg(long, value_name = "URL")]
    controller: String,
    /// File with the token that an administrator made (`jitctl enrolments token create`); `-` reads
    /// it from standard input.
    #[arg(long, value_name = "FILE", group = "proof")]
    token_file: Option<PathBuf>,
    /// Prove it by what this cloud has signed of the machine instead.
    #[arg(long, value_name = "CLOUD", group = "proof")]
    identity: Option<Cloud>,
    /// For whom the token of Azure Arc or Google is: `audience` of the controller's configuration,
    /// [enrolment.arc] or [enrolment.gcp].
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// The authority of the controller's own certificate, PEM [default: those of this system].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The host's id, for a token [default: [host] id of the configuration, or what the metadata
    /// services say].
    #[arg(long, value_name = "ID")]
    host_id: Option<String>,
    /// Do not wait for a person's decision: exit code 1, and the same command asks again later.
    #[arg(long)]
    no_wait: bool,
}

/// A cloud that signs which machine this is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cloud {
    Arc,
    Azure,
    Ec2,
    Gcp,
}

/// Enrols this host.
pub async fn run(config: &Path, args: &EnrolArgs) -> Result<ExitCode, Failure> {
    let ca = authorities(args.ca.as_deref())?;
    let controller = Controller::new(&args.controller, &ca);
    let controller = controller.map_err(|why| Failure::Usage(format!("--controller: {why}")))?;
    let token = args.token_file.as_deref().map(token).transpose()?;
    let mut input = EnrolmentInput::default();
    match (&token, args.identity) {
        (Some(token), _) => {
            "token".clone_into(&mut input.method);
            input.proof.clone_from(token);
            input.host = host(config, args.host_id.as_deref()).await?;
        }
        (None, Some(cloud)) => {
            if matches!(cloud, Cloud::Arc) {
                input.host = host(config, args.host_id.as_deref()).await?;
            }
            attest(&controller, cloud, args.audience.as_deref(), &mut input).await?;
        }
        (None, None) => return Err(Failure::Usage("add --token-file or --identity".into())),
    }
    let places = Places::new(config)?;
    places.prepare(true, false)?;
    let pending = places.beside_key("enrolling.key");
    let (pair, _) = key::at(&places, &pending)?;
    let (csr, digest) = request(&pair)?;
    input.csr = csr;
    let answer = match asked(&controller, &input, &digest, args.no_wait, &pending).await? {
        Some(answer) => answer,
        None => return Ok(Exit::Degraded.into()),
    };
    check(&answer, &pair, &input.host)?;
    let key = Zeroizing::new(fs::read(&pending)?);
    let ca = places.beside_key("hub-ca.pem");
    places.write(&places.key(), &key, Readers::Service)?;
    places.write(&places.certificate(), answer.certificate.as_bytes(), Readers::Service)?;
    places.write(&ca, answer.ca.as_bytes(), Readers::Service)?;
    fs::remove_file(&pending)?;
    print(&clean_lines(&advice(&answer, &places, &ca)))?;
    Ok(Exit::Success.into())
}

/// Asks until there is a certificate; `None`: a person decides, and nobody waits.
async fn asked(
    controller: &Controller,
    input: &EnrolmentInput,
    digest: &str,
    no_wait: bool,
    pending: &Path,
) -> Result<Option<EnrolmentAnswer>, Failure> {
    let mut said = String::new();
    loop {
        let body = Zeroizing::new(json_bytes(input)?);
        let path = "/api/v1/enrolments";
        let (status, body) =
            controller.call(Method::POST, path, body.to_vec()).await.map_err(unavailable)?;
        if status == StatusCode::CREATED {
            return answer(&body).map(Some);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE && !no_wait {
            let line = problem(status, &body);
            if line != said {
                complain(&line);
                said = line;
            }
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        if status != StatusCode::ACCEPTED {
            let problem = problem(status, &body);
            if problem.contains("a person has refused") {
                // The next request has another key, and so is another one.
                fs::remove_file(pending)?;
            }
            return Err(Failure::Refused(problem));
        }
        let waits: EnrolmentAnswer = answer(&body)?;
        let why = match waits.state.as_str() {
            "waiting" => "waits for a person: `jitctl enrolments accept`",
            _ => "waits for the signer of the controller",
        };
        let line = format!(
            "{} {why} {} (CSR {})",
            waits.host,
            waits.enrolment,
            digest.get(..16).unwrap_or_default()
        );
        if line != said {
            complain(&clean(&line, SHOWN));
            said = line;
        }
        if no_wait {
            return Ok(None);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What a cloud has signed.
async fn attest(
    controller: &Controller,
    cloud: Cloud,
    audience: Option<&str>,
    input: &mut EnrolmentInput,
) -> Result<(), Failure> {
    let audience = || {
        audience.ok_or_else(|| {
            let why = "add --audience, as the controller's configuration has it";
            Failure::Usage(why.to_owned())
        })
    };
    let fault = |why: crate::system::metadata::Fault| {
        unavailable(format!("the metadata service gives no proof: {why}"))
    };
    match cloud {
        Cloud::Arc => {
            "arc".clone_into(&mut input.method);
            input.proof = evidence::arc(audience()?).await.map_err(fault)?;
        }
        Cloud::Gcp => {
            "gcp".clone_into(&mut input.method);
            input.proof = evidence::gcp(audience()?).await.map_err(fault)?;
        }
        Cloud::Ec2 => {
            "ec2".clone_into(&mut input.method);
            input.proof = evidence::ec2().await.map_err(fault)?.rsa2048;
        }
        Cloud::Azure => {
            let path = "/api/v1/enrolments/nonce";
            let called = controller.call(Method::GET, path, Vec::new()).await;
            let (status, body) = called.map_err(unavailable)?;
            if status != StatusCode::OK {
                return Err(Failure::Refused(problem(status, &body)));
            }
            let nonce: NonceView = answer(&body)?;
            let signed = evidence::azure(|| nonce.nonce.clone()).await.map_err(fault)?;
            "azure".clone_into(&mut input.method);
            input.proof = signed.signature;
            input.nonce = signed.nonce;
        }
    }
    Ok(())
}

/// The host's id: as it was given, as the configuration has it, or as the services say.
async fn host(config: &Path, given: Option<&str>) -> Result<String, Failure> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let known = identity::known(&Glimpse::of(config), config);
    if !known.is_empty() {
        return Ok(known);
    }
    match Verdict::of(&ask_all().await) {
        Verdict::Found(found) => Ok(found.id),
        other => Err(Failure::Usage(format!("{}; add --host-id", identity::conclusion(&other)))),
    }
}

fn token(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(TOKEN).read_to_string(&mut text)?;
    } else {
        fs::File::open(file)?.take(TOKEN).read_to_string(&mut text)?;
    }
    Ok(text.trim().to_owned())
}

fn authorities(file: Option<&Path>) -> Result<String, Failure> {
    let found = file.map(Path::to_owned);
    let found = found.or_else(|| SYSTEM.into_iter().map(PathBuf::from).find(|one| one.is_file()));
    let file = found.ok_or_else(|| {
        Failure::Usage("this system has no file of authorities: name one with --ca".into())
    })?;
    fs::read_to_string(&file)
        .map_err(|error| Failure::Refused(format!("cannot read {}: {error}", file.display())))
}

/// The request for the certificate, PEM, and its hash, as the controller shows it.
fn request(pair: &KeyPair) -> Result<(String, String), Failure> {
    let failed = |why: String| Failure::Refused(format!("cannot make a request: {why}"));
    let made = tls::request(pair).map_err(|error| failed(error.to_string()))?;
    let (_, read) =
        X509CertificationRequest::from_der(&made).map_err(|error| failed(error.to_string()))?;
    let digest = hex::encode(Sha256::digest(read.certification_request_info.raw));
    Ok((jit_proto::pem::encode("CERTIFICATE REQUEST", &made).to_string(), digest))
}

/// Refuses an answer with which no uplink could be made.
fn check(answer: &EnrolmentAnswer, pair: &KeyPair, host: &str) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::Refused(format!("the controller's answer is wrong: {why}"));
    let chain = pem::certificates(&answer.certificate, Holds::One);
    let chain = chain.map_err(|error| wrong(&format!("its certificate: {error}")))?;
    let own = chain.first().and_then(|one| X509Certificate::from_der(one).ok());
    let (_, own) = own.ok_or_else(|| wrong("its certificate is none"))?;
    if own.public_key().raw != pair.subject_public_key_info() {
        return Err(wrong("its certificate is for another key"));
    }
    if !host.is_empty() && answer.host != host {
        return Err(wrong("its certificate is for another host"));
    }
    pem::certificates(&answer.ca, Holds::One)
        .map_err(|error| wrong(&format!("its CA: {error}")))?;
    match answer.hubs.iter().find_map(|hub| Hub::parse(hub).err()) {
        Some(why) => Err(wrong(&format!("a hub: {why}"))),
        None => Ok(()),
    }
}

fn advice(answer: &EnrolmentAnswer, places: &Places, ca: &Path) -> String {
    let text = |text: &str| toml::Value::from(text).to_string();
    let hubs: Vec<_> = answer.hubs.iter().map(|hub| text(hub)).collect();
    let path = |path: &Path| text(&path.to_string_lossy());
    format!(
        "This is {} now. Write into {}:\n\n[host]\nid = {}\n\n[uplink]\nhubs = [{}]\ncertificate = {}\n\
         key = {}\nca = {}\n\nThen: jit-agent check && systemctl reload jit-agent\n",
        answer.host,
        places.config.display(),
        text(&answer.host),
        hubs.join(", "),
        path(&places.certificate()),
        path(&places.key()),
        path(ca),
    )
}

fn json_bytes(input: &EnrolmentInput) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(input).map_err(|error| Failure::Refused(error.to_string()))
}

fn answer<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let read = serde_json::from_slice(body);
    read.map_err(|error| unavailable(format!("the controller's answer cannot be read: {error}")))
}

/// Why the controller refuses, in its words.
fn problem(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            clean(&format!("{}: {}; {}", problem.word, problem.detail, problem.next), SHOWN)
        }
        Err(_) => format!("the controller answers {status}"),
    }
}

fn unavailable(why: String) -> Failure {
    Failure::Undone { what: "enrol this host", error: clean(&why, SHOWN).into() }
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;

    use super::*;

    fn issued(pair: &KeyPair) -> EnrolmentAnswer {
        let own = CertificateParams::default().self_signed(pair).unwrap().pem();
        EnrolmentAnswer {
            host: "web-1".into(),
            certificate: own.clone(),
            ca: own,
            hubs: vec!["hub.example.org:7444".into()],
            ..EnrolmentAnswer::default()
        }
    }

    #[test]
    fn an_answer_for_another_key_or_host_is_refused() {
        let (pair, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = issued(&pair);
        check(&good, &pair, "web-1").unwrap();
        check(&good, &pair, "").unwrap();
        let refused = |answer: &EnrolmentAnswer, pair: &KeyPair, host: &str| {
            check(answer, pair, host).unwrap_err().to_string()
        };
        assert!(refused(&good, &other, "web-1").contains("another key"));
        assert!(refused(&good, &pair, "web-2").contains("another host"));
        let bad = EnrolmentAnswer { ca: String::new(), ..good.clone() };
        assert!(refused(&bad, &pair, "web-1").contains("its CA"));
        let bad = EnrolmentAnswer { hubs: vec!["hub".into()], ..good };
        assert!(refused(&bad, &pair, "web-1").contains("a hub"));
    }

    #[test]
    fn the_same_key_makes_the_same_request() {
        let pair = KeyPair::generate().unwrap();
        let (first, again) = (request(&pair).unwrap(), request(&pair).unwrap());
        assert_eq!(first.1, again.1);
        assert_ne!(request(&KeyPair::generate().unwrap()).unwrap().1, first.1);
    }

    #[test]
    fn what_the_controller_says_is_shown_without_its_control_letters() {
        let body = Problem {
            word: "enrolment_refused".into(),
            detail: "no\u{1b}[2J".into(),
            ..Problem::default()
        };
        let said = problem(StatusCode::FORBIDDEN, &serde_json::to_vec(&body).unwrap());
        assert!(said.starts_with("enrolment_refused: ") && !said.contains('\u{1b}'), "{said}");
        assert!(problem(StatusCode::BAD_GATEWAY, b"<html>").contains("502"));
    }
}
