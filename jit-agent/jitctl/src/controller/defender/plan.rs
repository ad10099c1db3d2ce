//! What an import would put, which host each machine is, and what is left out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jit_client::{
    controller::{
        defender::{LeftOut, Listed, Machine, Policy, PolicyId, RESOURCE_LABEL},
        types::HostView,
    },
    status::Page,
};
use serde_json::{Value, json};

use super::args::ImportArgs;
use crate::table::{Table, line};

/// A policy with the machines that are hosts.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its path.
    pub(super) id: PolicyId,
    /// `Basic`
    pub(super) kind: String,
    /// Its machines, each with the host that it is.
    pub(super) machines: Vec<(Machine, String)>,
}

/// All that an import would do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Policies to put.
    pub(super) policies: Vec<Planned>,
    /// Hosts that get a label, with the id of the machine that each is.
    pub(super) labels: BTreeMap<String, String>,
    /// What cannot be carried over.
    pub(super) left: Vec<LeftOut>,
}

impl Plan {
    /// What would be done with these policies.
    ///
    /// # Errors
    /// The place of a policy is not known, or `--host` names no host or machine: a sentence.
    pub(super) fn of(
        listed: Vec<Listed>,
        args: &ImportArgs,
        hosts: &[HostView],
    ) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut unused: BTreeSet<_> = args.host.iter().map(|(machine, _)| machine).collect();
        let mut paths = BTreeSet::new();
        for Listed { place, policy, left } in listed {
            let at = |what: &str| match place.as_str() {
                "" => what.to_owned(),
                place => format!("{place}.{what}"),
            };
            let id = path_of(&policy, args).map_err(|why| match place.as_str() {
                "" => why,
                place => format!("{place}: {why}"),
            })?;
            if !paths.insert(id.to_string().to_lowercase()) {
                return Err(format!("{}: {id} stands there before", at("id")));
            }
            plan.left.extend(left);
            let mut machines = Vec::new();
            for (number, machine) in policy.machines.into_iter().enumerate() {
                let place = at(&format!("virtualMachines[{number}]"));
                let named = args.host.iter().find(|(name, _)| is_machine(&machine, name));
                if let Some((name, host)) = named {
                    unused.remove(name);
                    if !hosts.iter().any(|one| one.id == *host) {
                        return Err(format!("--host {name}={host}: there is no such host"));
                    }
                    plan.labels.insert(host.clone(), machine.id.clone());
                }
                let found = named
                    .map(|(_, host)| host.clone())
                    .map_or_else(|| host_of(&machine, hosts), Ok);
                match found {
                    Err(why) => plan.left.push(LeftOut { place, why }),
                    Ok(_) if machine.ports.is_empty() => {
                        let why = format!("{} has no port that is protected", machine.name());
                        plan.left.push(LeftOut { place, why });
                    }
                    Ok(host) => machines.push((machine, host)),
                }
            }
            match machines.is_empty() {
                true => {
                    let why = format!("{} has no machine that is a host here", id.name);
                    plan.left.push(LeftOut { place: at("virtualMachines"), why });
                }
                false => plan.policies.push(Planned { id, kind: policy.kind, machines }),
            }
        }
        match unused.pop_first() {
            Some(machine) => Err(format!("--host {machine}=...: no policy has this machine")),
            None => Ok(plan),
        }
    }

    /// The hosts that get ports.
    pub(super) fn hosts(&self) -> BTreeSet<&str> {
        let machines = self.policies.iter().flat_map(|policy| &policy.machines);
        machines.map(|(_, host)| host.as_str()).collect()
    }

    /// For a person.
    pub(super) fn text(&self, page: Page) -> String {
        let mut out = String::new();
        for Planned { id, machines, .. } in &self.policies {
            out += &line(page, "policy", &id.to_string());
            let mut table = Table::new(&["HOST", "PORT", "LONGEST", "SOURCES", "MACHINE"]);
            for (machine, host) in machines {
                for port in &machine.ports {
                    table.row([
                        host.as_str().into(),
                        format!("{}/{}", port.number, port.protocol.word()).into(),
                        port.longest.to_string().into(),
                        port.allowed.texts.join(" ").into(),
                        machine.name().into(),
                    ]);
                }
            }
            out += &format!("{}\n", table.text(page));
        }
        for LeftOut { place, why } in &self.left {
            out += &line(page, "left out", &format!("{place}: {why}"));
        }
        out
    }

    /// For a program.
    pub(super) fn json(&self, dry_run: bool) -> Value {
        let machine = |(machine, host): &(Machine, String)| json!({ "host": host, "machine": machine.id, "ports": machine.ports });
        let policy = |one: &Planned| {
            let machines: Vec<_> = one.machines.iter().map(machine).collect();
            json!({ "id": one.id.to_string(), "machines": machines })
        };
        let left = |left: &LeftOut| json!({ "place": left.place, "why": left.why });
        json!({
            "policies": self.policies.iter().map(policy).collect::<Vec<_>>(),
            "left_out": self.left.iter().map(left).collect::<Vec<_>>(),
            "dry_run": dry_run,
        })
    }
}

