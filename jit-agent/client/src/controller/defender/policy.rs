//! A policy as it is sent, kept and written again: which ports of which machines are protected.

use std::fmt;

use jit_common::Family;
use jit_proto::SourcePrefix;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::Value;

use super::read::{At, Mistake};

/// The shortest `maxRequestAccessDuration`, milliseconds.
const SHORTEST_MS: i64 = 5 * 60 * 1000;
/// The longest one.
const LONGEST_MS: i64 = 24 * 3600 * 1000;
/// The most machines of a policy.
const MAX_MACHINES: usize = 5000;
/// The most ports of a machine.
const MAX_PORTS: usize = 64;
/// The longest id, bytes: a path with four names.
const MAX_ID: usize = 1024;

/// What somebody wants protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its path; empty: it was not sent.
    pub id: String,
    /// Its name; empty: it was not sent.
    pub name: String,
    /// `Basic`
    pub kind: String,
    /// The location; empty: it was not sent.
    pub location: String,
    /// The machines, as they were sent.
    pub machines: Vec<Machine>,
}

/// A machine with its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Its id in Azure: a path.
    pub id: String,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A protected port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// For whom it may be opened.
    pub allowed: Allowed,
    /// For how long at most.
    pub longest: Span,
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP and UDP.
    All,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Sources, and how they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// As they were written: in the field for one, or in that for several.
    pub texts: Vec<String>,
    /// They stand in the field for several.
    pub several: bool,
}

/// A duration, and how it was written (ISO 8601): `PT3H`, `P1D`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    text: String,
    millis: i64,
}

/// Something of a policy that this system has no place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The field, from the top.
    pub place: String,
    /// What it is, and what it means that it is left out.
    pub why: String,
}

impl Policy {
    /// Reads a policy that is to be kept. Everything in it must have a meaning here.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn read(value: &Value) -> Result<Self, Mistake> {
        let mut left = Vec::new();
        let read = Self::read_with(value, &mut left)?;
        // What only informs (addresses, requests of the past) may be sent back as it was answered.
        match left.into_iter().find(|left| left.place.contains(".ports[")) {
            Some(LeftOut { place, why }) => Err(Mistake { place, why }),
            None => Ok(read),
        }
    }

    /// Reads a policy as another system gave it. `left` gets what cannot be carried over.
    ///
    /// # Errors
    /// The first field that cannot be read.
    pub fn read_with(value: &Value, left: &mut Vec<LeftOut>) -> Result<Self, Mistake> {
        let top = At::top(value);
        // `az` and the cmdlets write the properties beside the name.
        let properties = top.field("properties")?.unwrap_or_else(|| top.clone());
        let kind = match top.text_of("kind")? {
            "" => "Basic",
            kind if kind.eq_ignore_ascii_case("basic") => kind,
            other => return Err(top.needed("kind")?.wrong(format!("{other:?} is not `Basic`"))),
        };
        let machines = properties.needed("virtualMachines")?.items()?;
        if machines.len() > MAX_MACHINES {
            let why = format!("{} machines; at most {MAX_MACHINES}", machines.len());
            return Err(properties.wrong(why));
        }
        if let Some(requests) = properties.field("requests")?
            && !requests.items()?.is_empty()
        {
            let why = "requests of the past are not taken over";
            left.push(LeftOut { place: requests.place(), why: why.into() });
        }
        Ok(Self {
            id: top.text_of("id")?.to_owned(),
            name: top.text_of("name")?.to_owned(),
            kind: kind.to_owned(),
            location: top.text_of("location")?.to_owned(),
            machines: machines.iter().map(|at| machine(at, left)).collect::<Result<_, _>>()?,
        })
    }

    /// Reads machines that were kept.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn kept_ports(value: &Value) -> Result<Vec<Port>, Mistake> {
        let mut left = Vec::new();
        let ports = At::top(value).items()?;
        let mut read = Vec::with_capacity(ports.len());
        for at in &ports {
            read.extend(port(at, &mut left)?);
        }
        Ok(read)
    }
}

impl Machine {
    /// The last part of its id: the machine's name.
    pub fn name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or_default()
    }
}

impl Port {
    /// Who may be let in: `*` is everybody.
    pub fn sources(&self) -> Vec<SourcePrefix> {
        sources(&self.allowed.texts)
    }
}

