//! The four services: where each is, what it is asked, and what makes its answer its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Method;
use nix::unistd::User;

use super::{
    fault::Fault,
    http::{Answer, Asked, ask},
    id, port_owner,
};

/// The address of the clouds' services (RFC 3927: link-local), and its text.
pub(super) const LINK_LOCAL: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
pub(super) const LINK_LOCAL_HOST: &str = "169.254.169.254";
/// EC2's service over IPv6.
const EC2_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 80);
/// Azure Arc's service (HIMDS), and the user that it runs as.
pub(super) const ARC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_342);
pub(super) const ARC_HOST: &str = "127.0.0.1:40342";
const ARC_USER: &str = "himds";
/// Azure's services answer only with it, so that a request that was led there by somebody fails.
pub(super) const METADATA: (&str, &str) = ("Metadata", "true");
/// Likewise GCP's; it also sends it back.
pub(super) const GOOGLE: (&str, &str) = ("Metadata-Flavor", "Google");

pub(super) fn get<'a>(
    host: &'a str,
    path: &'a str,
    headers: &'a [(&'static str, &'a str)],
) -> Asked<'a> {
    Asked { method: Method::GET, host, path, headers }
}

/// Azure Arc. The port of loopback may be any local process's: only a socket of root or of the
/// service's own user counts.
pub(super) async fn arc() -> Result<String, Fault> {
    trusted_owner(None)?;
    let path = "/metadata/instance/compute?api-version=2020-06-01";
    let answer = ask(ARC, &get(ARC_HOST, path, &[METADATA])).await?;
    // The port may have changed hands meanwhile.
    trusted_owner(Some(answer.local))?;
    id::azure(&answer.good()?)
}

/// `peer`: this end of the connection; `None`: there is none yet.
pub(super) fn trusted_owner(peer: Option<SocketAddr>) -> Result<(), Fault> {
    let uids = port_owner::uids(ARC, peer)
        .map_err(|error| Fault::Untrusted(format!("the owner of {ARC} cannot be read: {error}")))?;
    if uids.is_empty() && peer.is_none() {
        return Err(Fault::Absent);
    }
    let service = User::from_name(ARC_USER).ok().flatten().map(|user| user.uid.as_raw());
    match uids.iter().find(|uid| **uid != 0 && Some(**uid) != service) {
        None => Ok(()),
        Some(uid) => Err(Fault::Untrusted(format!(
            "{ARC} belongs to uid {uid}, not to root or the user {ARC_USER}: it does not speak for \
             this machine"
        ))),
    }
}

/// An Azure VM. Where somebody put much user data into the whole answer, the one value is asked for.
pub(super) async fn azure() -> Result<String, Fault> {
    let value =
        async |path| ask(LINK_LOCAL, &get(LINK_LOCAL_HOST, path, &[METADATA])).await?.good();
    match value("/metadata/instance?api-version=2021-02-01").await {
        Err(Fault::TooLarge) => {
            let path = "/metadata/instance/compute/resourceId?api-version=2021-02-01&format=text";
            id::azure_text(&value(path).await?)
        }
        answer => id::azure_vm(&answer?),
    }
}

/// An EC2 instance, by IMDSv2: a token first. IPv6 where there is no way to 169.254/16.
pub(super) async fn ec2() -> Result<String, Fault> {
    match ec2_at(LINK_LOCAL, LINK_LOCAL_HOST).await {
        Err(Fault::NoRoute) => ec2_at(EC2_V6, "[fd00:ec2::254]").await,
        done => done,
    }
}

async fn ec2_at(to: SocketAddr, host: &str) -> Result<String, Fault> {
    let token = token(to, host).await?;
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let path = "/latest/dynamic/instance-identity/document";
    id::ec2(&ask(to, &get(host, path, &headers)).await?.good()?)
}

/// The token of IMDSv2.
pub(super) async fn token(to: SocketAddr, host: &str) -> Result<String, Fault> {
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let put = Asked { method: Method::PUT, host, path: "/latest/api/token", headers: &ttl };
    let token = ask(to, &put).await.map_err(|fault| match fault {
        // The answer has a TTL of one hop; the handshake has not.
        Fault::Slow => Fault::HopLimit,
        fault => fault,
    })?;
    let token = String::from_utf8(token.good()?).unwrap_or_default();
    let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.is_empty() || token.len() > 1_024 || !printable {
        return Err(Fault::Malformed("its token".into()));
    }
    Ok(token)
}

/// A GCP VM. `metadata.google.internal` is this address; the name is not looked up.
pub(super) async fn gcp() -> Result<String, Fault> {
    async fn value(path: &str) -> Result<Vec<u8>, Fault> {
        let asked = get("metadata.google.internal", path, &[GOOGLE]);
        let answer: Answer = ask(LINK_LOCAL, &asked).await?;
        let (name, value) = GOOGLE;
        let flavored = answer.headers.get(name).is_some_and(|own| own == value);
        let body = answer.good()?;
        if flavored {
            return Ok(body);
        }
        Err(Fault::Malformed(format!("no header {name}: {value}")))
    }
    let (project, zone, instance) = tokio::try_join!(
        value("/computeMetadata/v1/project/project-id"),
        value("/computeMetadata/v1/instance/zone"),
        value("/computeMetadata/v1/instance/id"),
    )?;
    id::gcp(&project, &zone, &instance)
}
