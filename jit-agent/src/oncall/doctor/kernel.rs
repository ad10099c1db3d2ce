//! What the kernel must offer: a BPF file system, programs, links, the destruction of sockets.

use std::{fs, io};

use super::{finding::Finding, host::Host};
use crate::{
    kernel::{
        datapath::{DatapathError, features::Features},
        netlink::sock_diag::{DiagError, SockDiag},
    },
    system::sys,
};

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const COMPILER: &str = "/proc/sys/net/core/bpf_jit_enable";
const SECURITY: &str = "/sys/kernel/security";
/// The first release with XDP links, and the first one that is tried (docs/testing.md).
const NEEDED: (u32, u32) = (5, 9);
const TRIED: (u32, u32) = (5, 10);

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let features = host.lacks.is_empty().then(Features::read);
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    let guard = host.config.as_ref().map_or(true, |config| config.gate.socket_guard);
    let compiles = features.as_ref().and_then(|read| read.as_ref().ok()).map(|one| one.compiles);
    vec![
        bpffs(host),
        kernel(release.trim(), features.as_ref(), guard),
        compiler(compiles, fs::read_to_string(COMPILER).ok().as_deref()),
        lockdown(fs::read_to_string(format!("{SECURITY}/lockdown")), is_mounted(SECURITY)),
        sock_destroy(host),
    ]
}

fn bpffs(host: &Host) -> Finding {
    let pins = &host.glimpse.paths.pins;
    if pins.ancestors().any(sys::is_bpffs) {
        return Finding::ok("bpffs", format!("{} is on a BPF file system", pins.display()));
    }
    let seen = format!("{} is not on a BPF file system: nothing stays in force", pins.display());
    Finding::failure("bpffs", seen).fix("mount -t bpf bpf /sys/fs/bpf")
}

/// Major and minor number of a release: "6.1.0-32-amd64".
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Judges the kernel by its release, and by what was tried if it could be.
fn kernel(release: &str, features: Option<&io::Result<Features>>, guard: bool) -> Finding {
    let linux = format!("Linux {release}");
    let update = "update the kernel to Linux 5.10 or newer";
    let old = |seen: String| Finding::failure("kernel", seen).fix(update);
    match (features, version(release)) {
        (Some(Err(error)), _) => {
            let seen = format!(
                "{linux} loads no BPF program: {error}; another security module or a filter of \
                 system calls may forbid it"
            );
            let fix = "look into `dmesg` and at `systemctl show jit-agent -p SystemCallFilter`";
            Finding::failure("kernel", seen).fix(fix)
        }
        (Some(Ok(Features { xdp_links: false, .. })), _) => {
            old(format!("{linux}: {}", DatapathError::NoXdpLinks))
        }
        (Some(Ok(Features { socket_guards: false, .. })), _) if guard => {
            let seen = format!("{linux} has no socket guards (sk_lookup, Linux 5.9)");
            Finding::warning("kernel", seen).fix(update)
        }
        (None, Some(version)) if version < NEEDED => {
            old(format!("{linux}: {}", DatapathError::NoXdpLinks))
        }
        (_, Some(version)) if version < TRIED => {
            let seen = format!("{linux} is older than every kernel that the gate was tried on");
            Finding::warning("kernel", seen).fix(update)
        }
        (Some(Ok(_)), _) => {
            Finding::ok("kernel", format!("{linux} takes BPF programs and XDP links"))
        }
        (None, Some(_)) => Finding::ok("kernel", linux),
        (None, None) => Finding::unseen("kernel", format!("{RELEASE} is not understood")),
    }
}

/// `compiles`: as tried; `setting`: what the sysctl says. Only root may read either.
fn compiler(compiles: Option<bool>, setting: Option<&str>) -> Finding {
    let setting = setting.map(|text| text.trim() != "0");
    match compiles.or(setting) {
        Some(true) => Finding::ok("bpf-jit", "the kernel compiles BPF programs"),
        Some(false) => {
            let seen =
                "the kernel interprets BPF programs: each packet takes several times as long";
            Finding::warning("bpf-jit", seen)
                .fix("sysctl -w net.core.bpf_jit_enable=1")
                .fix("after that `systemctl restart jit-agent`: programs that are loaded stay as they are")
        }
        None => Finding::unseen("bpf-jit", "only root can read net.core.bpf_jit_enable"),
    }
}