impl Span {
    /// Milliseconds.
    pub const fn millis(&self) -> i64 {
        self.millis
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut port = serializer.serialize_struct("Port", 4)?;
        port.serialize_field("number", &self.number)?;
        port.serialize_field("protocol", self.protocol.word())?;
        match (self.allowed.several, self.allowed.texts.first()) {
            (false, Some(one)) => port.serialize_field("allowedSourceAddressPrefix", one)?,
            _ => port.serialize_field("allowedSourceAddressPrefixes", &self.allowed.texts)?,
        }
        port.serialize_field("maxRequestAccessDuration", &self.longest.text)?;
        port.end()
    }
}

/// The sources of texts that were read by [`allowed`].
pub(super) fn sources(texts: &[String]) -> Vec<SourcePrefix> {
    let all = [SourcePrefix::any(Family::V4), SourcePrefix::any(Family::V6)];
    let of = |text: &String| match text.as_str() {
        "*" => all.to_vec(),
        text => text.parse().into_iter().collect(),
    };
    texts.iter().flat_map(of).collect()
}

fn machine(at: &At<'_>, left: &mut Vec<LeftOut>) -> Result<Machine, Mistake> {
    let id_at = at.needed("id")?;
    let id = id_at.text()?.trim_end_matches('/');
    let is_machine = id.starts_with('/')
        && id.len() <= MAX_ID
        && id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && id.split('/').skip(1).all(|part| !part.is_empty());
    if !is_machine {
        return Err(
            id_at.wrong(format!("{id:?} is not such as /subscriptions/.../virtualMachines/NAME"))
        );
    }
    if let Some(address) = at.field("publicIpAddress")?
        && !address.text()?.is_empty()
    {
        let why = format!("{:?}: hosts are reached by their own addresses", address.text()?);
        left.push(LeftOut { place: address.place(), why });
    }
    let mut ports: Vec<Port> = Vec::new();
    let listed = at.needed("ports")?;
    for at in listed.items()? {
        ports.extend(port(&at, left)?);
    }
    if ports.len() > MAX_PORTS {
        return Err(listed.wrong(format!("{} ports; at most {MAX_PORTS}", ports.len())));
    }
    for (index, port) in ports.iter().enumerate() {
        let overlaps = |other: &Port| {
            other.number == port.number
                && (other.protocol == port.protocol
                    || [other.protocol, port.protocol].contains(&Protocol::All))
        };
        if ports.iter().take(index).any(overlaps) {
            return Err(listed.wrong(format!("port {} stands there twice", port.number)));
        }
    }
    Ok(Machine { id: id.to_owned(), ports })
}

/// `None`: it is left out.
fn port(at: &At<'_>, left: &mut Vec<LeftOut>) -> Result<Option<Port>, Mistake> {
    let number = at.needed("number")?.port()?;
    let protocol = match at.text_of("protocol")?.trim() {
        // Whoever leaves it out means the port, whatever the protocol.
        "" | "*" => Protocol::All,
        word if word.eq_ignore_ascii_case("all") || word.eq_ignore_ascii_case("any") => {
            Protocol::All
        }
        word if word.eq_ignore_ascii_case("tcp") => Protocol::Tcp,
        word if word.eq_ignore_ascii_case("udp") => Protocol::Udp,
        other => {
            let at = at.needed("protocol")?;
            return Err(at.wrong(format!("{other:?} is none of TCP, UDP and *")));
        }
    };
    let longest = at.needed("maxRequestAccessDuration")?;
    let longest = span(longest.text()?).map_err(|why| longest.wrong(why))?;
    if let Some(mapped) = at.field("mappedPort")? {
        let why = "ports are not mapped here: the host's own port is protected";
        left.push(LeftOut { place: mapped.place(), why: why.into() });
    }
    let mut tags = Vec::new();
    let mut allowed = allowed(at, &mut tags)?.unwrap_or_else(|| Allowed::one("*"));
    for (place, tag) in tags {
        let why =
            format!("{tag:?} is a service tag, which only Azure can resolve: write its addresses");
        left.push(LeftOut { place, why });
    }
    if allowed.texts.is_empty() {
        let why = format!("port {number} has no source that is left: it is not protected by this");
        left.push(LeftOut { place: at.place(), why });
        return Ok(None);
    }
    if allowed.texts.len() > MAX_PORTS {
        return Err(at.wrong(format!("at most {MAX_PORTS} prefixes are possible")));
    }
    allowed.several = allowed.several || allowed.texts.len() > 1;
    Ok(Some(Port { number, protocol, allowed, longest }))
}

