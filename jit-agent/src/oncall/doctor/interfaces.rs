//! Each interface: driver, MTU and queues, the hook that the gate has on it, why it is not a better
//! one, and the programs of other owners.

use std::io;

use jit_proto::{Hook, v1};

use super::{
    finding::{Finding, Level},
    host::Host,
};
use crate::{
    config::HookChoice,
    kernel::datapath::{
        rtnetlink::{Device, Unfit},
        view,
    },
    oncall::check,
    system::ethtool::{Ethtool, Queues},
};

/// The largest MTU with which ENA takes native XDP (`ENA_XDP_MAX_MTU` of its driver).
const ENA_MTU: u32 = 3498;
/// What `status` says of a program that is refused for the MTU or the queues.
const REFUSED: &str = "native XDP refused at MTU";
/// What `status` says where another TC program is first.
const NOT_FIRST: &str = "another TC program runs before it";

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let devices = match &host.devices {
        Ok(devices) => devices,
        Err(error) => {
            let seen = format!("cannot list the interfaces: {error}");
            return vec![Finding::unseen("interface", seen)];
        }
    };
    let nics = nics(devices);
    let status = host.status.as_ref().ok();
    let hook = host.config.as_ref().map_or(HookChoice::Auto, |config| config.gate.hook);
    let can_ask = host.lacks.is_empty();
    let mut found = Vec::new();
    for nic in nics.iter().filter(|nic| nic.is_to_show(status)) {
        found.push(nic.gate(status));
        found.extend(nic.native(status, hook));
        found.extend(nic.virtual_function(&nics, status));
        found.push(nic.others(status, &|hook| {
            let asked = can_ask.then(|| view::is_first(&host.glimpse.paths.pins, nic.device, hook));
            asked.unwrap_or_else(|| Err(io::ErrorKind::PermissionDenied.into()))
        }));
    }
    found.extend(missing(&nics, status));
    found.extend(above(host, devices));
    found
}

/// A device, and what its driver says.
#[derive(Clone, Debug)]
struct Nic<'a> {
    device: &'a Device,
    driver: Option<String>,
    queues: Option<Queues>,
}

fn nics(devices: &[Device]) -> Vec<Nic<'_>> {
    let ethtool = Ethtool::open().ok();
    let nic = |device| Nic::of(device, ethtool.as_ref());
    devices.iter().filter(|device| !device.loopback).map(nic).collect()
}

/// The row of `status` about an interface.
fn row(status: Option<&v1::StatusResponse>, index: u32) -> Option<&v1::Interface> {
    status?.interfaces.iter().find(|row| row.index == index)
}

/// Whether a problem of `status` is about the interface of this name.
pub(super) fn is_about(problem: &str, name: &str) -> bool {
    problem.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', ' ']))
}

/// The problems of `status` about an interface.
fn problems<'a>(status: Option<&'a v1::StatusResponse>, name: &str) -> Vec<&'a str> {
    let all = status.into_iter().flat_map(|status| &status.problems).map(String::as_str);
    all.filter(|text| is_about(text, name)).collect()
}

impl<'a> Nic<'a> {
    fn of(device: &'a Device, ethtool: Option<&Ethtool>) -> Self {
        let name = &device.name;
        let driver = ethtool.and_then(|ethtool| ethtool.driver(name).ok());
        let queues = ethtool.and_then(|ethtool| ethtool.queues(name).ok());
        Self { device, driver, queues }
    }

    fn finding(&self, check: &'static str, level: Level, seen: String) -> Finding {
        Finding::new(check, level, seen).about(self.device.name.clone())
    }

    /// A device that is down matters only if it is to have a gate.
    fn is_to_show(&self, status: Option<&v1::StatusResponse>) -> bool {
        self.device.up || row(status, self.device.index).is_some()
    }

    /// `ena, MTU 9001, 8 of 8 queues`
    fn text(&self) -> String {
        let Device { mtu, .. } = self.device;
        let driver = self.driver.as_deref().unwrap_or("driver unknown");
        let queues = self.queues.filter(|queues| queues.most > 0);
        let queues = queues.map(|Queues { used, most }| format!(", {used} of {most} queues"));
        format!("{driver}, MTU {mtu}{}", queues.unwrap_or_default())
    }