/// `text`: what the file says, as in `none [integrity] confidentiality`; `mounted`: securityfs is.
fn lockdown(text: io::Result<String>, mounted: bool) -> Finding {
    let chosen = |text: &str| {
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(mode, _)| mode.to_owned())
    };
    match text {
        Ok(text) => match chosen(&text).as_deref() {
            Some("confidentiality") => {
                let seen = "lockdown is `confidentiality`: the kernel refuses what reads its memory \
                            by BPF. The gate does not, but it was never tried so";
                Finding::warning("lockdown", seen).fix(
                    "boot with `lockdown=integrity`, or try the gate on a machine like this one",
                )
            }
            Some(mode) => Finding::ok("lockdown", format!("lockdown is `{mode}`")),
            None => Finding::unseen("lockdown", format!("{SECURITY}/lockdown is not understood")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && mounted => {
            Finding::ok("lockdown", "this kernel has no lockdown")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seen = format!("securityfs is not mounted on {SECURITY}");
            Finding::unseen("lockdown", seen)
        }
        Err(error) => {
            Finding::unseen("lockdown", format!("cannot read {SECURITY}/lockdown: {error}"))
        }
    }
}

/// Whether something is mounted on a directory: securityfs has entries of its own.
fn is_mounted(directory: &str) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

fn sock_destroy(host: &Host) -> Finding {
    const NAME: &str = "sock-destroy";
    if host.lacks.contains(&"CAP_NET_ADMIN") {
        return Finding::unseen(NAME, "only root can try whether the kernel destroys sockets");
    }
    match SockDiag::open().and_then(|mut diag| diag.probe()) {
        Ok(()) => Finding::ok(NAME, "the kernel destroys sockets of sessions that are cut"),
        Err(error @ DiagError::NoDestroy) => Finding::warning(NAME, error.to_string())
            .fix("take a kernel with CONFIG_INET_DIAG_DESTROY, or `sessions = \"drain\"`"),
        Err(error) => {
            Finding::warning(NAME, error.to_string()).fix("modprobe inet_diag tcp_diag udp_diag")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    const ALL: Features = Features { xdp_links: true, compiles: true, socket_guards: true };

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.9-rc1", Some((5, 9))),
            ("5.10.0", Some((5, 10))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn what_was_tried_counts_more_than_the_release() {
        let level = |release: &str, features: Option<Features>| {
            kernel(release, features.map(Ok).as_ref(), true).level
        };
        let links = |xdp_links| Features { xdp_links, ..ALL };
        assert_eq!(level("6.1.0", Some(ALL)), Level::Ok);
        assert_eq!(level("6.1.0", Some(links(false))), Level::Failure);
        assert_eq!(level("6.1.0", None), Level::Ok);
        assert_eq!(level("5.4.0", None), Level::Failure);
        // A distribution may have brought links to an older release.
        assert_eq!(level("4.18.0-553.el8", Some(ALL)), Level::Warning);
        assert_eq!(level("5.9.1", None), Level::Warning);
        assert_eq!(level("odd", None), Level::Unseen);
        let without = Features { socket_guards: false, ..ALL };
        assert_eq!(level("6.1.0", Some(without)), Level::Warning);
        assert_eq!(kernel("6.1.0", Some(&Ok(without)), false).level, Level::Ok);
        let refused = Err(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(kernel("6.1.0", Some(&refused), true).level, Level::Failure);
    }

    #[test]
    fn a_kernel_that_interprets_is_a_warning_with_the_sysctl() {
        let slow = compiler(Some(false), None);
        assert_eq!((slow.level, slow.fix.len()), (Level::Warning, 2));
        assert!(slow.fix[0].contains("bpf_jit_enable=1"));
        assert_eq!(compiler(None, Some("0\n")).level, Level::Warning);
        assert_eq!(compiler(Some(true), Some("0\n")).level, Level::Ok);
        assert_eq!(compiler(None, Some("1\n")).level, Level::Ok);
        assert_eq!(compiler(None, None).level, Level::Unseen);
    }

    #[test]
    fn lockdown_is_read_as_the_kernel_writes_it() {
        let level = |text: &str| lockdown(Ok(text.into()), true).level;
        assert_eq!(level("[none] integrity confidentiality\n"), Level::Ok);
        assert_eq!(level("none [integrity] confidentiality\n"), Level::Ok);
        assert_eq!(level("none integrity [confidentiality]\n"), Level::Warning);
        assert_eq!(level("what"), Level::Unseen);
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(lockdown(missing(), true).level, Level::Ok);
        assert_eq!(lockdown(missing(), false).level, Level::Unseen);
        assert_eq!(
            lockdown(Err(io::ErrorKind::PermissionDenied.into()), true).level,
            Level::Unseen
        );
    }
}