impl Allowed {
    /// One source.
    pub fn one(text: &str) -> Self {
        Self { texts: vec![text.to_owned()], several: false }
    }
}

/// The two fields of sources; `None`: both are left out. `tags` gets texts that are no addresses.
pub(super) fn allowed(
    at: &At<'_>,
    tags: &mut Vec<(String, String)>,
) -> Result<Option<Allowed>, Mistake> {
    let one = at.field("allowedSourceAddressPrefix")?;
    let several = at.field("allowedSourceAddressPrefixes")?;
    // Clients send the field that they do not use empty.
    let is_empty = |at: &At<'_>| match at.is_list() {
        true => at.items().is_ok_and(|items| items.is_empty()),
        false => at.text().is_ok_and(|text| text.trim().is_empty()),
    };
    let (one, several) = (one.filter(|at| !is_empty(at)), several.filter(|at| !is_empty(at)));
    let (from, is_several) = match (one, several) {
        (None, None) => return Ok(None),
        (Some(_), Some(several)) => {
            let why =
                "allowedSourceAddressPrefix and allowedSourceAddressPrefixes exclude each other";
            return Err(several.wrong(why));
        }
        (Some(one), None) => (one.clone(), one.is_list()),
        (None, Some(several)) => (several, true),
    };
    let mut texts = Vec::new();
    for at in from.one_or_more()? {
        let text = at.text()?.trim();
        let is_tag = |text: &str| {
            text.starts_with(|letter: char| letter.is_ascii_alphabetic())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match text.parse::<SourcePrefix>() {
            Ok(_) => texts.push(text.to_owned()),
            Err(_) if text == "*" || text.eq_ignore_ascii_case("any") => texts.push("*".into()),
            Err(_) if is_tag(text) => tags.push((at.place(), text.to_owned())),
            Err(why) => return Err(at.wrong(why.to_string())),
        }
    }
    Ok(Some(Allowed { texts, several: is_several }))
}

