//! The path of a policy: subscription, resource group, location and name.

use std::{fmt, str::FromStr};

/// The path of a policy, each part as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyId {
    /// The subscription.
    pub subscription: String,
    /// The resource group.
    pub resource_group: String,
    /// The location.
    pub location: String,
    /// The name.
    pub name: String,
}

impl PolicyId {
    /// Parts of the path, as a client calls it.
    pub fn parts(&self) -> [&str; 10] {
        [
            "subscriptions",
            &self.subscription,
            "resourceGroups",
            &self.resource_group,
            "providers",
            "Microsoft.Security",
            "locations",
            &self.location,
            "jitNetworkAccessPolicies",
            &self.name,
        ]
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

impl FromStr for PolicyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.trim().trim_matches('/').split('/').collect();
        let bad = || format!("{text:?} is not the path of a policy");
        let [_, subscription, _, resource_group, _, _, _, location, _, name] = parts[..] else {
            return Err(bad());
        };
        let id = Self {
            subscription: subscription.to_owned(),
            resource_group: resource_group.to_owned(),
            location: location.to_owned(),
            name: name.to_owned(),
        };
        // The names are there as they were written; the words between them are compared.
        let is_same =
            parts.iter().zip(id.parts()).all(|(one, part)| one.eq_ignore_ascii_case(part));
        match is_same && parts.iter().all(|part| !part.is_empty()) {
            true => Ok(id),
            false => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_in_any_case_and_written_as_azure_does() {
        let path = "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.Security/locations/eastus/\
                    jitNetworkAccessPolicies/default";
        let id: PolicyId = path.parse().unwrap();
        assert_eq!((id.subscription.as_str(), id.resource_group.as_str()), ("S", "Rg"));
        assert_eq!((id.location.as_str(), id.name.as_str()), ("eastus", "default"));
        assert_eq!(id.to_string(), path);
        let lower: PolicyId = path.replace("resourceGroups", "resourcegroups").parse().unwrap();
        assert_eq!(lower, id);
        for bad in
            ["", "default", "/subscriptions/s", &path.replace("Rg", ""), &format!("{path}/x")]
        {
            assert!(bad.parse::<PolicyId>().is_err(), "{bad}");
        }
    }
}