/// The path of a policy whose own is not in the file.
fn path_of(policy: &Policy, args: &ImportArgs) -> Result<PolicyId, String> {
    if !policy.id.is_empty() {
        return policy.id.parse().map_err(|why: String| format!("id: {why}"));
    }
    let missing = |what: &str, option: &str| format!("it has no id and no {what}: add {option}");
    let given = |value: &Option<String>, what: &str, option: &str| {
        value.clone().ok_or_else(|| missing(what, option))
    };
    let named = |text: &str, what: &str| match text {
        "" => Err(format!("it has no id and no {what}")),
        text => Ok(text.to_owned()),
    };
    Ok(PolicyId {
        subscription: given(&args.subscription, "subscription", "--subscription ID")?,
        resource_group: given(&args.resource_group, "resource group", "--resource-group NAME")?,
        location: named(&policy.location, "location")?,
        name: named(&policy.name, "name")?,
    })
}

/// Whether a machine has this name, or this id.
fn is_machine(machine: &Machine, name: &str) -> bool {
    machine.name().eq_ignore_ascii_case(name) || machine.id.eq_ignore_ascii_case(name)
}

/// The host that a machine is, as the controller sees it too.
fn host_of(machine: &Machine, hosts: &[HostView]) -> Result<String, String> {
    let labelled = |host: &&HostView| {
        host.labels.get(RESOURCE_LABEL).is_some_and(|id| is_machine_id(machine, id))
    };
    let named = |host: &&HostView| {
        host.id.eq_ignore_ascii_case(machine.name()) && !host.labels.contains_key(RESOURCE_LABEL)
    };
    let mut found: Vec<_> = hosts.iter().filter(labelled).collect();
    if found.is_empty() {
        found = hosts.iter().filter(named).collect();
    }
    let name = machine.name();
    match found.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(format!(
            "no host is the machine {name}: add it (jitctl hosts add), or say which one it is: \
             --host {name}=HOST"
        )),
        [one, other, ..] => {
            Err(format!("{name} is {} and {}: which one? --host {name}=HOST", one.id, other.id))
        }
    }
}

fn is_machine_id(machine: &Machine, id: &str) -> bool {
    machine.id.eq_ignore_ascii_case(id.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use jit_client::{controller::defender, status::Style};

    use super::*;

    fn host(id: &str, label: &str) -> HostView {
        let labels = (!label.is_empty()).then(|| (RESOURCE_LABEL.to_owned(), label.to_owned()));
        HostView { id: id.into(), labels: labels.into_iter().collect(), ..HostView::default() }
    }

    fn file() -> Vec<u8> {
        let port = json!({"number": 22, "protocol": "TCP", "maxRequestAccessDuration": "PT3H",
            "allowedSourceAddressPrefixes": ["198.51.100.0/24", "2001:db8::/32"]});
        let machine = |name: &str, port: &Value| json!({"id": format!("/s/virtualMachines/{name}"), "ports": [port]});
        let mut tagged = port.clone();
        tagged["allowedSourceAddressPrefixes"] = json!(["VirtualNetwork"]);
        json!([{"name": "default", "location": "eastus", "virtualMachines": [
            machine("VM1", &port), machine("vm2", &port), machine("vm3", &port), machine("vm4", &tagged),
        ]}])
        .to_string()
        .into_bytes()
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ImportArgs,
    }

    fn plan(options: &str, hosts: &[HostView]) -> Result<Plan, String> {
        let line = format!("import-defender x.json {options}");
        let Line { args } = clap::Parser::try_parse_from(line.split_whitespace()).unwrap();
        Plan::of(defender::policies(&file()).unwrap(), &args, hosts)
    }

    const PLACE: &str = "--subscription s --resource-group rg1";

    #[test]
    fn each_machine_is_a_host_or_is_listed() {
        let hosts = [host("vm1", ""), host("web-2", "/S/virtualmachines/VM2/"), host("vm4", "")];
        let plan = plan(PLACE, &hosts).unwrap();
        assert_eq!(plan.hosts(), ["vm1", "web-2"].into());
        let places: Vec<_> = plan.left.iter().map(|left| left.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "[0].virtualMachines[3].ports[0].allowedSourceAddressPrefixes[0]",
                "[0].virtualMachines[3].ports[0]",
                "[0].virtualMachines[2]",
                "[0].virtualMachines[3]",
            ]
        );
        let text = plan.text(Page::endless(Style::Plain));
        for says in [
            "web-2  22/TCP  PT3H     198.51.100.0/24 2001:db8::/32  vm2",
            "no host is the machine vm3",
            "locations/eastus/jitNetworkAccessPolicies/default",
        ] {
            assert!(text.contains(says), "{says:?} is not in {text}");
        }
        assert_eq!(plan.json(true)["policies"][0]["machines"][1]["host"], "web-2");
    }

    #[test]
    fn a_machine_may_be_named_with_its_host() {
        let hosts = [host("web-1", ""), host("web-3", "")];
        let both = format!("{PLACE} --host vm1=web-1 --host /s/virtualMachines/VM3=web-3");
        let named = plan(&both, &hosts).unwrap();
        assert_eq!(named.hosts(), ["web-1", "web-3"].into());
        assert_eq!(named.labels.get("web-3").unwrap(), "/s/virtualMachines/vm3");
        for (options, says) in [
            ("", "[0]: it has no id and no subscription: add --subscription ID"),
            ("--subscription s", "add --resource-group NAME"),
            (&*format!("{PLACE} --host vm1=web-9"), "there is no such host"),
            (&*format!("{PLACE} --host vm9=web-1"), "no policy has this machine"),
        ] {
            let why = plan(options, &hosts).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn two_hosts_for_one_machine_are_none() {
        let hosts = [host("vm1", ""), host("VM1", "")];
        let plan = plan(PLACE, &hosts).unwrap();
        assert!(plan.policies.is_empty());
        assert!(plan.left.iter().any(|left| left.why.contains("which one?")), "{plan:?}");
    }
}
