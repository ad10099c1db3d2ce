//! The hooks that are tried on an interface, best first, and the text about hooks that do not work.
//!
//! Native XDP is first: it drops in the driver. TC comes before generic XDP, which copies every
//! packet that is not in one piece. Where frames have no Ethernet header there is no XDP.

use std::io;

use jit_proto::Hook;

use crate::{
    config::HookChoice,
    kernel::datapath::rtnetlink::{Device, Header, Unfit},
};

/// The hooks to try, best first; empty when no program reads the frames of such an interface.
pub const fn rungs(choice: HookChoice, device: &Device) -> &'static [Hook] {
    match (device.header, choice) {
        (Header::Unknown(_), _) => &[],
        (Header::Ethernet, HookChoice::Auto) if device.unfit.is_some() => {
            &[Hook::Tcx, Hook::Clsact, Hook::XdpGeneric]
        }
        (Header::Ethernet, HookChoice::Auto) => {
            &[Hook::XdpNative, Hook::Tcx, Hook::Clsact, Hook::XdpGeneric]
        }
        (Header::Ethernet, HookChoice::Native) => &[Hook::XdpNative],
        (Header::Ethernet, HookChoice::Generic) => &[Hook::XdpGeneric],
        (_, HookChoice::Clsact) => &[Hook::Clsact],
        (Header::Ethernet, HookChoice::Tc) | (Header::None, _) => &[Hook::Tcx, Hook::Clsact],
    }
}

/// The hooks to try where this one is in force already. `tried_better`: all that is better was
/// tried.
pub fn candidates(
    rungs: &'static [Hook],
    current: Option<Hook>,
    tried_better: bool,
) -> &'static [Hook] {
    match current {
        Some(_) if tried_better => &[],
        Some(hook) => better(rungs, hook),
        None => rungs,
    }
}

