//! The clouds that say who a machine is, and who issues certificates of hosts.

use crate::{config::Config, enrol::opened::Opened, health::Findings};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let mut about = |about: &str, opened: Result<String, String>| match opened {
        Ok(text) => findings.good(about, text),
        Err(why) => findings.error(about, why),
    };
    if let Some(authority) = &config.signer.authority {
        let name = format!("issues certificates of hosts in {}", authority.trust_domain);
        about("signer authority", authority.open().map(|_| name));
    }
    if config.enrolment.hub_ca.is_some() {
        let opened = Opened::open(&config.enrolment);
        about(
            "enrolment",
            opened.map(|_| format!("hosts dial {}", config.enrolment.hubs.join(", "))),
        );
    }
    if let Some(ec2) = &config.enrolment.ec2 {
        let opened = ec2.open().map(|open| {
            let regions: Vec<_> = open.certificates.into_keys().collect();
            format!("certificates of {}", regions.join(", "))
        });
        about("enrolment of EC2", opened);
    }
    if let Some(azure) = &config.enrolment.azure {
        let opened = azure.open().map(|open| format!("{} roots", open.roots.len()));
        about("enrolment of Azure", opened);
    }
}