    /// The gate on it.
    fn gate(&self, status: Option<&v1::StatusResponse>) -> Finding {
        const NAME: &str = "interface";
        let (name, text) = (&self.device.name, self.text());
        let mut said = problems(status, name);
        said.retain(|text| !text.contains(NOT_FIRST));
        let said = said.join("; ");
        let Some(row) = row(status, self.device.index) else {
            return match status {
                Some(_) => self.finding(NAME, Level::Ok, format!("{text}; no gate yet")),
                None => self.finding(NAME, Level::Unseen, format!("{text}; its gate is not seen")),
            };
        };
        let why = if said.is_empty() { row.note.clone() } else { said.clone() };
        match (Hook::from_word(&row.hook), row.hook.as_str()) {
            (Some(_), _) if !said.is_empty() => {
                let finding = self.finding(NAME, Level::Warning, format!("{text}; {said}"));
                finding.fix("jit-agent status")
            }
            (Some(hook), _) => {
                let note = &row.note;
                let why = if note.is_empty() { String::new() } else { format!(" ({note})") };
                self.finding(NAME, Level::Ok, format!("{text}; {}{why}", hook.name()))
            }
            (None, "excluded") if !row.excluded.is_empty() => {
                let seen = format!("{text}; excluded: {}", row.excluded);
                self.finding(NAME, Level::Ok, seen)
            }
            (None, "excluded") => {
                let seen =
                    format!("{text}; without a gate: the configuration leaves it out. {why}");
                self.finding(NAME, Level::Warning, seen).fix(format!(
                    "gate it, or say why not: exclude = [{{ name = \"{name}\", reason = \"...\" }}]"
                ))
            }
            (None, hook) => {
                let level = if hook == "guard_only" { Level::Warning } else { Level::Failure };
                self.finding(NAME, level, format!("{text}; without a gate: {why}")).fix(
                    "systemctl restart jit-agent; if it carries no IP: [gate] exclude, with that reason",
                )
            }
        }
    }

    /// Why there is no native XDP, where the driver has it.
    fn native(&self, status: Option<&v1::StatusResponse>, hook: HookChoice) -> Option<Finding> {
        const NAME: &str = "native-xdp";
        let row = row(status, self.device.index);
        let is_native = row.is_some_and(|row| Hook::from_word(&row.hook) == Some(Hook::XdpNative));
        let is_wanted = matches!(hook, HookChoice::Auto | HookChoice::Native);
        let is_out = row.is_some_and(|row| row.hook == "excluded");
        if is_native || !is_wanted || is_out {
            return None;
        }
        let name = &self.device.name;
        let restart = "after that `systemctl restart jit-agent`: only a start takes a better hook";
        if self.driver.as_deref() == Some("ena") {
            let mut fix = Vec::new();
            if self.device.mtu > ENA_MTU {
                fix.push(format!("ip link set dev {name} mtu {ENA_MTU}"));
            }
            if let Some(Queues { used, most }) = self.queues
                && used > most / 2
            {
                fix.push(format!("ethtool -L {name} combined {}", (most / 2).max(1)));
            }
            let seen = format!(
                "{}: ENA takes native XDP up to MTU {ENA_MTU} and with at most half of its queues; \
                 TC works, at a later point",
                self.text()
            );
            let finding = self.finding(NAME, Level::Warning, seen);
            return Some(fix.into_iter().fold(finding, Finding::fix).fix(restart));
        }
        let note = row.map(|row| row.note.as_str()).filter(|note| note.contains(REFUSED))?;
        let finding = self.finding(NAME, Level::Warning, format!("{}: {note}", self.text()));
        Some(
            finding
                .fix(format!("ip link set dev {name} mtu 1500, or fewer queues: ethtool -L {name}"))
                .fix(restart),
        )
    }

