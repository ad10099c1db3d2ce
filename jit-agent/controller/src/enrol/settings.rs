//! `[enrolment]` of the controller's configuration: which clouds are believed, and of whom. What is
//! not there is believed by nobody. A list that is empty would be everybody's: it is refused.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use jit_client::{
    files::read_text,
    pem::{Holds, certificates},
};
use jit_proto::wrong::Wrongs;
use reqwest::Url;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use super::attest::{azure::Azure, ec2::Ec2, jwt::Audience};
use crate::here::secure;

/// The most certificates of regions: EC2 has some forty.
const MOST_FILES: usize = 256;
/// Stands for a tenant in an address.
const TENANT: &str = "{tenant}";
/// Where Entra and Google publish their keys.
const ENTRA_KEYS: &str = "https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys";
const GOOGLE_KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";
/// The most hubs that a host is given.
const MOST_HUBS: usize = 16;

/// `[enrolment]` as it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    hubs: Vec<String>,
    hub_ca: Option<PathBuf>,
    ec2: Option<RawEc2>,
    azure: Option<RawAzure>,
    arc: Option<RawArc>,
    gcp: Option<RawGcp>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEc2 {
    certificates: PathBuf,
    accounts: BTreeSet<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAzure {
    roots: PathBuf,
    intermediates: Option<PathBuf>,
    subscriptions: BTreeSet<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArc {
    audience: String,
    tenants: BTreeSet<String>,
    keys: Option<String>,
    keys_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGcp {
    audience: String,
    projects: BTreeSet<String>,
    keys: Option<String>,
    keys_ca: Option<PathBuf>,
}

/// Which clouds are believed, and what a host is given with its certificate.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The hubs that hosts dial, `NAME:PORT`.
    pub hubs: Vec<String>,
    /// File with the authorities by which hosts know the controller, PEM; `None`: nobody enrols.
    pub hub_ca: Option<PathBuf>,
    /// EC2.
    pub ec2: Option<Ec2Settings>,
    /// Virtual machines of Azure.
    pub azure: Option<AzureSettings>,
    /// Machines of Azure Arc.
    pub arc: Option<ArcSettings>,
    /// Google Compute Engine.
    pub gcp: Option<GcpSettings>,
}

/// `[enrolment.ec2]`
#[derive(Clone, Debug)]
pub struct Ec2Settings {
    /// Directory with the certificates of regions, `REGION.pem` each.
    pub certificates: PathBuf,
    /// Accounts.
    pub accounts: BTreeSet<String>,
}

/// `[enrolment.azure]`
#[derive(Clone, Debug)]
pub struct AzureSettings {
    /// File with roots, PEM.
    pub roots: PathBuf,
    /// File with certificates between a signer's and a root, PEM.
    pub intermediates: Option<PathBuf>,
    /// Subscriptions, in small letters.
    pub subscriptions: BTreeSet<String>,
}

/// `[enrolment.arc]`
#[derive(Clone, Debug)]
pub struct ArcSettings {
    /// For whom tokens are.
    pub audience: Audience,
    /// Tenants, in small letters.
    pub tenants: BTreeSet<String>,
    /// Where a tenant's keys are.
    pub keys: KeysAt,
    /// File with authorities beside those of the system, PEM, for these keys.
    pub keys_ca: Option<PathBuf>,
}

/// `[enrolment.gcp]`
#[derive(Clone, Debug)]
pub struct GcpSettings {
    /// For whom tokens are.
    pub audience: Audience,
    /// Projects, by their ids.
    pub projects: BTreeSet<String>,
    /// Where Google's keys are.
    pub keys: KeysAt,
    /// File with authorities beside those of the system, PEM, for these keys.
    pub keys_ca: Option<PathBuf>,
}

/// Where an issuer publishes its keys: an address of https, in which `{tenant}` stands for the
/// tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysAt(String);

impl KeysAt {
    /// Checks one.
    ///
    /// # Errors
    /// Why, in words.
    pub fn new(text: &str, of_tenants: bool) -> Result<Self, String> {
        if text.contains(TENANT) != of_tenants {
            let must = if of_tenants { "lacks" } else { "has no use for" };
            return Err(format!("{text:?} {must} {TENANT}"));
        }
        let at = Self(text.to_owned());
        at.of("00000000-0000-0000-0000-000000000000").map(|_| at)
    }

    /// The address of this tenant's.
    ///
    /// # Errors
    /// It is none of https.
    pub fn of(&self, tenant: &str) -> Result<Url, String> {
        let url = secure(&self.0.replace(TENANT, tenant))?;
        match url.scheme() {
            "https" => Ok(url),
            _ => Err(format!("{url} does not begin with https://")),
        }
    }
}

impl RawSettings {
    /// The settings; paths are below `directory`. No file is opened.
    ///
    /// # Errors
    /// Every wrong value, by its path below the section.
    pub fn check(self, directory: &Path) -> Result<Settings, Wrongs> {
        let Self { hubs, hub_ca, ec2, azure, arc, gcp } = self;
        let mut wrongs = Wrongs::default();
        if hubs.len() > MOST_HUBS {
            wrongs.add("hubs", format!("hubs: {} of them; {MOST_HUBS} are possible", hubs.len()));
        }
        if let Some(bad) = hubs.iter().find(|hub| !is_hub(hub)) {
            wrongs
                .add("hubs", format!("hubs: {bad:?} is no NAME:PORT such as hub.example.org:7444"));
        }
        if hub_ca.is_none() && !hubs.is_empty() {
            wrongs.add("hubs", "hubs: hosts do not know them without `hub_ca`; name its file too");
        }
        let ec2 = ec2.map(|RawEc2 { certificates, accounts }| Ec2Settings {
            certificates: directory.join(certificates),
            accounts: list(&mut wrongs, "ec2.accounts", accounts, is_account),
        });
        let azure = azure.map(|RawAzure { roots, intermediates, subscriptions }| AzureSettings {
            roots: directory.join(roots),
            intermediates: intermediates.map(|file| directory.join(file)),
            subscriptions: list(&mut wrongs, "azure.subscriptions", folded(subscriptions), is_id),
        });
        let arc = arc.and_then(|RawArc { audience, tenants, keys, keys_ca }| {
            let tenants = list(&mut wrongs, "arc.tenants", folded(tenants), is_id);
            let audience = audience_of(&mut wrongs, "arc.audience", &audience);
            let keys = KeysAt::new(keys.as_deref().unwrap_or(ENTRA_KEYS), true);
            let keys = wrongs_of(&mut wrongs, "arc.keys", keys);
            let keys_ca = keys_ca.map(|file| directory.join(file));
            Some(ArcSettings { audience: audience?, tenants, keys: keys?, keys_ca })
        });
        let gcp = gcp.and_then(|RawGcp { audience, projects, keys, keys_ca }| {
            let projects = list(&mut wrongs, "gcp.projects", projects, is_project);
            let audience = audience_of(&mut wrongs, "gcp.audience", &audience);
            let keys = KeysAt::new(keys.as_deref().unwrap_or(GOOGLE_KEYS), false);
            let keys = wrongs_of(&mut wrongs, "gcp.keys", keys);
            let keys_ca = keys_ca.map(|file| directory.join(file));
            Some(GcpSettings { audience: audience?, projects, keys: keys?, keys_ca })
        });
        let hub_ca = hub_ca.map(|file| directory.join(file));
        wrongs.end(Settings { hubs, hub_ca, ec2, azure, arc, gcp })
    }
}

fn list(
    wrongs: &mut Wrongs,
    path: &str,
    all: BTreeSet<String>,
    is_good: fn(&str) -> bool,
) -> BTreeSet<String> {
    if all.is_empty() {
        wrongs.add(path, format!("{path}: it is empty; name those whose machines may enrol"));
    }
    if let Some(bad) = all.iter().find(|one| !is_good(one)) {
        wrongs.add(path, format!("{path}: {bad:?} has another form"));
    }
    all
}

fn audience_of(wrongs: &mut Wrongs, path: &str, text: &str) -> Option<Audience> {
    wrongs_of(wrongs, path, Audience::new(text))
}

fn wrongs_of<T>(wrongs: &mut Wrongs, path: &str, checked: Result<T, String>) -> Option<T> {
    checked.map_err(|why| wrongs.add(path, format!("{path}: {why}"))).ok()
}

fn folded(all: BTreeSet<String>) -> BTreeSet<String> {
    all.iter().map(|one| one.to_ascii_lowercase()).collect()
}

/// A name and a port, as an agent's `[uplink] hubs` takes them.
fn is_hub(text: &str) -> bool {
    let Some((name, port)) = text.rsplit_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let is_name = (1..=253).contains(&name.len()) && name.bytes().all(plain);
    is_name && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_id(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

fn is_project(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| plain(byte) || b"-:.".contains(&byte))
}

impl Ec2Settings {
    /// Reads the certificates.
    ///
    /// # Errors
    /// The file, and why it cannot be used.
    pub fn open(&self) -> Result<Ec2, String> {
        let directory = &self.certificates;
        let failed = |why: std::io::Error| format!("{}: {why}", directory.display());
        let mut ec2 = Ec2 { accounts: self.accounts.clone(), ..Ec2::default() };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let region = file.file_name().and_then(|name| name.to_str());
            let Some(region) = region.and_then(|name| name.strip_suffix(".pem")) else { continue };
            if ec2.certificates.len() == MOST_FILES {
                return Err(format!("{}: over {MOST_FILES} files", directory.display()));
            }
            let all = read(&file)?.into_iter().map(|one| one.to_vec()).collect();
            ec2.certificates.insert(region.to_owned(), all);
        }
        match ec2.certificates.is_empty() {
            true => Err(format!(
                "{}: no REGION.pem is in it; AWS lists the certificates of its regions (RSA-2048) in \
                 the EC2 user guide, \"AWS public certificates for instance identity document \
                 signatures\"",
                directory.display()
            )),
            false => Ok(ec2),
        }
    }
}

impl AzureSettings {
    /// Reads the certificates.
    ///
    /// # Errors
    /// The file, and why it cannot be used.
    pub fn open(&self) -> Result<Azure, String> {
        let roots = read(&self.roots)?;
        for root in &roots {
            webpki::anchor_from_trusted_cert(root)
                .map_err(|why| format!("{}: no root: {why:?}", self.roots.display()))?;
        }
        let intermediates = self.intermediates.as_deref().map(read).transpose()?;
        Ok(Azure {
            roots,
            intermediates: intermediates.unwrap_or_default(),
            subscriptions: self.subscriptions.clone(),
        })
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read_text(file, "certificates").map_err(|error| error.to_string())?;
    certificates(&text, Holds::One).map_err(|why| format!("{}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[ec2]
certificates = "ec2"
accounts = ["123456789012"]
[azure]
roots = "roots.pem"
subscriptions = ["8D10DA13-8125-4ba9-a717-bf7490507b3d"]
[arc]
audience = "api://jit-agent.example.org"
tenants = ["72f988bf-0000-0000-0000-2d7cd011db47"]
[gcp]
audience = "https://jit.example.org"
projects = ["prod-1"]
"#;

    fn check(text: &str) -> Result<Settings, Vec<String>> {
        let raw: RawSettings = toml::from_str(text).unwrap();
        raw.check(Path::new("/etc/c")).map_err(|all| all.into_iter().map(|one| one.path).collect())
    }

    #[test]
    fn each_cloud_is_believed_only_if_it_is_named() {
        let all = check(GOOD).unwrap();
        assert_eq!(all.ec2.unwrap().certificates, Path::new("/etc/c/ec2"));
        let azure = all.azure.unwrap();
        assert!(azure.subscriptions.contains("8d10da13-8125-4ba9-a717-bf7490507b3d"));
        assert_eq!(all.arc.unwrap().audience.text(), "api://jit-agent.example.org");
        assert!(all.gcp.unwrap().projects.contains("prod-1"));
        let tenant = "72f988bf-0000-0000-0000-2d7cd011db47";
        let keys = KeysAt::new(ENTRA_KEYS, true).unwrap().of(tenant).unwrap();
        assert!(keys.as_str().contains(&format!("/{tenant}/discovery/")), "{keys}");
        assert!(KeysAt::new(GOOGLE_KEYS, false).is_ok());
        let none = check("").unwrap();
        assert!(none.ec2.is_none() && none.azure.is_none());
        assert!(none.arc.is_none() && none.gcp.is_none());
        assert!(toml::from_str::<RawSettings>("[aws]\naccounts = []").is_err());
    }

    #[test]
    fn lists_of_everybody_and_audiences_of_clouds_are_refused_by_name() {
        let management = "https://management.azure.com/";
        for (from, to, path) in [
            ("[\"123456789012\"]", "[]", "ec2.accounts"),
            ("\"123456789012\"", "\"1234\"", "ec2.accounts"),
            ("8D10DA13-", "", "azure.subscriptions"),
            ("[\"8D10DA13-8125-4ba9-a717-bf7490507b3d\"]", "[]", "azure.subscriptions"),
            ("72f988bf-", "*-", "arc.tenants"),
            ("api://jit-agent.example.org", management, "arc.audience"),
            ("https://jit.example.org", management, "gcp.audience"),
            ("[\"prod-1\"]", "[]", "gcp.projects"),
            ("prod-1", "*", "gcp.projects"),
            ("[gcp]", "keys = 'https://x/keys'\n[gcp]", "arc.keys"),
            ("[gcp]", "keys = 'http://x/{tenant}'\n[gcp]", "arc.keys"),
            ("[gcp]", "keys = 'http://127.0.0.1/{tenant}'\n[gcp]", "arc.keys"),
            ("[gcp]", "[gcp]\nkeys = 'http://x/'", "gcp.keys"),
            ("[gcp]", "[gcp]\nkeys = 'https://x/{tenant}'", "gcp.keys"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            assert_eq!(check(&text).unwrap_err(), [path], "{to}");
        }
    }

    #[test]
    fn hubs_are_given_with_what_hosts_know_them_by() {
        let settings = check("hubs = ['hub.example.org:7444']\nhub_ca = 'ca.pem'").unwrap();
        assert_eq!(settings.hub_ca.as_deref(), Some(Path::new("/etc/c/ca.pem")));
        for bad in [
            "hubs = ['hub.example.org:7444']",
            "hubs = ['hub']\nhub_ca = 'ca.pem'",
            "hubs = ['a b:1']\nhub_ca = 'ca.pem'",
            "hubs = [':1']\nhub_ca = 'ca.pem'",
            "hubs = ['hub:0']\nhub_ca = 'ca.pem'",
        ] {
            assert_eq!(check(bad).unwrap_err(), ["hubs"], "{bad}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let ec2 = |name: &str| Ec2Settings { certificates: at(name), accounts: BTreeSet::new() };
        let azure = |name: &str| AzureSettings {
            roots: at(name),
            intermediates: None,
            subscriptions: BTreeSet::new(),
        };
        assert!(ec2("none").open().unwrap_err().contains("none"));
        fs::create_dir(at("ec2")).unwrap();
        fs::write(at("ec2/README"), "x").unwrap();
        assert!(ec2("ec2").open().unwrap_err().contains("user guide"));
        fs::write(at("ec2/eu-west-1.pem"), "x").unwrap();
        assert!(ec2("ec2").open().unwrap_err().contains("eu-west-1.pem"));
        let root = rcgen::generate_simple_self_signed(vec!["x.example.org".into()]).unwrap();
        fs::write(at("ec2/eu-west-1.pem"), root.cert.pem()).unwrap();
        let regions: Vec<_> = ec2("ec2").open().unwrap().certificates.into_keys().collect();
        assert_eq!(regions, ["eu-west-1"]);
        assert!(azure("none").open().is_err() && azure("ec2/README").open().is_err());
        assert_eq!(azure("ec2/eu-west-1.pem").open().unwrap().roots.len(), 1);
    }
}
