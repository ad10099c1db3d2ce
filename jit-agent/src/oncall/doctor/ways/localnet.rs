//! Interfaces that let packets for 127.0.0.0/8 in from outside: a service that listens on loopback
//! alone is then in reach.

use std::{fs, io, path::Path};

use crate::oncall::finding::Finding;

const CHECK: &str = "route-localnet";

/// The findings. `settings`: `/proc/sys/net/ipv4/conf`.
pub(super) fn findings(settings: &Path) -> Vec<Finding> {
    match localnet(settings) {
        Err(error) => {
            let path = settings.display();
            vec![Finding::unseen(CHECK, format!("cannot read {path}: {error}"))]
        }
        Ok(names) if names.is_empty() => {
            vec![Finding::ok(CHECK, "no interface lets packets for 127.0.0.0/8 in from outside")]
        }
        Ok(names) => names.iter().map(|name| localnet_finding(name)).collect(),
    }
}

fn localnet_finding(name: &str) -> Finding {
    let which = match name {
        "all" => "every interface lets",
        "default" => "each interface that is made from now on lets",
        _ => "the interface lets",
    };
    let seen = format!(
        "{which} packets for 127.0.0.0/8 in from outside: a service that listens on loopback alone \
         can be reached from the same network"
    );
    let setting = format!("net/ipv4/conf/{name}/route_localnet=0");
    Finding::warning(CHECK, seen)
        .about(name)
        .fix(format!("sysctl -w {setting}"))
        .fix(format!("echo '{setting}' > /etc/sysctl.d/60-jit-agent-{name}.conf"))
        .fix(
            "kube-proxy sets it for node ports on loopback: start it with \
             --iptables-localhost-nodeports=false",
        )
}

/// The interfaces for which it is set; `all` stands for each of them.
fn localnet(settings: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(settings)? {
        let entry = entry?;
        let setting = entry.path().join("route_localnet");
        let name = entry.file_name().to_string_lossy().into_owned();
        // An interface that is gone meanwhile lets nothing in. Loopback needs no setting.
        let value = fs::read_to_string(setting).unwrap_or_default();
        if name != "lo" && !matches!(value.trim(), "" | "0") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oncall::finding::Level;

    #[test]
    fn an_interface_that_routes_loopback_from_outside_is_named() {
        let settings = tempfile::tempdir().unwrap();
        for (name, value) in [("all", "0"), ("lo", "1"), ("eth0.7", "1"), ("eth1", "0")] {
            let directory = settings.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("route_localnet"), format!("{value}\n")).unwrap();
        }
        let found = findings(settings.path());
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.level, one.about.as_str()), (Level::Warning, "eth0.7"));
        assert_eq!(one.fix[0], "sysctl -w net/ipv4/conf/eth0.7/route_localnet=0");
        assert_eq!(findings(&settings.path().join("none"))[0].level, Level::Unseen);
    }
}