    /// The virtual function below an `hv_netvsc` device: with accelerated networking packets come in
    /// by it.
    fn virtual_function(
        &self,
        nics: &[Nic<'_>],
        status: Option<&v1::StatusResponse>,
    ) -> Option<Finding> {
        const NAME: &str = "virtual-function";
        if self.device.unfit != Some(Unfit::HyperV) && self.driver.as_deref() != Some("hv_netvsc") {
            return None;
        }
        let below = nics.iter().find(|nic| nic.device.member_of == Some(self.device.index));
        let Some(below) = below else {
            return Some(self.finding(NAME, Level::Ok, "there is none".into()));
        };
        let Device { name, up, index, .. } = below.device;
        let text = below.text();
        let hook = row(status, *index).and_then(|row| Hook::from_word(&row.hook));
        Some(match (up, hook) {
            (false, _) => self.finding(
                NAME,
                Level::Ok,
                format!("{name} ({text}) is down: nothing comes by it"),
            ),
            (true, Some(hook)) => {
                let seen = format!("{name} ({text}) is up and gated by {}", hook.name());
                self.finding(NAME, Level::Ok, seen)
            }
            (true, None) => {
                let seen = format!(
                    "{name} ({text}) is up and has no program of its own: packets that come by it \
                     pass the gate of {} alone",
                    self.device.name
                );
                self.finding(NAME, Level::Ok, seen)
            }
        })
    }

    /// Programs of other owners that see packets before the gate. `is_first`: whether ours is the
    /// first TC program.
    fn others(
        &self,
        status: Option<&v1::StatusResponse>,
        is_first: &dyn Fn(Hook) -> io::Result<bool>,
    ) -> Finding {
        const NAME: &str = "other-programs";
        let Device { name, native, generic, index, .. } = self.device;
        let hook = row(status, *index).and_then(|row| Hook::from_word(&row.hook));
        let xdp = matches!(hook, Some(Hook::XdpNative | Hook::XdpGeneric));
        if let Some(id) = native.or(*generic).filter(|_| !xdp && status.is_some()) {
            let seen = format!(
                "another owner's XDP program (id {id}) is on it: the gate takes TC after it, and \
                 does not see what that program redirects or answers"
            );
            return self
                .finding(NAME, Level::Warning, seen)
                .fix(format!("bpftool prog show id {id} names it"))
                .fix(format!("ip link set dev {name} xdp off; systemctl restart jit-agent"));
        }
        let first = match hook {
            Some(hook @ (Hook::Tcx | Hook::Clsact)) => is_first(hook),
            _ => Ok(true),
        };
        let said = problems(status, name).iter().any(|text| text.contains(NOT_FIRST));
        match first {
            _ if said => self.not_first(),
            Ok(false) => self.not_first(),
            Ok(true) if status.is_some() => self.finding(NAME, Level::Ok, "there are none".into()),
            Ok(true) => self.finding(NAME, Level::Unseen, "only root can list them".into()),
            Err(error) => self.finding(NAME, Level::Unseen, format!("cannot list them: {error}")),
        }
    }

    fn not_first(&self) -> Finding {
        let name = &self.device.name;
        let seen =
            "another owner's TC program runs before the gate's, and may let packets pass it by";
        self.finding("other-programs", Level::Warning, seen.into())
            .fix(format!("bpftool net show dev {name}; tc filter show dev {name} ingress"))
            .fix("take it off, or give it a later place: a larger `pref`")
    }
}

/// Interfaces that the configuration names and that are not there, or that no packet from outside
/// passes a program on.
fn missing(nics: &[Nic<'_>], status: Option<&v1::StatusResponse>) -> Vec<Finding> {
    let is_there = |row: &&v1::Interface| nics.iter().any(|nic| nic.device.index == row.index);
    let rows = status.into_iter().flat_map(|status| &status.interfaces);
    rows.filter(|row| !is_there(row))
        .map(|row| {
            Finding::warning("interface", format!("without a gate: {}", row.note))
                .about(row.name.clone())
                .fix("ip link; correct [gate] interfaces; jit-agent check")
        })
        .collect()
}

/// What `check` says of devices above gated ones.
fn above(host: &Host, devices: &[Device]) -> Vec<Finding> {
    const NAME: &str = "devices-above";
    let Ok(config) = &host.config else {
        return Vec::new();
    };
    let doubts = check::devices_above(config, devices);
    if doubts.is_empty() {
        return vec![Finding::ok(NAME, "no session is lost above a gated device")];
    }
    doubts.into_iter().map(|doubt| Finding::warning(NAME, doubt).fix("jit-agent check")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic<'a>(device: &'a Device, driver: &str, used: u32, most: u32) -> Nic<'a> {
        Nic { device, driver: Some(driver.into()), queues: Some(Queues { used, most }) }
    }

    fn status(rows: &[(&str, u32, &str)], problems: &[&str]) -> v1::StatusResponse {
        let row = |(name, index, hook): &(&str, u32, &str)| v1::Interface {
            name: (*name).into(),
            index: *index,
            hook: (*hook).into(),
            ..v1::Interface::default()
        };
        v1::StatusResponse {
            interfaces: rows.iter().map(row).collect(),
            problems: problems.iter().map(|text| (*text).into()).collect(),
            ..v1::StatusResponse::default()
        }
    }

    /// EC2's defaults: MTU 9001 and all queues.
    #[test]
    fn ena_needs_a_small_mtu_and_half_of_its_queues() {
        let with_tc = status(&[("eth0", 2, "tcx")], &[]);
        let fixes = |mtu, used, hook| {
            let device = Device { mtu, ..Device::example("eth0", 2) };
            let finding = nic(&device, "ena", used, 8).native(Some(&with_tc), hook);
            finding.map(|finding| finding.fix)
        };
        let fix = fixes(9001, 8, HookChoice::Auto).unwrap();
        assert_eq!(fix[..2], ["ip link set dev eth0 mtu 3498", "ethtool -L eth0 combined 4"]);
        assert!(fix[2].contains("restart"), "{fix:?}");
        assert_eq!(fixes(3498, 8, HookChoice::Auto).unwrap()[0], "ethtool -L eth0 combined 4");
        assert_eq!(fixes(9001, 4, HookChoice::Native).unwrap()[0], "ip link set dev eth0 mtu 3498");
        assert_eq!(fixes(3498, 4, HookChoice::Auto).unwrap().len(), 1, "a restart alone");
        assert_eq!(fixes(9001, 8, HookChoice::Tc), None, "it is not wanted");
        let native = status(&[("eth0", 2, "xdp_native")], &[]);
        let eth0 = Device::example("eth0", 2);
        assert_eq!(nic(&eth0, "ena", 8, 8).native(Some(&native), HookChoice::Auto), None);
        assert_eq!(nic(&eth0, "veth", 8, 8).native(Some(&with_tc), HookChoice::Auto), None);
        // Before the agent is installed, too.
        assert!(nic(&eth0, "ena", 8, 8).native(None, HookChoice::Auto).is_some());
    }

    #[test]
    fn an_interface_is_as_good_as_its_gate() {
        let eth0 = Device::example("eth0", 2);
        let level = |hook: &str, problems: &[&str]| {
            let status = status(&[("eth0", 2, hook)], problems);
            nic(&eth0, "veth", 1, 1).gate(Some(&status)).level
        };
        assert_eq!(level("xdp_native", &["eth10 is not gated: no"]), Level::Ok);
        assert_eq!(level("tcx", &["eth0: its link was detached"]), Level::Warning);
        assert_eq!(level("guard_only", &["eth0 is left to the socket guard"]), Level::Warning);
        assert_eq!(level("none", &["eth0 is not gated: no"]), Level::Failure);
        assert_eq!(level("excluded", &[]), Level::Warning);
        let mut reasoned = status(&[("eth0", 2, "excluded")], &[]);
        reasoned.interfaces[0].excluded = "own network".into();
        let finding = nic(&eth0, "veth", 1, 1).gate(Some(&reasoned));
        assert!(finding.level == Level::Ok && finding.seen.contains("own network"), "{finding:?}");
        assert_eq!(nic(&eth0, "veth", 1, 1).gate(None).level, Level::Unseen);
    }

    #[test]
    fn programs_of_others_before_the_gate_are_a_warning() {
        let plain = Device::example("eth0", 2);
        let foreign = Device { native: Some(77), ..plain.clone() };
        let level = |device: &Device, hook: &str, first: io::Result<bool>| {
            let status = status(&[("eth0", 2, hook)], &[]);
            let first = first.ok();
            let ask = |_| first.ok_or_else(|| io::ErrorKind::PermissionDenied.into());
            nic(device, "veth", 1, 1).others(Some(&status), &ask).level
        };
        assert_eq!(level(&foreign, "xdp_native", Ok(true)), Level::Ok, "it is ours");
        assert_eq!(level(&foreign, "tcx", Ok(true)), Level::Warning);
        assert_eq!(level(&plain, "tcx", Ok(false)), Level::Warning);
        assert_eq!(level(&plain, "clsact", Ok(true)), Level::Ok);
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(level(&plain, "clsact", denied()), Level::Unseen);
        let said = status(&[("eth0", 2, "tcx")], &["eth0: another TC program runs before it and"]);
        let denied = |_| Err(io::ErrorKind::PermissionDenied.into());
        let finding = nic(&plain, "veth", 1, 1).others(Some(&said), &denied);
        assert_eq!(finding.level, Level::Warning, "the agent says so");
        assert_eq!(nic(&plain, "veth", 1, 1).gate(Some(&said)).level, Level::Ok, "once");
    }

    #[test]
    fn the_state_of_a_virtual_function_is_said() {
        let above = Device { unfit: Some(Unfit::HyperV), ..Device::example("eth0", 2) };
        let below = Device { member_of: Some(2), ..Device::example("enP1", 3) };
        let down = Device { up: false, ..below.clone() };
        let seen = |below: &Device, rows: &[(&str, u32, &str)]| {
            let nics = [nic(&above, "hv_netvsc", 1, 1), nic(below, "mlx5_core", 4, 8)];
            let status = status(rows, &[]);
            nics[0].virtual_function(&nics, Some(&status)).unwrap().seen
        };
        assert!(seen(&below, &[("enP1", 3, "xdp_native")]).contains("up and gated by native XDP"));
        assert!(seen(&below, &[]).contains("no program of its own"));
        assert!(seen(&down, &[]).contains("is down"));
        let alone = [nic(&above, "hv_netvsc", 1, 1)];
        assert!(alone[0].virtual_function(&alone, None).unwrap().seen.contains("none"));
        assert_eq!(nic(&below, "mlx5_core", 4, 8).virtual_function(&alone, None), None);
    }
}