/// `PT3H`, `P1D`: 5 minutes to a day.
fn span(text: &str) -> Result<Span, String> {
    let text = text.trim();
    let bad = || format!("{text:?} is not a duration from PT5M to P1D, such as PT3H");
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let millis = span.to_duration(relative).map_err(|_| bad())?.as_millis();
    let millis = i64::try_from(millis).map_err(|_| bad())?;
    if !(SHORTEST_MS..=LONGEST_MS).contains(&millis) || millis % 1000 != 0 {
        return Err(bad());
    }
    Ok(Span { text: text.to_owned(), millis })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VM: &str =
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm1";

    fn with_port(port: Value) -> Value {
        json!({"properties": {"virtualMachines": [{"id": VM, "ports": [port]}]}})
    }

    fn only_port(port: Value) -> Port {
        Policy::read(&with_port(port)).unwrap().machines[0].ports[0].clone()
    }

    #[test]
    fn what_users_send_is_read() {
        for port in [
            json!({"number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "10.0.0.0/8",
                "maxRequestAccessDuration": "PT3H"}),
            json!({"Number": "22", "Protocol": "tcp", "AllowedSourceAddressPrefix": ["10.0.0.0/8"],
                "MaxRequestAccessDuration": "PT3H", "AllowedSourceAddressPrefixes": []}),
            json!({"number": 22, "protocol": "Tcp", "allowedSourceAddressPrefixes": ["10.0.0.0/8"],
                "allowedSourceAddressPrefix": null, "maxrequestaccessduration": "PT180M"}),
        ] {
            let port = only_port(port);
            assert_eq!((port.number, port.protocol), (22, Protocol::Tcp));
            assert_eq!(port.sources(), ["10.0.0.0/8".parse().unwrap()]);
            assert_eq!(port.longest.millis(), 3 * 3_600_000);
        }
        let port =
            only_port(json!({"number": 53, "protocol": "", "maxRequestAccessDuration": "P1D"}));
        assert_eq!((port.protocol, port.sources().len()), (Protocol::All, 2));
        assert_eq!(
            serde_json::to_value(&port).unwrap(),
            json!({"number": 53, "protocol": "*", "allowedSourceAddressPrefix": "*",
                "maxRequestAccessDuration": "P1D"})
        );
        let day = only_port(json!({"number": 53, "maxRequestAccessDuration": "PT24H"}));
        assert_eq!(day.longest.millis(), port.longest.millis());
    }

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        let ports = json!([
            {"number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "198.51.100.7",
                "maxRequestAccessDuration": "PT24H"},
            {"number": 53, "protocol": "*", "maxRequestAccessDuration": "PT5M",
                "allowedSourceAddressPrefixes": ["198.51.100.0/24", "2001:db8::/32"]},
        ]);
        let read = Policy::kept_ports(&ports).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), ports);
    }

    #[test]
    fn a_mistake_has_its_place() {
        let good = json!({"number": 22, "protocol": "TCP", "maxRequestAccessDuration": "PT3H"});
        for (field, value, place) in [
            ("number", json!(0), "number"),
            ("number", json!("x"), "number"),
            ("number", json!(65536), "number"),
            ("protocol", json!("icmp"), "protocol"),
            ("maxRequestAccessDuration", json!("PT4M"), "maxRequestAccessDuration"),
            ("maxRequestAccessDuration", json!("P2D"), "maxRequestAccessDuration"),
            ("maxRequestAccessDuration", json!("3h from now"), "maxRequestAccessDuration"),
            ("allowedSourceAddressPrefix", json!("10.0.0.0/33"), "allowedSourceAddressPrefix"),
            ("allowedSourceAddressPrefix", json!("Internet"), "allowedSourceAddressPrefix"),
            ("allowedSourceAddressPrefixes", json!(["x y"]), "allowedSourceAddressPrefixes[0]"),
        ] {
            let mut port = good.clone();
            port[field] = value.clone();
            let mistake = Policy::read(&with_port(port)).unwrap_err();
            let expected = format!("properties.virtualMachines[0].ports[0].{place}");
            assert_eq!(mistake.place, expected, "{field} {value}: {}", mistake.why);
        }
        let twice = json!({"properties": {"virtualMachines": [{"id": VM, "ports": [good, good]}]}});
        assert!(Policy::read(&twice).unwrap_err().why.contains("twice"));
        let relative = json!({"virtualMachines": [{"id": "vm1", "ports": []}]});
        assert_eq!(Policy::read(&relative).unwrap_err().place, "virtualMachines[0].id");
        let both = json!({"virtualMachines": [], "VIRTUALMACHINES": []});
        assert!(Policy::read(&both).is_err());
    }

    #[test]
    fn what_cannot_be_carried_over_is_listed() {
        let exported = json!({"Name": "default", "Location": "westeurope", "Kind": "Basic",
        "Requests": [{"Requestor": "a"}],
        "VirtualMachines": [{"Id": VM, "PublicIpAddress": "192.0.2.1", "Ports": [
            {"Number": 22, "Protocol": "*", "MaxRequestAccessDuration": "PT3H",
             "AllowedSourceAddressPrefixes": ["VirtualNetwork", "10.0.0.0/8"]},
            {"Number": 23, "Protocol": "*", "MaxRequestAccessDuration": "PT3H",
             "AllowedSourceAddressPrefix": "Internet", "MappedPort": 7},
        ]}]});
        let mut left = Vec::new();
        let policy = Policy::read_with(&exported, &mut left).unwrap();
        assert_eq!((policy.name.as_str(), policy.location.as_str()), ("default", "westeurope"));
        let numbers: Vec<_> = policy.machines[0].ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers, [22]);
        assert_eq!(policy.machines[0].ports[0].allowed.texts, ["10.0.0.0/8"]);
        let places: Vec<_> = left.iter().map(|left| left.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "requests",
                "virtualMachines[0].publicIpAddress",
                "virtualMachines[0].ports[0].allowedSourceAddressPrefixes[0]",
                "virtualMachines[0].ports[1].mappedPort",
                "virtualMachines[0].ports[1].allowedSourceAddressPrefix",
                "virtualMachines[0].ports[1]",
            ]
        );
    }
}