/// The hooks better than one that is in force, or all when it is not among them.
fn better(rungs: &'static [Hook], than: Hook) -> &'static [Hook] {
    let place = rungs.iter().position(|hook| *hook == than).unwrap_or(rungs.len());
    rungs.get(..place).unwrap_or_default()
}

/// Why fewer hooks are tried on this interface than on others.
pub fn left_out(choice: HookChoice, device: &Device) -> Option<String> {
    match device.header {
        Header::Ethernet if matches!(choice, HookChoice::Auto) => device.unfit.map(|why| {
            match why {
                Unfit::Bond => {
                    "native XDP on a bond would keep interfaces with XDP of their own out of it"
                }
                Unfit::HyperV => {
                    "hv_netvsc hands native XDP to a virtual function, which may not run it"
                }
            }
            .into()
        }),
        Header::Ethernet | Header::None => None,
        Header::Unknown(kind) => Some(format!(
            "its frames (ARPHRD {kind}) begin with a header that the gate does not read: exclude it \
             if it carries no IP"
        )),
    }
}

/// Whether two hooks cannot be on an interface at once.
pub const fn exclude(one: Hook, other: Hook) -> bool {
    matches!(
        (one, other),
        (Hook::XdpNative, Hook::XdpGeneric) | (Hook::XdpGeneric, Hook::XdpNative)
    )
}

/// Why a program is not in the kernel, without the verifier's log (`RUST_LOG=debug` shows it).
pub fn unloaded(error: &str) -> String {
    tracing::debug!("a program is refused: {error}");
    let cause = error.split("Verifier output").next().unwrap_or_default();
    format!("the kernel refuses the program: {}", cause.trim_end_matches(['.', ' ', ':']))
}

/// Why the kernel did not take a program by a hook.
pub fn refused(hook: Hook, device: &Device, error: &io::Error) -> String {
    let name = hook.name();
    let there = match hook {
        Hook::XdpNative | Hook::XdpGeneric => device.native.or(device.generic),
        Hook::Tcx | Hook::Clsact => None,
    };
    match (error.raw_os_error(), there) {
        (Some(libc::EBUSY | libc::EEXIST), Some(program)) => {
            format!("{name}: another XDP program (id {program}) is there and stays")
        }
        (Some(libc::EINVAL), _) if hook == Hook::Tcx => {
            format!("{name}: this kernel has none (Linux 6.6)")
        }
        (Some(libc::EOPNOTSUPP), _) if hook == Hook::XdpNative => {
            format!("{name}: the driver has none")
        }
        _ if hook == Hook::XdpNative => format!("{name} refused at MTU {}: {error}", device.mtu),
        _ => format!("{name} refused: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICES: [HookChoice; 5] = [
        HookChoice::Auto,
        HookChoice::Clsact,
        HookChoice::Generic,
        HookChoice::Native,
        HookChoice::Tc,
    ];

    fn device(header: Header) -> Device {
        let mtu = 9_001;
        Device { header, mtu, native: Some(7), ..Device::example("eth0", 2) }
    }

    #[test]
    fn every_choice_has_a_hook_and_xdp_needs_an_ethernet_header() {
        for choice in CHOICES {
            assert!(!rungs(choice, &device(Header::Ethernet)).is_empty());
            let bare = rungs(choice, &device(Header::None));
            assert!(!bare.is_empty());
            assert!(bare.iter().all(|hook| matches!(hook, Hook::Tcx | Hook::Clsact)));
            let unknown = device(Header::Unknown(280));
            assert!(rungs(choice, &unknown).is_empty());
            assert!(left_out(choice, &unknown).is_some_and(|why| why.contains("280")));
            assert_eq!(left_out(choice, &device(Header::Ethernet)), None);
        }
    }

    #[test]
    fn a_bond_and_hyper_v_get_native_xdp_only_when_it_is_asked_for() {
        for (unfit, word) in [(Unfit::Bond, "bond"), (Unfit::HyperV, "hv_netvsc")] {
            let device = Device { unfit: Some(unfit), ..device(Header::Ethernet) };
            assert!(!rungs(HookChoice::Auto, &device).contains(&Hook::XdpNative));
            assert!(left_out(HookChoice::Auto, &device).is_some_and(|why| why.contains(word)));
            assert_eq!(rungs(HookChoice::Native, &device), [Hook::XdpNative]);
            assert_eq!(left_out(HookChoice::Native, &device), None);
        }
    }

    #[test]
    fn better_is_what_comes_first_or_all_of_another_choice() {
        let ethernet = device(Header::Ethernet);
        let auto = rungs(HookChoice::Auto, &ethernet);
        assert_eq!(better(auto, Hook::XdpNative), &[]);
        assert_eq!(better(auto, Hook::Clsact), &[Hook::XdpNative, Hook::Tcx]);
        assert_eq!(better(rungs(HookChoice::Native, &ethernet), Hook::Tcx).len(), 1);
        assert_eq!(candidates(auto, Some(Hook::Clsact), false), better(auto, Hook::Clsact));
        assert_eq!(candidates(auto, Some(Hook::Clsact), true), &[]);
        assert_eq!(candidates(auto, None, false), auto);
    }

    #[test]
    fn the_verifiers_log_is_no_reason_for_people() {
        let error = "the BPF_PROG_LOAD syscall returned Permission denied (os error 13). Verifier \
                     output: 0: (bf) r9 = r1";
        let said = "the kernel refuses the program: the BPF_PROG_LOAD syscall returned Permission \
                    denied (os error 13)";
        assert_eq!(unloaded(error), said);
    }

    #[test]
    fn what_was_refused_is_said_so_that_somebody_can_act() {
        let device = device(Header::Ethernet);
        let said = |hook, code| refused(hook, &device, &io::Error::from_raw_os_error(code));
        assert!(said(Hook::XdpNative, libc::EBUSY).contains("(id 7) is there and stays"));
        assert!(said(Hook::XdpNative, libc::EINVAL).contains("MTU 9001"));
        assert!(said(Hook::XdpNative, libc::EOPNOTSUPP).contains("the driver has none"));
        assert!(said(Hook::Tcx, libc::EINVAL).contains("Linux 6.6"));
        assert!(said(Hook::Clsact, libc::EPERM).contains("TC (clsact) refused"));
    }
}
